"""Corrections stay local: what was accepted and not touched remains as it is.

Labels are int (z, y, x): 0 none, k the k-th class. What was painted is labeled as in ``annotation.labels``.
"""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np
from scipy.ndimage import label as numbered_parts
from scipy.ndimage import maximum_filter1d

from ..annotation.labels import UNKNOWN
from ..imaging.geometry import Box, Grid, bounding_box
from .grids import domain, working_grid
from .plausible import is_plausible

_REACH = 4  # steps of the grid on which classes are grown: changes so near to what was painted always count
_JITTER = 1  # such steps: by as much borders move without a reason
_DENIED = 0.1  # of the strokes of a class: a change that lies beside more of them than that is not believed
_TOUCHING = np.ones((3, 3, 3), bool)


def near_corrections(
    accepted: np.ndarray,
    grown: np.ndarray,
    painted: np.ndarray,
    painted_before: Optional[np.ndarray] = None,
    steps: Sequence[float] = (1.0, 1.0, 1.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> np.ndarray:
    """Labels that differ from the accepted ones only where that has to do with what was painted or erased since.

    A part (26 neighbors) of what would change is taken where it touches a correction, unless it goes against strokes
    elsewhere: where a class collapses, only what is near the correction is believed. That borders move a little
    all around an organ connects nothing: it is taken near what is painted and beside what is taken, and not elsewhere.
    And a class only gains where it was painted, and only loses where it was denied, see :mod:`.plausible`.

    :param accepted: labels before; classes of which nothing is grown may have numbers of their own.
    :param grown: labels as they would be now.
    :param painted: what is painted now.
    :param painted_before: what was painted when the labels were accepted; without it, what contradicts them counts.
    :param steps: voxels (z, y, x) by which growing is exact: the steps of its working grid.
    :param spacing: mm (z, y, x).
    :return: as ``grown``, what is painted and erased honored.
    """
    result = accepted.astype(grown.dtype)
    touched = contradictions(accepted, painted)
    if painted_before is not None:
        touched |= painted != painted_before
    changed = accepted != grown
    box = bounding_box(changed)
    if box is not None and touched.any():
        reach, jitter = ([max(1, round(each * step)) for step in steps] for each in (_REACH, _JITTER))
        box = _wider(box, np.maximum(reach, jitter).tolist(), changed.shape)
        many = np.bincount(painted[painted >= 0])
        taken = _taken(result[box], grown[box], painted[box], many, touched[box], reach, jitter)
        exact = min(step * own for step, own in zip(steps, spacing))
        taken = is_plausible(taken, result[box], grown[box], painted[box], touched[box], spacing, exact)
        result[box] = np.where(taken, grown[box], result[box])
    known = painted >= 0
    result[known] = painted[known]
    erased = painted < UNKNOWN
    still = result[erased] == UNKNOWN - painted[erased]
    result[erased] = np.where(still, 0, result[erased])
    return result


def contradictions(accepted: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """Where what is painted or erased is not what was accepted, bool (z, y, x)."""
    wrong = (painted >= 0) & (painted != accepted)
    return wrong | ((painted < UNKNOWN) & (accepted == UNKNOWN - painted) & (accepted > 0))


def growing_steps(native: Grid, painted: np.ndarray, most: int) -> tuple[float, float, float]:
    """Native voxels (z, y, x) per step of the grid of ``most`` voxels that growing takes, one at least."""
    box = domain(native, painted)
    if box is None:
        return 1.0, 1.0, 1.0
    step = min(working_grid(native, box, most).spacing)
    z, y, x = (max(1.0, step / own) for own in native.spacing[::-1])
    return z, y, x


def _taken(
    accepted: np.ndarray,
    grown: np.ndarray,
    painted: np.ndarray,
    many: np.ndarray,
    touched: np.ndarray,
    reach: Sequence[int],
    jitter: Sequence[int],
) -> np.ndarray:
    changed = accepted != grown
    near = _widened(touched, reach)
    far_from_borders = changed & ~_moved_borders(accepted, grown, changed, jitter)
    parts, count = numbered_parts(far_from_borders, _TOUCHING)
    kept = np.zeros(count + 1, bool)
    kept[np.unique(parts[near])] = True
    kept[0] = False
    confirmed = np.where((painted >= 0) & (painted == accepted) & ~near, painted, UNKNOWN)
    for number in np.flatnonzero(kept).tolist():
        kept[number] = not _denies(parts == number, accepted, grown, confirmed, many, [each + 1 for each in jitter])
    return changed & (near | _widened(kept[parts], jitter))


def _denies(
    part: np.ndarray,
    accepted: np.ndarray,
    grown: np.ndarray,
    confirmed: np.ndarray,
    many: np.ndarray,
    by: Sequence[int],
) -> bool:
    """Whether a change goes against what was painted and is right: it eats up what lies around strokes of a class, or
    swallows those of another. Strokes that it merely comes by are few of all there are.

    :param confirmed: strokes that agree with what was accepted, away from what is corrected; else UNKNOWN.
    :param many: label -> how many voxels are painted with it, everywhere.
    :param by: how far from it is beside it: strokes keep their own voxels, so none is within.
    """
    box = bounding_box(part)
    assert box is not None
    box = _wider(box, by, part.shape)
    part, said = part[box], confirmed[box]
    for value in np.unique(said[said >= 0]).tolist():
        eaten, swallowed = accepted[box] == value, grown[box] > 0
        against = part & (grown[box] != value) & (eaten | swallowed)
        beside = int(((said == value) & _widened(against, by)).sum())
        if beside > _DENIED * int(many[value]):
            return True
    return False


def _moved_borders(accepted: np.ndarray, grown: np.ndarray, changed: np.ndarray, by: Sequence[int]) -> np.ndarray:
    """Changes that a border which moves by a few voxels would make, bool (z, y, x)."""
    moved = np.zeros(changed.shape, bool)
    for mine, other in ((grown, accepted), (accepted, grown)):  # what a class gains, then what it loses
        for value in np.unique(mine[changed & (mine > 0)]).tolist():
            differs = changed & (mine == value)
            inner = bounding_box(differs)
            assert inner is not None
            box = _wider(inner, by, changed.shape)
            moved[box] |= differs[box] & _widened(other[box] == value, by)
    return moved


def _widened(mask: np.ndarray, by: Sequence[int]) -> np.ndarray:
    """A mask with all that is at most ``by`` voxels (z, y, x) beside it."""
    result = mask.astype(np.uint8)
    for axis, each in enumerate(by):
        result = maximum_filter1d(result, 2 * each + 1, axis=axis, mode="constant")
    return result.astype(bool)


def _wider(box: Box, by: Sequence[int], shape: Sequence[int]) -> Box:
    z, y, x = (
        slice(max(side.start - each, 0), min(side.stop + each, extent)) for side, each, extent in zip(box, by, shape)
    )
    return z, y, x
