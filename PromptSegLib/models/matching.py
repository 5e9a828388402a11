"""Which shipped class an annotated class is: by how well they agree on the annotated voxels."""

from __future__ import annotations

import numpy as np

KNOWN = 0.5  # agreement (Dice on annotated voxels) from which a class is taken to be the shipped one


def assign_one_to_one(agreement: np.ndarray) -> dict[int, int]:
    """Annotated class -> shipped class, the best pairs first, each shipped class once.

    :param agreement: (annotated classes, shipped classes) in 0..1; pairs below ``KNOWN`` do not count.
    """
    taken: dict[int, int] = {}
    for flat in np.argsort(-agreement, axis=None, kind="stable"):
        index, other = divmod(int(flat), agreement.shape[1])
        if agreement[index, other] >= KNOWN and index not in taken and other not in taken.values():
            taken[index] = other
    return taken
