"""The jobs a worker does: one method for each request of :mod:`.contract`.

Every job also gives device, in words, and note, a sentence, where memory was short and it was done with less (see
:mod:`.thrift`).
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any, Callable, Optional, Union

import numpy as np
import SimpleITK as sitk

from ..annotation.classes import ClassInfo, describe
from ..annotation.example import Example
from ..errors import PromptSegError
from ..imaging.intensity import MODALITY
from ..inference.options import SegmentationOptions
from ..inference.result import Segmentation
from ..progress import Job
from ..prompts.store import Prompts
from .contract import (
    Annotated,
    Grow,
    Learn,
    Packed,
    Prepare,
    Reply,
    Request,
    Segment,
    Specialize,
    Specialized,
    Taught,
    Tune,
    request_of,
)
from .messages import Message
from .packing import grid_of
from .remaining import Remaining
from .thrift import Thrift, sparingly

Emit = Callable[[dict[str, Any], dict[str, np.ndarray]], None]

_AROUND = 50.0  # mm around the strokes that a preview of a large image looks at
_GRACE = 5.0  # seconds after the user's in which a result is still in time
_AGAIN = 1.2  # times the seconds of the first look that the result takes after the tuning
_LEAST = 0.4  # of the user's seconds that are tuned in any case
_LARGE = 2_000_000  # voxels on the model's grid from which a preview looks only there


class Jobs:
    """What stays from job to job: backbones, images by their keys, and what was computed of them."""

    def __init__(self) -> None:
        self._images: dict[str, Union[Message, sitk.Image]] = {}
        self._backbones: dict[tuple[str, str], Any] = {}
        self._workspace: Any = None
        self._thrift = Thrift()
        self._began = 0.0
        self._tuned: Any = None  # prompts of the running job: memory that runs out afterwards does not cost them

    def add_image(self, message: Message) -> None:
        """Keep an image as it came; it is built by the first job that names it, which also tells what is wrong."""
        self._images[str(message.values["key"])] = message

    def run(self, message: Message, job: Job, emit: Emit) -> Packed:
        """Do a job; raises :class:`PromptSegError`, :class:`Cancelled`, or whatever goes wrong."""
        keep = set(message.values.get("keep", self._images))
        self._images = {key: image for key, image in self._images.items() if key in keep}
        request = request_of(message.values["name"], message.values, message.arrays)

        def attempt(thrift: Thrift) -> Packed:
            self._thrift = thrift
            return self._do(request, job, emit)

        self._began, self._tuned = time.monotonic(), None
        try:
            (gives, arrays), thrift = sparingly(attempt, job, lambda: self._on_gpu(request), self._release)
        finally:
            if not self._thrift.caches:
                self._release()  # the next job, perhaps on another volume, begins as usual
            self._thrift, self._tuned = Thrift(), None
        return {"device": self._device(request), **({"note": thrift.note} if thrift.note else {}), **gives}, arrays

    def _do(self, request: Request, job: Job, emit: Emit) -> Packed:
        if isinstance(request, Prepare):
            return self._prepare(request, job)
        if isinstance(request, Tune):
            return self._tune(request, job, emit).pack()
        if isinstance(request, Specialize):
            return self._specialize(request, job).pack()
        if isinstance(request, Learn):
            return self._learn(request, job).pack()
        if isinstance(request, Segment):
            return self._segment(request, job).pack()
        assert isinstance(request, Grow)
        return self._grow(request, job, emit).pack()

    def _on_gpu(self, request: Request) -> bool:
        from ..models.backbone import choose_device

        device = getattr(request, "device", None)  # growing needs none
        return device is not None and choose_device(device).type != "cpu"

    def _release(self) -> None:
        """Let go of all that was computed for later."""
        self._workspace = None

    def _device(self, request: Request) -> str:
        """Where a job was computed, in the user's words; growing needs no backbone, and is always on the CPU."""
        import torch

        device = torch.device("cpu") if isinstance(request, Grow) else next(iter(self._backbones.values())).device
        if device.type == "cuda":
            return f"{torch.cuda.get_device_name(device)} ({device})"
        count = torch.get_num_threads()
        processor = f"CPU, {count} thread{'s' if count > 1 else ''}"
        return {"cpu": processor, "mps": "Apple GPU"}.get(device.type, str(device))

    def _prepare(self, request: Prepare, job: Job) -> Packed:
        from ..imaging.checking import check_image
        from ..inference.evidence import sweep

        backbone = self._backbone(request, job)
        image = self._image(request.image)
        check_image(image, "The volume")
        if not self._thrift.caches:
            return {}, {}  # nothing could be kept of it
        volume = self._workspace.volume(image, backbone.preprocessing)
        sweep(backbone, volume.array, self._workspace.maps(image, backbone), job)
        job.check()
        _import_tuning()
        return {}, {}

    def _tune(self, request: Tune, job: Job, emit: Emit) -> Reply:
        from ..annotation.checking import check_examples
        from ..inference.retuning import retuned
        from ..tuning.kept_strokes import without

        remaining, seconds = Remaining(), self._settings(request).seconds
        remaining.expect(None if seconds is None else seconds + _GRACE)
        backbone = self._backbone(request, remaining.told(job.part(0.0, 0.02)))
        examples = [self._example(each) for each in request.examples]
        # Strokes of classes that are not tuned now are known not to be those that are.
        teaching = [without(each, request.others) for each in examples]
        check_examples(teaching, request.classes)  # before anything is shown
        wanted = list(request.classes if request.wanted is None else request.wanted)
        silent = Job(None, job.is_cancelled)

        def preview(prompts: Prompts) -> None:
            result = self._segmented(backbone, prompts, examples[0], wanted, silent, around=True)
            emit(*Reply(retuned(result, examples[0], request.accepted, wanted).local, prompts).pack())

        began, looked = time.monotonic(), None
        if request.previews and self._tuned is None:
            if request.start is not None and all(name in request.start.names for name in request.classes):
                preview(request.start)
            else:
                self._look(backbone, examples[0], _shown(request), silent, emit)
            looked = time.monotonic() - began
        if self._tuned is None:
            on_preview = preview if request.previews else None
            spent, part = time.monotonic() - self._began, remaining.told(job.part(0.02, 0.85))
            tuned = _in_time(self._settings(request), spent, looked).seconds
            remaining.expect(None if tuned is None or looked is None else tuned + _AGAIN * looked)
            options = self._options(request, others=request.others, on_preview=on_preview, looked=looked)
            self._tuned = self._tuned_by(request, backbone, examples, request.start, options, part)
        prompts, part = self._tuned, remaining.at_last(job.part(0.85, 1.0))
        result = self._segmented(backbone, prompts, examples[0], None, part, around=False)
        result = replace(result, notes=tuple(dict.fromkeys([*prompts.notes, *result.notes])))
        both = retuned(result, examples[0], request.accepted, wanted)
        return Reply(both.local, prompts, both.full)

    def _learn(self, request: Learn, job: Job) -> Taught:
        from ..annotation.checking import check_examples

        backbone = self._backbone(request, job.part(0.0, 0.02))
        examples = [self._example(each) for each in request.examples]
        check_examples(examples, request.classes)
        remaining = Remaining()
        remaining.expect(self._settings(request).seconds)
        part = remaining.told(job.part(0.02, 1.0))
        return Taught(self._tuned_by(request, backbone, examples, None, self._options(request), part))

    def _specialize(self, request: Specialize, job: Job) -> Specialized:
        from ..models import own
        from ..specializing.specialize import Effort, specialize

        backbone = self._backbone(request, job.part(0.0, 0.02))
        entry = specialize(
            [self._example(each) for each in request.examples],
            request.classes,
            request.called,
            backbone,
            effort=Effort(**request.settings),
            title=request.title,
            appearance={info.name: info for info in request.appearance},
            job=job.part(0.02, 1.0),
        )
        assert entry.prompts is not None
        notes = tuple(Prompts.load(entry.prompts).notes)
        return Specialized(entry.name, entry.sha256, own.files_of(entry), notes)

    def _options(self, request: Union[Tune, Learn], **further: Any) -> Any:
        from ..tuning.options import TuningOptions

        appearance = {info.name: info for info in request.appearance}
        return TuningOptions(appearance=appearance, workspace=self._workspace, **further)

    def _tuned_by(self, request: Union[Tune, Learn], backbone, examples, start, options, job: Job) -> Prompts:
        """Prompts tuned so that the result is there in time."""
        spent = time.monotonic() - self._began
        settings = _in_time(self._settings(request), spent, options.looked)
        return self._thrift.tune(
            examples, request.classes, backbone, start=start, settings=settings, options=options, job=job
        )

    def _settings(self, request: Union[Tune, Learn]) -> Any:
        """How to tune; another attempt has what is left of the time, or at least half of it."""
        from ..tuning.settings import Settings

        settings = Settings(**request.settings)
        if self._thrift.words and settings.seconds is not None:
            left = settings.seconds - (time.monotonic() - self._began)
            settings = replace(settings, seconds=max(left, settings.seconds / 2))
        return settings

    def _look(self, backbone, example: Example, infos: list[ClassInfo], job: Job, emit: Emit) -> None:
        """Send the first look, if the model ships something to look with."""
        from ..inference.quick import first_look

        options = SegmentationOptions(around=self._around(backbone, example.image), workspace=self._workspace)
        result = first_look(backbone, example, infos, options, job)
        if result is not None:
            emit(*Reply(result).pack())

    def _around(self, backbone, image: sitk.Image) -> Optional[float]:
        """How far a preview looks around the strokes of this image; None for everywhere."""
        large = self._workspace.volume(image, backbone.preprocessing).array.size > _LARGE
        return _AROUND if large else None

    def _segment(self, request: Segment, job: Job) -> Reply:
        backbone = self._backbone(request, job.part(0.0, 0.02))
        example = self._example(request.strokes) if request.strokes else None
        image, later = self._image(request.image), job.part(0.02, 1.0)
        return Reply(self._segmented(backbone, request.prompts, example, None, later, around=False, image=image))

    def _grow(self, request: Grow, job: Job, emit: Emit) -> Reply:
        from ..annotation.checking import check_strokes
        from ..inference.stroke_regions import segment_strokes

        example = self._example(request.example)
        check_strokes(example, request.classes)
        infos = _shown(request)
        silent = Job(None, job.is_cancelled)
        if self._thrift.coarse or request.previews:
            quick = Reply(segment_strokes(example, infos, quick=True, accepted=request.accepted, job=silent))
            if self._thrift.coarse:
                return quick
            emit(*quick.pack())
        # What is found is shown before it is told how well held-back slices agree: that takes as long again.
        on_found = (lambda found: emit(*Reply(found).pack())) if request.previews else None
        found = segment_strokes(example, infos, accepted=request.accepted, job=job, checked=True, on_found=on_found)
        return Reply(found)

    def _segmented(
        self,
        backbone,
        prompts,
        example: Optional[Example],
        classes: Optional[list[str]],
        job: Job,
        around: bool,
        image: Optional[sitk.Image] = None,
    ) -> Segmentation:
        from ..inference.segmenting import segment

        image = example.image if image is None and example else image
        assert image is not None
        options = SegmentationOptions(
            around=self._around(backbone, image) if around else None,
            uncertainty=not around,
            coarse_maps=True,
            quick=around or self._thrift.coarse,
            name=example.name if example else "The volume",
            workspace=self._workspace,
        )
        return segment(prompts, image, backbone, classes=classes, strokes=example, options=options, job=job)

    def _backbone(self, request: Union[Prepare, Tune, Learn, Segment], job: Job):
        """The backbone of that name on that device, loaded once; of all others, nothing is kept."""
        job.report("loading the model", 0.0)
        from ..models.backbone import load_model
        from ..models.workspace import Workspace

        device = "cpu" if self._thrift.cpu else request.device
        key = (request.model, device)
        if key not in self._backbones:
            self._backbones, self._workspace = {}, None  # before the next needs the memory
            self._backbones = {key: load_model(key[0] or None, key[1])}
        if self._workspace is None:
            self._workspace = Workspace() if self._thrift.caches else Workspace(0)
        return self._thrift.backbone(self._backbones[key])

    def _image(self, key: str) -> sitk.Image:
        if key not in self._images:
            raise PromptSegError("The worker no longer has the volume; click again.")
        image = self._images[key]
        if isinstance(image, Message):
            modality = str(image.values.get("modality", ""))
            image = grid_of(image.values["grid"]).image(image.arrays["voxels"])
            image.SetMetaData(MODALITY, modality)
            self._images[key] = image
        return image

    def _example(self, given: Annotated) -> Example:
        image, barred = self._image(given.image), dict(given.barred)
        return Example(image, given.annotation, given.background, given.complete, given.name, barred, given.painted)


def _shown(request: Union[Tune, Grow]) -> list[ClassInfo]:
    """The classes of a request as they are to look."""
    known = {info.name: info for info in request.appearance}
    classes = request.classes.items()
    return [replace(known.get(name) or describe(name, value), value=value) for name, value in classes]


def threads_wanted() -> int:
    """How many threads to compute with: ``OMP_NUM_THREADS`` where set, else one per core that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on Linux
        return max(1, (os.cpu_count() or 2) // 2)


def _in_time(settings: Any, spent: float, looked: Optional[float]) -> Any:
    """Settings with which the result, not only the tuning, is there soon after the user's seconds.

    :param spent: seconds since the job began.
    :param looked: seconds that the first look took, None without one.
    """
    if settings.seconds is None or looked is None:
        return settings
    left = settings.seconds + _GRACE - spent - _AGAIN * looked
    return replace(settings, seconds=min(settings.seconds, max(left, _LEAST * settings.seconds)))


def _import_tuning() -> None:
    """Let a first tuning find what it needs: its modules, and those that torch imports with its first optimizer take
    some three seconds of a core."""
    import torch

    from ..tuning import training, tuner  # noqa: F401

    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
