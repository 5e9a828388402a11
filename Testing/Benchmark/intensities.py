"""Which rule of intensities real images get, as they are and changed as other people's files are.

python Testing/Benchmark/intensities.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Callable

import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).parents[2]))

from PromptSegLib.imaging.intensity import decide
from PromptSegLib.imaging.preprocessing import Preprocessing

Change = Callable[[np.ndarray], np.ndarray]
MODEL = Preprocessing()
KEPT_BACK = ("case16", "case17", "case18", "case19")
CTS = {"btcv": "btcv/*_ct.*", "openkbp": "openkbp/*_ct.*", "sts CT": "sts/*_ct.*", "torso": "torso/*_ct.*"}
MRS = {"sts T1": "sts/*_t1.*", "hippocampus": "hippocampus/*_t1.*", "spine": "spine/*_mr.*"}


def onto(low: float, high: float, first: float, last: float, whole: bool = False) -> Change:
    """A window clipped and mapped onto a range."""

    def change(array: np.ndarray) -> np.ndarray:
        mapped = (np.clip(array, low, high) - low) / (high - low) * (last - first) + first
        return np.round(mapped) if whole else mapped

    return change


def own(first: float, last: float, whole: bool = False, shares: tuple[float, float] = (0, 100)) -> Change:
    """The image's own range, between two percentiles, mapped onto another."""

    def change(array: np.ndarray) -> np.ndarray:
        low, high = np.percentile(array, shares)
        return onto(low, high, first, last, whole)(array)

    return change


CT_CHANGES: dict[str, Change] = {
    "as it is": lambda array: array,
    "+ 1024": lambda array: array + 1024,
    "+ 32768": lambda array: array + 32768,
    "0..100": own(0, 100),
    "0..1": own(0, 1),
    "-1..1": own(-1, 1),
    "z-scores": lambda array: (array - array.mean()) / array.std(),
    "8 bits, own range": own(0, 255, True),
    "16 bits, own range": own(0, 65535, True),
    "8 bits, model's window": onto(*MODEL.intensity, 0, 255, True),
    "8 bits, -160..240": onto(-160, 240, 0, 255, True),
}
MR_CHANGES: dict[str, Change] = {
    "as it is": lambda array: array,
    "0..100": own(0, 100),
    "z-scores": lambda array: (array - array.mean()) / array.std(),
    "8 bits, 1..99 %": own(0, 255, True, (1, 99)),
    "0..1, 20..99 %": own(0, 1, False, (20, 99)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=[*CTS, *MRS])
    parser.add_argument("--each", type=int, default=1, help="look at every how many images of openkbp")
    options = parser.parse_args()
    print("| set | change | rules | off the plain CT, mean of -1..1: median, largest |\n|---|---|---|---|")
    for name in options.sets:
        pattern, changes = (CTS[name], CT_CHANGES) if name in CTS else (MRS[name], MR_CHANGES)
        paths = [path for path in sorted(options.data.glob(pattern)) if not path.name.startswith(KEPT_BACK)]
        rules: dict[str, Counter] = {change: Counter() for change in changes}
        off: dict[str, list[float]] = {change: [] for change in changes}
        for path in paths[:: options.each if name == "openkbp" else 1]:
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float64)
            plain = np.clip((array.astype(np.float32) + 125) / 200 - 1, -1, 1)
            for change, function in changes.items():
                changed = function(array)
                rule = decide(changed, MODEL)
                rules[change][rule.kind] += 1
                off[change].append(float(np.abs(rule.normalize(changed) - plain).mean()))
        for change in changes:
            told = ", ".join(f"{kind} {count}" for kind, count in rules[change].items())
            gap = f"{np.median(off[change]):.4f}, {max(off[change]):.4f}" if name in CTS else "–"
            print(f"| {name} | {change} | {told} | {gap} |", flush=True)


if __name__ == "__main__":
    main()
