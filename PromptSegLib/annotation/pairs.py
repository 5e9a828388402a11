"""An image and its annotation from files, of which either may say twice, and differently, where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Union

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError
from ..imaging.geometry import Grid
from ..imaging.nifti import Header
from ..imaging.reading import read_annotation, read_image

_TWO = "holds two positions, a qform and an sform that differ"


def read_pair(
    image_path: Union[str, Path], annotation_path: Union[str, Path], tell: Callable[[str], None]
) -> tuple[sitk.Image, sitk.Image]:
    """The image and the label volume of two files, see :mod:`.reading`; raises :class:`PromptSegError` as these do.

    An annotation that lies where the image's qform says, or where its sform says, is taken as painted on the image's
    own voxels, whichever of them counts. Where only one of them fits, ``tell`` gets a sentence for the user; where
    what fits is a position of the annotation that does not count, it is refused, and so is a copy of the image.
    """
    image, annotation = read_image(image_path), read_annotation(annotation_path)
    same = image.GetSize() == annotation.GetSize()
    if same and np.array_equal(sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(annotation)):
        raise PromptSegError(
            "{annotation} holds the voxels of the image {image} itself; give the file with what was painted on it.",
            annotation=Path(annotation_path).name,
            image=Path(image_path).name,
        )
    return image, fitted(annotation, Path(annotation_path), image, Path(image_path), tell)


def fitted(
    annotation: sitk.Image, annotation_path: Path, image: sitk.Image, image_path: Path, tell: Callable[[str], None]
) -> sitk.Image:
    """The annotation, on the image's own grid if it is meant so; see :func:`read_pair`."""
    own, other = _positions(image, image_path), _positions(annotation, annotation_path)
    names = image_path.name, annotation_path.name
    if len(own) == len(other) and all(a.same_as(b) for a, b in zip(own, other)) or len(own) == len(other) == 1:
        return annotation
    if own[0].same_as(other[0]):
        two, one = names if len(own) > 1 else names[::-1]
        tell(f"{two} {_TWO}, and {one} fits one of them: the one that counts.")
    elif len(other) == 1 and other[0].same_as(own[1]):
        tell(f"{names[0]} {_TWO}, and {names[1]} fits one of them: it is taken as painted on the same voxels.")
        annotation.CopyInformation(image)
    elif any(a.same_as(b) for a in own for b in other):
        raise PromptSegError(
            "{annotation} {two}; the one that counts does not fit {image}, so save it with the other alone.",
            annotation=names[1],
            two=_TWO,
            image=names[0],
        )
    return annotation


def _positions(image: sitk.Image, path: Path) -> list[Grid]:
    """Where a file says that its voxels lie: what counts, and what else it says."""
    header, grid = Header.of(path), Grid.of(image)
    return [grid, *(each for each in (header.forms().values() if header else ()) if not each.same_as(grid))]
