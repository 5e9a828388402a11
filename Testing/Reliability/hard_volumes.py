"""Hard volumes through the whole path of the command line: each must come out right to half a voxel, or be refused in
one sentence, with everything as it was.

Usage: ``make hard-volumes`` or ``python Testing/Reliability/hard_volumes.py [--only WORD] [--write FILE]``.
Each case is tuned for one step on the bundled model and segmented with what came of it, which shows that files, grids
and strokes hold together but nothing of quality; then its strokes are grown. Right means: every corner of both results
lies where the image's does and the strokes are in both, and what was grown has the middle of each class where it is in
the phantom; all to half a voxel (of the model's, where that is larger).
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

import nibabel
import numpy as np
import SimpleITK as sitk
from cases import CASES, Case, Files
from constructed import BACKGROUND, CLASSES, RAS_LPS
from outcomes import Outcome, crashed, report

from PromptSegLib.cli.main import main as promptseg

_STEPS = 1
HALF = 0.5  # voxels
MODEL = np.array([2.0, 2.0, 3.0])  # mm, the voxels of the bundled model in the patient's axes


def main() -> int:
    return report(__doc__, CASES, outcome_of, "Hard volumes", "hard_volumes.py")


def outcome_of(case: Case, model: Optional[str] = None) -> Outcome:
    """Run one case in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="hard-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            return judged(case, case.make(folder), folder, model)
        except Exception as error:  # a crash is an outcome, and the other cases go on
            return crashed(case, error)


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


if __name__ == "__main__":
    sys.exit(main())
