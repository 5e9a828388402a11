"""The jobs a worker does: one method for each request of :mod:`.contract`.

Every job also gives device, in words, and note, a sentence, where memory was short and it was done with less (see
:mod:`.thrift`).
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any, Callable, Mapping, Optional, Union

import numpy as np
import SimpleITK as sitk

from ..annotation.classes import ClassInfo, describe
from ..annotation.example import Example
from ..inference.options import SegmentationOptions
from ..inference.result import Segmentation
from ..progress import ProgressHandle
from ..prompts.store import Prompts
from .contract import (
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
from .kept import Kept
from .messages import Message
from .remaining import Remaining
from .thrift import Thrift, sparingly

Emit = Callable[[dict[str, Any], dict[str, np.ndarray]], None]
Answer = Union[Reply, Taught, Specialized]

_GRACE = 5.0  # seconds after the user's in which a result is still in time
_AGAIN = 1.2  # times the seconds of the first look that the result takes after the tuning
_LEAST = 0.4  # of the user's seconds that are tuned in any case


class JobHandlers:
    """Does jobs, one after the other.

    :ivar kept: what stays from job to job.
    """

    def __init__(self) -> None:
        self.kept = Kept()
        self._thrift = Thrift()
        self._began = 0.0
        self._tuned: Any = None  # prompts of the running job: memory that runs out afterwards does not cost them

    def add_image(self, message: Message) -> None:
        """Keep an image for the jobs that name it."""
        self.kept.add_image(message)

    def run(self, message: Message, job: ProgressHandle, emit: Emit) -> Packed:
        """Do a job; raises :class:`PromptSegError`, :class:`Cancelled`, or whatever goes wrong."""
        self.kept.keep_only(message.values.get("keep"))
        request = request_of(message.values["name"], message.values, message.arrays)

        def attempt(thrift: Thrift) -> Packed:
            self._thrift = thrift
            return self._do(request, job, emit)

        self._began, self._tuned = time.monotonic(), None
        try:
            (gives, arrays), thrift = sparingly(attempt, job, lambda: self._on_gpu(request), self.kept.release)
        finally:
            if not self._thrift.caches:
                self.kept.release()  # the next job, perhaps on another volume, begins as usual
            self._thrift, self._tuned = Thrift(), None
        return {"device": self._device(request), **({"note": thrift.note} if thrift.note else {}), **gives}, arrays

    def _do(self, request: Request, job: ProgressHandle, emit: Emit) -> Packed:
        does: Mapping[type, Callable[[Any, ProgressHandle, Emit], Optional[Answer]]] = {
            Prepare: self._prepare,
            Tune: self._tune,
            Learn: self._learn,
            Specialize: self._specialize,
            Segment: self._segment,
            Grow: self._grow,
        }
        reply = does[type(request)](request, job, emit)
        return reply.pack() if reply is not None else ({}, {})

    def _on_gpu(self, request: Request) -> bool:
        from ..models.backbone import choose_device

        device = getattr(request, "device", None)  # growing needs none
        return device is not None and choose_device(device).type != "cpu"

    def _device(self, request: Request) -> str:
        """Where a job was computed, in the user's words; growing needs no backbone, and is always on the CPU."""
        import torch

        device = torch.device("cpu") if isinstance(request, Grow) else self.kept.device
        if device.type == "cuda":
            return f"{torch.cuda.get_device_name(device)} ({device})"
        count = torch.get_num_threads()
        processor = f"CPU, {count} thread{'s' if count > 1 else ''}"
        return {"cpu": processor, "mps": "Apple GPU"}.get(device.type, str(device))

    def _prepare(self, request: Prepare, job: ProgressHandle, emit: Emit) -> None:
        from ..imaging.checking import check_image
        from ..inference.class_margins import encode_tiles

        backbone = self.kept.backbone(request, self._thrift, job)
        image = self.kept.image(request.image)
        check_image(image, "The volume")
        if not self._thrift.caches:
            return  # nothing could be kept of it
        volume = self.kept.feature_cache.volume(image, backbone.preprocessing)
        encode_tiles(backbone, volume.array, self.kept.feature_cache.maps(image, backbone), job)
        job.check()
        _import_tuning()

    def _tune(self, request: Tune, job: ProgressHandle, emit: Emit) -> Reply:
        from ..annotation.checking import check_examples
        from ..inference.retuning import retuned
        from ..tuning.kept_strokes import without

        remaining, seconds = Remaining(), self._settings(request).seconds
        remaining.expect(None if seconds is None else seconds + _GRACE)
        examples = [self.kept.example(each) for each in request.examples]
        # Strokes of classes that are not tuned now are known not to be those that are.
        teaching = [without(each, request.others) for each in examples]
        check_examples(teaching, request.classes)  # before anything is shown
        wanted = list(request.classes if request.wanted is None else request.wanted)
        silent, again = ProgressHandle(None, job.is_cancelled), self._tuned is not None
        known = request.start is not None and all(name in request.start.names for name in request.classes)
        if request.previews and not (again or known or request.grown):
            self._show_grown(teaching[0], _shown(request), silent, emit)
        backbone = self.kept.backbone(request, self._thrift, remaining.told(job.part(0.0, 0.02)))

        def preview(prompts: Prompts) -> None:
            result = self._segmented(backbone, prompts, examples[0], wanted, silent, around=True)
            emit(*Reply(retuned(result, examples[0], request.accepted, wanted).shown, prompts).pack())

        began, looked = time.monotonic(), None
        if request.previews and not again:
            if request.start is not None and known:
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
        return Reply(both.shown, prompts, both.other, both.keeps)

    def _learn(self, request: Learn, job: ProgressHandle, emit: Emit) -> Taught:
        from ..annotation.checking import check_examples

        backbone = self.kept.backbone(request, self._thrift, job.part(0.0, 0.02))
        examples = [self.kept.example(each) for each in request.examples]
        check_examples(examples, request.classes)
        remaining = Remaining()
        remaining.expect(self._settings(request).seconds)
        part = remaining.told(job.part(0.02, 1.0))
        return Taught(self._tuned_by(request, backbone, examples, None, self._options(request), part))

    def _specialize(self, request: Specialize, job: ProgressHandle, emit: Emit) -> Specialized:
        from ..models import own
        from ..specializing.specialize import Effort, specialize

        backbone = self.kept.backbone(request, self._thrift, job.part(0.0, 0.02))
        entry = specialize(
            [self.kept.example(each) for each in request.examples],
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
        return TuningOptions(appearance=appearance, feature_cache=self.kept.feature_cache, **further)

    def _tuned_by(
        self, request: Union[Tune, Learn], backbone, examples, start, options, job: ProgressHandle
    ) -> Prompts:
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

    def _show_grown(self, example: Example, infos: list[ClassInfo], job: ProgressHandle, emit: Emit) -> None:
        """Send what is painted, grown in haste: it takes a second, where a look with the model takes five."""
        from ..inference.stroke_regions import segment_strokes

        result = segment_strokes(example, infos, quick=True, job=job)
        if np.any(sitk.GetArrayViewFromImage(result.labels)):  # of these classes, perhaps only others show something
            emit(*Reply(result).pack())

    def _look(self, backbone, example: Example, infos: list[ClassInfo], job: ProgressHandle, emit: Emit) -> None:
        """Send the first look, if the model ships something to look with."""
        from ..inference.zero_shot_preview import zero_shot_preview

        options = SegmentationOptions(
            around=self.kept.around(backbone, example.image), feature_cache=self.kept.feature_cache
        )
        result = zero_shot_preview(backbone, example, infos, options, job)
        if result is not None:
            emit(*Reply(result).pack())

    def _segment(self, request: Segment, job: ProgressHandle, emit: Emit) -> Reply:
        backbone = self.kept.backbone(request, self._thrift, job.part(0.0, 0.02))
        example = self.kept.example(request.strokes) if request.strokes else None
        image, later = self.kept.image(request.image), job.part(0.02, 1.0)
        return Reply(self._segmented(backbone, request.prompts, example, None, later, around=False, image=image))

    def _grow(self, request: Grow, job: ProgressHandle, emit: Emit) -> Reply:
        from ..annotation.checking import check_strokes
        from ..inference.stroke_regions import segment_strokes

        example = self.kept.example(request.example)
        check_strokes(example, request.classes)
        infos = _shown(request)
        silent = ProgressHandle(None, job.is_cancelled)
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
        job: ProgressHandle,
        around: bool,
        image: Optional[sitk.Image] = None,
    ) -> Segmentation:
        from ..inference.segmenting import segment

        image = example.image if image is None and example else image
        assert image is not None
        options = SegmentationOptions(
            around=self.kept.around(backbone, image) if around else None,
            uncertainty=not around,
            coarse_maps=True,
            quick=around or self._thrift.coarse,
            name=example.name if example else "The volume",
            feature_cache=self.kept.feature_cache,
        )
        return segment(prompts, image, backbone, classes=classes, strokes=example, options=options, job=job)


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

    from ..tuning import optimization, training  # noqa: F401

    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
