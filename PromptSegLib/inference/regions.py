"""Painted structures, grown from their strokes with the network's evidence, and brought to the image's own grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Collection, Optional, Sequence

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import label as numbered_parts
from scipy.special import logit

from ..annotation.labels import UNKNOWN
from ..errors import Sentence
from ..growing.grow import Grown, Region, grow_regions
from ..growing.guard import Verdict
from ..growing.model import growing_network
from ..growing.network import GrowingNet
from ..imaging.geometry import Grid
from ..models.matching import KNOWN
from ..progress import ProgressHandle
from .class_margins import Probabilities
from .held_back import agreement_notes
from .resample_to_image import interpolated

_UNPAINTED = 1.0  # the highest score of a class that is known to the network but not painted
_SURE = 2.5e-3  # no probability is further from 0 or 1 in its logit than an answer of learned growing
_SMALL = 0.1  # of the largest part of a structure: smaller parts without a stroke are no part of it


class SharedEvidence:
    """Probabilities on a model's grid, one class at a time on any other.

    :param rows: class (from 1) -> its row of the probabilities; of classes that are not listed, nothing is said.
    :param known: classes that the backbone was taught: what it says of them counts as much as learned growing does.
    """

    def __init__(self, shares: Probabilities, grid: Grid, rows: dict[int, int], known: Collection[int] = ()):
        self._shares, self._grid, self._rows, self.known = shares, grid, rows, known

    def on(self, index: int, grid: Grid) -> Optional[np.ndarray]:
        """Probability float32 (z, y, x) of a class on ``grid``; None where nothing is known of it."""
        if index not in self._rows:
            return None
        return np.clip(interpolated(self._shares[self._rows[index]], self._grid, grid), 0, 1)


def grown_regions(
    image: sitk.Image,
    painted: np.ndarray,
    count: int,
    evidence: Optional[SharedEvidence] = None,
    quick: bool = False,
    verdicts: Optional[Sequence[Verdict]] = None,
    job: Optional[ProgressHandle] = None,
    network: Optional[GrowingNet] = None,
) -> Optional[Grown]:
    """:func:`~PromptSegLib.growing.grow.grow_regions`, unless told otherwise with the network that comes along.

    Parts of a region that are far smaller than its largest and hold no stroke are left out.
    """
    grown = grow_regions(image, painted, count, network or growing_network(), evidence, quick, verdicts, job)
    if grown is not None:
        for index, region in enumerate(grown.regions, 1):
            if evidence is not None and index in evidence.known and grown.verdicts[index - 1] is Verdict.LEARNED:
                shares = evidence.on(index, region.place.grid)
                if shares is not None and region.painted:
                    region.logits = (region.logits + logit(np.clip(shares, _SURE, 1 - _SURE))) / 2
            _drop_small_parts(region, region.place.strokes(painted) == index)
    return grown


def agrees_with_strokes(shares: np.ndarray, painted: np.ndarray, index: int) -> bool:
    """Whether what a network says of a class that it was taught is what was painted of it, in an image that may be
    of another kind than those that it was taught on; True where nothing is.

    :param shares: probability (z, y, x) of the class.
    :param painted: what is painted, on the same grid, as :mod:`..annotation.labels` has it.
    """
    own, told = painted == index, (painted >= 0) | (painted == UNKNOWN - index)
    said = (shares > 0.5) & told
    both = own.sum() + said.sum()
    return not own.any() or bool(2 * (own & said).sum() >= KNOWN * both)


def unaided(grown: Grown, classes: Collection[int]) -> Grown:
    """What was grown, with a word on classes (from 1) whose evidence was left out."""
    ways = enumerate(grown.verdicts, 1)
    alone = (Verdict.LEARNED_ALONE if i in classes and way is Verdict.LEARNED else way for i, way in ways)
    return replace(grown, verdicts=tuple(alone))


def _drop_small_parts(region: Region, strokes: np.ndarray) -> None:
    parts, number = numbered_parts(region.logits > 0)
    if number < 2:
        return
    sizes = np.bincount(parts.ravel())
    small = sizes < _SMALL * sizes[1:].max()
    small[np.unique(parts[strokes])] = False
    small[0] = False
    region.logits[small[parts]] = np.minimum(region.logits[small[parts]], -1.0)


def regions_before_scores(grown: Grown, scores: Sequence[tuple[np.ndarray, Grid]]) -> list[tuple[np.ndarray, Grid]]:
    """What competes for an image's voxels: regions of the classes that are painted, the network's scores of the others.

    Where a region is certain, no score takes its voxels.
    """
    fields = []
    for region, (values, grid) in zip(grown.regions, scores):
        if region.painted:
            fields.append((region.logits, region.place.grid))
        else:
            fields.append((np.minimum(values, np.float16(_UNPAINTED)), grid))
    return fields


def notes_of(names: Sequence[str], grown: Grown) -> tuple[str, ...]:
    """How good the result is, as far as that can be told, and a sentence for each way of growing that is not the usual
    one."""
    agreements = enumerate(grown.agreements)  # None of a class that is painted on several slices: nobody has looked
    told = [i for i, each in agreements if each is not None or (i + 1 in grown.once and grown.regions[i].painted)]
    notes = [*agreement_notes([names[index] for index in told], [grown.agreements[index] for index in told])]
    verdicts = grown.verdicts
    plain = ", ".join(name for name, each in zip(names, verdicts) if each is Verdict.PLAIN)
    alone = ", ".join(name for name, each in zip(names, verdicts) if each is Verdict.LEARNED_ALONE)
    if plain:
        notes.append(
            Sentence(
                "Grown as Grow from seeds does, which fits the painted slices or the edges better: {plain}.",
                plain=plain,
            )
        )
    if alone:
        notes.append(
            Sentence("Grown without the model, whose answer does not fit the painted slices: {alone}.", alone=alone)
        )
    return tuple(notes)
