"""What a worker keeps from job to job: backbones, images by their keys, and what was computed of them."""

from __future__ import annotations

from typing import Any, Collection, Optional, Union

import SimpleITK as sitk

from ..annotation.example import Example
from ..errors import PromptSegError
from ..imaging.intensity import MODALITY
from ..progress import ProgressHandle
from .annotated import Annotated
from .contract import Learn, Prepare, Segment, Tune
from .messages import Message
from .packing import grid_of
from .thrift import Thrift

_AROUND = 50.0  # mm around the strokes that a preview of a large image looks at
_LARGE = 2_000_000  # voxels on the model's grid from which a preview looks only there


class Kept:
    """One backbone at a time, the images that jobs name, and a cache of features for both."""

    def __init__(self) -> None:
        self._images: dict[str, Union[Message, sitk.Image]] = {}
        self._backbones: dict[tuple[str, str], Any] = {}
        self.feature_cache: Any = None

    def add_image(self, message: Message) -> None:
        """Keep an image as it came; it is built by the first job that names it, which also tells what is wrong."""
        self._images[str(message.values["key"])] = message

    def keep_only(self, keys: Optional[Collection[str]]) -> None:
        """Drop all other images; None for none."""
        if keys is not None:
            self._images = {key: image for key, image in self._images.items() if key in keys}

    def release(self) -> None:
        """Let go of all that was computed for later."""
        self.feature_cache = None

    @property
    def device(self) -> Any:
        """Where the backbone is."""
        return next(iter(self._backbones.values())).device

    def backbone(self, request: Union[Prepare, Tune, Learn, Segment], thrift: Thrift, job: ProgressHandle) -> Any:
        """The backbone of that name on that device, loaded once; of all others, nothing is kept."""
        job.report("loading the model", 0.0)
        from ..models.backbone import load_model
        from ..models.feature_cache import FeatureCache

        device = "cpu" if thrift.cpu else request.device
        key = (request.model, device)
        if key not in self._backbones:
            self._backbones, self.feature_cache = {}, None  # before the next needs the memory
            self._backbones = {key: load_model(key[0] or None, key[1])}
        if self.feature_cache is None:
            self.feature_cache = FeatureCache() if thrift.caches else FeatureCache(0)
        return thrift.backbone(self._backbones[key])

    def image(self, key: str) -> sitk.Image:
        if key not in self._images:
            raise PromptSegError("The worker no longer has the volume; click again.")
        image = self._images[key]
        if isinstance(image, Message):
            modality = str(image.values.get("modality", ""))
            image = grid_of(image.values["grid"]).image(image.arrays["voxels"])
            image.SetMetaData(MODALITY, modality)
            self._images[key] = image
        return image

    def example(self, given: Annotated) -> Example:
        image, excluded = self.image(given.image), dict(given.excluded)
        return Example(image, given.annotation, given.background, given.complete, given.name, excluded, given.painted)

    def around(self, backbone, image: sitk.Image) -> Optional[float]:
        """How far a preview looks around the strokes of this image; None for everywhere."""
        large = self.feature_cache.volume(image, backbone.preprocessing).array.size > _LARGE
        return _AROUND if large else None
