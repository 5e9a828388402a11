"""The jobs a worker does. Values and arrays are those of a message of kind ``job``.

``prepare``  model, device, image. Brings an image to the model's grid and encodes it, so that what follows is quick.
``tune``     model, device, settings, classes (name -> value), wanted (those to preview), others (values of other
             classes that are painted too), appearance, previews (false for none), examples (the first is the one to
             segment), arrays ``annotation0``.., optionally ``start`` (prompts). Sends previews and gives the same: a
             segmentation and, but for the first look, array ``prompts``.
``segment``  model, device, image, array ``prompts``, optionally strokes (as an example) and array ``annotation0``.
``grow``     classes, appearance, examples (one), array ``annotation0``: what is painted, grown, without any model.
             Sends a quick preview first (previews: false for none). Optionally accepted (a grid) and array
             ``accepted``, the labels of a result that is corrected: then only what the corrections touch changes.

Every job also gives device, in words, and note, a sentence, where memory was short and it was done with less (see
:mod:`.thrift`). An example is image (a key), name, grid (of its annotation), background,
complete, barred. A segmentation is grid, classes and array ``labels`` (cropped to what is not 0), places (world
points, LPS mm), notes (sentences for the user), map_grid and array ``map`` (uncertainty, 0..255).
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
from ..errors import PromptSegError
from ..imaging.geometry import Grid
from ..imaging.intensity import MODALITY
from ..inference.result import Segmentation
from ..progress import Job
from .messages import Message
from .packing import grid_of, grid_values, infos_of, packed_infos, packed_labels, packed_prompts, prompts_of
from .thrift import Thrift, sparingly

Gives = tuple[dict[str, Any], dict[str, np.ndarray]]
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

    def run(self, message: Message, job: Job, emit: Emit) -> Gives:
        """Do a job; raises :class:`PromptSegError`, :class:`Cancelled`, or whatever goes wrong."""
        keep = set(message.values.get("keep", self._images))
        self._images = {key: image for key, image in self._images.items() if key in keep}
        steps = {"prepare": self._prepare, "tune": self._tune, "segment": self._segment, "grow": self._grow}
        name = message.values["name"]
        if name not in steps:
            raise PromptSegError(f"The worker does not know the job {name!r}; update PromptSeg on both machines.")

        def attempt(thrift: Thrift) -> Gives:
            self._thrift = thrift
            return steps[name](message.values, message.arrays, job, emit)

        self._began, self._tuned = time.monotonic(), None
        try:
            on_gpu = lambda: name != "grow" and self._on_gpu(message.values)  # noqa: E731
            (gives, arrays), thrift = sparingly(attempt, job, on_gpu, self._release)
        finally:
            if not self._thrift.caches:
                self._release()  # the next job, perhaps on another volume, begins as usual
            self._thrift, self._tuned = Thrift(), None
        return {"device": self._device(name), **({"note": thrift.note} if thrift.note else {}), **gives}, arrays

    def _on_gpu(self, values: Mapping) -> bool:
        from ..models.backbone import choose_device

        return choose_device(str(values.get("device") or "auto")).type != "cpu"

    def _release(self) -> None:
        """Let go of all that was computed for later."""
        self._workspace = None

    def _device(self, name: str) -> str:
        """Where a job was computed, in the user's words; growing needs no backbone, and is always on the CPU."""
        import torch

        device = torch.device("cpu") if name == "grow" else next(iter(self._backbones.values())).device
        if device.type == "cuda":
            return f"{torch.cuda.get_device_name(device)} ({device})"
        count = torch.get_num_threads()
        processor = f"CPU, {count} thread{'s' if count > 1 else ''}"
        return {"cpu": processor, "mps": "Apple GPU"}.get(device.type, str(device))

    def _prepare(self, values: Mapping, arrays: Mapping, job: Job, emit: Emit) -> Gives:
        from ..imaging.checking import check_image
        from ..inference.evidence import sweep

        backbone = self._backbone(values, job)
        image = self._image(values["image"])
        check_image(image, "The volume")
        if not self._thrift.caches:
            return {}, {}  # nothing could be kept of it
        volume = self._workspace.volume(image, backbone.preprocessing)
        sweep(backbone, volume.array, self._workspace.maps(image, backbone), job)
        return {}, {}

    def _tune(self, values: Mapping, arrays: Mapping, job: Job, emit: Emit) -> Gives:
        from ..annotation.checking import check_examples
        from ..tuning.parts import without

        backbone = self._backbone(values, job.part(0.0, 0.02))
        examples = [self._example(each, arrays, index) for index, each in enumerate(values["examples"])]
        # Strokes of classes that are not tuned now are known not to be those that are.
        teaching = [without(each, values.get("others", [])) for each in examples]
        classes = {str(name): int(value) for name, value in values["classes"].items()}
        start = prompts_of(arrays["start"]) if "start" in arrays else None
        check_examples(teaching, classes)  # before anything is shown
        wanted = list(values.get("wanted", classes))
        silent = Job(None, job.is_cancelled)

        def preview(prompts) -> None:
            gives, labels = self._segmented(backbone, prompts, examples[0], wanted, silent, around=True)
            emit(gives, {**labels, "prompts": packed_prompts(prompts)})

        appearance = {info.name: info for info in infos_of(values.get("appearance", []))}
        began, looked = time.monotonic(), None
        if values.get("previews", True) and self._tuned is None:
            if start is not None and all(name in start.names for name in classes):
                preview(start)
            else:
                shown = {name: appearance.get(name) or describe(name, value) for name, value in classes.items()}
                infos = [replace(shown[name], value=value) for name, value in classes.items()]
                self._look(backbone, examples[0], infos, silent, emit)
            looked = time.monotonic() - began
        if self._tuned is None:
            on_preview = preview if values.get("previews", True) else None
            self._tuned = self._tuned_by(
                values, backbone, teaching, classes, start, appearance, job.part(0.02, 0.85), on_preview, looked
            )
        prompts = self._tuned
        gives, labels = self._segmented(backbone, prompts, examples[0], None, job.part(0.85, 1.0), around=False)
        gives["notes"] = list(dict.fromkeys([*prompts.notes, *gives["notes"]]))
        return gives, {**labels, "prompts": packed_prompts(prompts)}

    def _tuned_by(self, values, backbone, examples, classes, start, appearance, job, on_preview, looked) -> Any:
        """Prompts tuned with as many classes at once as memory is thought to hold."""
        from ..tuning.parts import tune_in_parts
        from ..tuning.tuning import tune

        given = {"start": start, "appearance": appearance, "job": job, "workspace": self._workspace}
        parts = [{name: classes[name] for name in part} for part in self._thrift.parts_of(list(classes))]
        settings = _in_time(self._settings(values), time.monotonic() - self._began, looked)
        if len(parts) > 1:
            return tune_in_parts(examples, parts, backbone, settings=settings, **given)
        return tune(examples, classes, backbone, settings=settings, on_preview=on_preview, looked=looked, **given)

    def _settings(self, values: Mapping) -> Any:
        """How to tune; another attempt has what is left of the time, or at least half of it."""
        from ..tuning.settings import Settings

        settings, thrift = Settings(**values.get("settings", {})), self._thrift
        if thrift.words and settings.seconds is not None:
            left = settings.seconds - (time.monotonic() - self._began)
            settings = replace(settings, seconds=max(left, settings.seconds / 2))
        return settings if thrift.crops is None else replace(settings, crops=min(settings.crops, thrift.crops))

    def _look(self, backbone, example: Example, infos: list[ClassInfo], job: Job, emit: Emit) -> None:
        """Send the first look, if the model ships something to look with."""
        from ..inference.quick import first_look

        result = first_look(backbone, example, infos, self._workspace, self._around(backbone, example.image), job)
        if result is not None:
            emit(*_packed(result))

    def _around(self, backbone, image: sitk.Image) -> Optional[float]:
        """How far a preview looks around the strokes of this image; None for everywhere."""
        large = self._workspace.volume(image, backbone.preprocessing).array.size > _LARGE
        return _AROUND if large else None

    def _segment(self, values: Mapping, arrays: Mapping, job: Job, emit: Emit) -> Gives:
        backbone = self._backbone(values, job.part(0.0, 0.02))
        prompts = prompts_of(arrays["prompts"])
        example = self._example(values["strokes"], arrays, 0) if values.get("strokes") else None
        image = example.image if example else self._image(values["image"])
        return self._segmented(backbone, prompts, example, None, job.part(0.02, 1.0), around=False, image=image)

    def _grow(self, values: Mapping, arrays: Mapping, job: Job, emit: Emit) -> Gives:
        from ..annotation.checking import check_strokes
        from ..inference.stroke_regions import segment_strokes

        example = self._example(values["examples"][0], arrays, 0)
        classes = {str(name): int(value) for name, value in values["classes"].items()}
        check_strokes(example, classes)
        appearance = {info.name: info for info in infos_of(values.get("appearance", []))}
        infos = [replace(appearance.get(name) or describe(name, value), value=value) for name, value in classes.items()]
        accepted = grid_of(values["accepted"]).image(arrays["accepted"]) if "accepted" in arrays else None
        silent = Job(None, job.is_cancelled)
        if self._thrift.coarse or values.get("previews", True):
            quick = segment_strokes(example, infos, quick=True, accepted=accepted, job=silent)
            if self._thrift.coarse:
                return _packed(quick)
            emit(*_packed(quick))
        return _packed(segment_strokes(example, infos, accepted=accepted, job=job))

    def _segmented(
        self,
        backbone,
        prompts,
        example: Optional[Example],
        classes: Optional[list[str]],
        job: Job,
        around: bool,
        image: Optional[sitk.Image] = None,
    ) -> Gives:
        from ..inference.segmenting import segment

        image = example.image if image is None and example else image
        assert image is not None
        result = segment(
            prompts,
            image,
            backbone,
            classes=classes,
            strokes=example,
            around=self._around(backbone, image) if around else None,
            uncertainty_wanted=not around,
            coarse_maps=True,
            quick=around or self._thrift.coarse,
            job=job,
            name=example.name if example else "The volume",
            workspace=self._workspace,
        )
        return _packed(result)

    def _backbone(self, values: Mapping, job: Job):
        """The backbone of that name on that device, loaded once; of all others, nothing is kept."""
        job.report("loading the model", 0.0)
        from ..models.backbone import load_model
        from ..models.workspace import Workspace

        device = "cpu" if self._thrift.cpu else str(values.get("device") or "auto")
        key = (str(values.get("model") or ""), device)
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

    def _example(self, values: Mapping, arrays: Mapping, index: int) -> Example:
        annotation = grid_of(values["grid"]).image(arrays[f"annotation{index}"])
        return Example(
            self._image(values["image"]),
            annotation,
            values.get("background"),
            bool(values.get("complete")),
            str(values.get("name", "The volume")),
            {int(value): int(other) for value, other in values.get("barred", {}).items()},
        )


def _packed(result: Segmentation) -> Gives:
    """A segmentation as the values and arrays of a message."""
    grid, labels = packed_labels(result.labels)
    values: dict[str, Any] = {
        "grid": grid,
        "classes": packed_infos(result.classes),
        "places": result.places,
        "notes": list(result.notes),
    }
    arrays = {"labels": labels}
    if result.uncertainty is not None:
        values["map_grid"] = grid_values(Grid.of(result.uncertainty))
        unsure = sitk.GetArrayViewFromImage(result.uncertainty)
        arrays["map"] = np.round(np.clip(unsure, 0, 1) * 255).astype(np.uint8)
    return values, arrays


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
