"""What is said of a result's quality: how well strokes that were held back are predicted, or that nothing could be."""

from __future__ import annotations

from typing import Optional, Sequence

from ..errors import Sentence


def agreement_notes(names: Sequence[str], agreements: Sequence[Optional[float]]) -> tuple[Sentence, ...]:
    """One or two sentences on painted slices that were held back; none where nobody looked.

    :param agreements: for each name the Dice in 0..1 on strokes that were held back, None where none could be; empty
        where nobody looked.
    """
    told = {name: each for name, each in zip(names, agreements) if each is not None}
    rest = ", ".join(name for name, each in zip(names, agreements) if each is None)
    said: list[Sentence] = []
    if told:
        percent, lowest = 100 * sum(told.values()) / len(told), min(told, key=lambda name: told[name])
        if len(told) == 1:
            said.append(Sentence("Held-back slices agree to {percent:.0f} %.", percent=percent))
        else:
            said.append(
                Sentence(
                    "Held-back slices agree to {percent:.0f} % (least: {lowest}, {least:.0f} %).",
                    percent=percent,
                    lowest=lowest,
                    least=100 * told[lowest],
                )
            )
    if rest:
        said.append(
            Sentence("Nothing was held back to check {names}; that takes strokes on two slices or more.", names=rest)
        )
    return tuple(said)
