"""What a segmentation leaves to its caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from ..models.feature_cache import FeatureCache

Region = tuple[tuple[int, int, int], tuple[int, int, int]]


@dataclass(frozen=True)
class SegmentationOptions:
    """How :func:`~.segmenting.segment` is to work, and what it gives besides labels.

    :param grow_strokes: grow strokes with the network's evidence; by default where a class has any.
        Strokes are kept either way, those of the background and what was erased as well.
    :param region: first and last voxel index + 1, ((x, y, z), (x, y, z)), outside which nothing is labeled.
    :param probabilities: also give each class's probability (the network's, before growing).
    :param uncertainty: also give the normalized entropy of the probabilities, and where to look next.
    :param around: look no further than this many mm from the strokes of classes (a preview of a large
        image); the result then covers that part of the image's grid.
    :param coarse_maps: leave the uncertainty on the model's grid, which for a large image is much smaller.
    :param quick: leave out what finer voxels and painted slices that predict each other would add, for a preview.
    :param keep_islands: leave organs that are one body (those of ``annotation.classes.is_one_body``) in as many parts
        as the network found; by default their small parts go, where there are no strokes to say what belongs to them.
    :param device: where a model that is given by name is loaded.
    :param name: of the image, in sentences.
    :param feature_cache: what is kept from one call to the next on the same image.
    """

    grow_strokes: Optional[bool] = None
    region: Optional[Region] = None
    probabilities: bool = False
    uncertainty: bool = False
    around: Optional[float] = None
    coarse_maps: bool = False
    quick: bool = False
    keep_islands: bool = False
    device: str = "auto"
    name: str = "image"
    feature_cache: Optional[FeatureCache] = None
