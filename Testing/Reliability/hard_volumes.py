"""Hard volumes through the whole path of the command line: each must come out right to half a voxel, or be refused in
one sentence, with everything as it was.

Usage: ``make hard-volumes`` or ``python Testing/Reliability/hard_volumes.py [--only WORD] [--write FILE]``.
Each case is tuned for one step on the bundled model and segmented with what came of it, which shows that files, grids
and strokes hold together but nothing of quality; then its strokes are grown. Right means: every corner of both results
lies where the image's does and the strokes are in both, and what was grown has the middle of each class where it is in
the phantom; all to half a voxel (of the model's, where that is larger).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import nibabel
import numpy as np
import SimpleITK as sitk
from cases import CASES, Case, Files
from constructed import BACKGROUND, CLASSES, RAS_LPS

from PromptSegLib.cli.main import main as promptseg

_STEPS = 1
HALF = 0.5  # voxels
MODEL = np.array([2.0, 2.0, 3.0])  # mm, the voxels of the bundled model in the patient's axes


@dataclass(frozen=True)
class Outcome:
    """What came of a case, in words, and whether it is what must come of it."""

    case: Case
    good: bool
    said: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose kind or name holds this")
    parser.add_argument("--model", help="name or file (default: the bundled one)")
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    outcomes = []
    for case in CASES:
        if options.only in f"{case.kind}: {case.name}":
            outcomes.append(outcome_of(case, options.model))
            print(row(outcomes[-1]), flush=True)
    text = table(outcomes)
    print(text.split("\n\n")[-1])
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    return 0 if outcomes and all(each.good for each in outcomes) else 1


def outcome_of(case: Case, model: Optional[str] = None) -> Outcome:
    """Run one case in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="hard-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            files = case.make(folder)
            return judged(case, files, folder, model)
        except Exception as error:  # a crash is an outcome, and the other cases go on
            last = traceback.extract_tb(error.__traceback__)[-1]
            return Outcome(case, False, f"{type(error).__name__} in {Path(last.filename).name}: {error}")


def judged(case: Case, files: Files, folder: Path, model: Optional[str]) -> Outcome:
    """Tune on the files and segment the image; see the top of this file."""
    out = folder / "out"
    out.mkdir()
    prompts, result = out / "p.safetensors", out / ("result.nii.gz" if ".nii" in files.image.name else "result.nrrd")
    prompts.write_bytes(b"as it was")
    words = ["tune", "--example", files.image, files.annotation, "--background", BACKGROUND, "--device", "cpu"]
    words += ["--classes", *(f"{name}={value}" for name, value in CLASSES.items()), "--steps", _STEPS, "-o", prompts]
    words += ["--model", model] if model else []
    code, said = run(words)
    if code == 2:
        kept = prompts.read_bytes() == b"as it was" and len(list(out.iterdir())) == 1
        one = said.count("\n") == 1 and said.endswith(".\n") and "Traceback" not in said
        good = kept and one and case.refusal is not None and case.refusal in said
        return Outcome(case, good, f"refused: {said.strip().removeprefix('promptseg: ')}".replace(f"{folder}/", ""))
    results = [result, result.with_name(f"grown-{result.name}")]
    if code == 0:
        words = ["segment", prompts, files.image, "-o", result, "--device", "cpu"]
        code, more = run([*words, *(["--model", model] if model else [])])
        said += more
    if code == 0:
        words = ["grow", files.image, "--strokes", files.annotation, "--background", BACKGROUND, "-o", results[1]]
        code, more = run([*words, "--classes", *(f"{name}={value}" for name, value in CLASSES.items())])
        said += "" if more in said else more
    if code != 0:
        return Outcome(case, False, f"exit code {code}: {said.strip()}")
    (corners, _, strokes), (others, middles, stayed) = (measured(each, files) for each in results)
    corners, strokes = max(corners, others), min(strokes, stayed)
    good = not case.refusal and corners < HALF and middles < HALF and strokes == 1
    lines = dict.fromkeys(line.removeprefix("promptseg: ").strip() for line in said.splitlines())
    told = f"; told: {' '.join(lines)}" if said else ""
    text = f"right: corners {corners:.3f}, middles {middles:.2f} voxels off, strokes {strokes:.1%}{told}"
    return Outcome(case, good, (text if good else text.replace("right", "WRONG")).replace(f"{folder}/", ""))


def run(words: list) -> tuple[int, str]:
    """The exit code of a command and what it says on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            code = promptseg([str(word) for word in words])
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 2
    return code, said.getvalue()


def measured(result: Path, files: Files) -> tuple[float, float, float]:
    """How far the corners and the middles of the classes are off, in voxels, and the share of strokes in the result."""
    labels, matrix = read(result)
    shown = files.phantom
    if labels.shape != shown.truth.shape:
        raise ValueError(f"the result has {labels.shape} voxels, the image {shown.truth.shape}")
    ends = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in labels.shape[::-1]], indexing="ij")).reshape(3, -1).T
    back = np.linalg.inv(shown.matrix)
    points = ends @ matrix[:3, :3].T + matrix[:3, 3]
    corners = float(np.abs(points @ back[:3, :3].T + back[:3, 3] - ends).max())
    # Along an axis of the image, the model's voxels are as long as their longest projection.
    axes = shown.matrix[:3, :3] / np.linalg.norm(shown.matrix[:3, :3], axis=0)
    own = np.linalg.norm(shown.matrix[:3, :3], axis=0)
    coarser = np.maximum(own, np.abs(axes * MODEL[:, None]).max(0))
    gaps = []
    for value in CLASSES.values():
        if not (labels == value).any():
            return corners, float("inf"), 0.0
        middles = [np.argwhere(each == value).mean(0)[::-1] for each in (labels, shown.truth)]
        gaps.append(np.abs((middles[0] - middles[1]) * own / coarser).max())
    painted = (shown.strokes > 0) & (shown.strokes != BACKGROUND)
    return corners, float(max(gaps)), float((labels[painted] == shown.strokes[painted]).mean())


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (k, j, i) and matrix (RAS) of a result; NIfTI by another reader than the one under test."""
    if path.name.endswith(".nii.gz"):
        file: Any = nibabel.load(path)
        return np.asarray(file.dataobj).T, position(file)
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), RAS_LPS @ matrix


def position(image: nibabel.Nifti1Image) -> np.ndarray:
    """The position that counts in ITK, in mm: an sform that is no rectangular grid does not."""
    scale = {1: 1e3, 3: 1e-3}.get(int(image.header["xyzt_units"]) & 7, 1.0)
    form = image.get_sform(coded=True)
    axes = form[0][:3, :3] / np.linalg.norm(form[0][:3, :3], axis=0) if form[0] is not None else np.eye(3)
    sheared = not np.abs(axes.T @ axes - np.eye(3)).max() < 5e-3  # or not finite
    if form[1] != 1 or sheared:
        form = image.get_qform(coded=True) if image.header["qform_code"] > 0 else form
    return np.diag([scale, scale, scale, 1]) @ form[0]


def commit() -> str:
    """The commit that is checked out here, marked where files differ from it."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """The model of the processor, where the system says it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def row(outcome: Outcome) -> str:
    said = outcome.said.replace("|", "\\|").replace("\n", " ")
    return f"| {outcome.case.kind} | {outcome.case.name} | {said} | {'yes' if outcome.good else '**no**'} |"


def table(outcomes: list[Outcome], title: str = "Hard volumes", script: str = "hard_volumes.py") -> str:
    good = [each for each in outcomes if each.good]
    refused = sum(each.case.refusal is not None for each in good)
    return "\n".join(
        [
            f"# {title}",
            "",
            f"Written by `make hard-volumes` at commit {commit()}, on {cores()} cores of {machine()}; see",
            f"`Testing/Reliability/{script}` for what is done and measured.",
            "",
            "| kind | case | what came of it | as it must |",
            "|---|---|---|---|",
            *map(row, outcomes),
            "",
            f"{len(outcomes)} cases: {len(good) - refused} right, {refused} refused in one sentence, "
            f"{len(outcomes) - len(good)} otherwise.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
