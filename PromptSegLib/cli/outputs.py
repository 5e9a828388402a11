"""Where the results of a command go: settled before the work begins."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Hashable, Iterable, Iterator, Optional, Union

from ..errors import PromptSegError
from ..files import check_writable, making
from ..prompts.store import Prompts

# A folder may be called results.v2, but what ends like this was meant as a file.
_FILES = (
    *(".gz", ".hdr", ".img", ".mha", ".mhd", ".nhdr", ".nii", ".nrrd", ".nia", ".mgh", ".mgz", ".vtk", ".vti", ".mnc"),
    *(
        ".dcm",
        ".dicom",
        ".ima",
        ".png",
        ".jpg",
        ".jpeg",
        ".bmp",
        ".tif",
        ".tiff",
        ".gif",
        ".h5",
        ".hdf5",
        ".npy",
        ".npz",
    ),
    *(".stl", ".obj", ".ply", ".vtp", ".mrb", ".mrml", ".zip", ".txt", ".csv", ".json", ".safetensors"),
)
_STEMS = (".nii.gz", ".img.gz", ".hdr.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


@dataclass(frozen=True)
class Outputs:
    """Files to write for each image, and the folders that are made for them.

    :param probabilities: (image, class name) -> file.
    """

    targets: list[Path]
    uncertainty: Optional[Path]
    probabilities: dict[tuple[Path, str], Path]
    folders: list[Path]

    @property
    def files(self) -> list[Path]:
        maps = [self.uncertainty] if self.uncertainty else []
        return [*self.targets, *maps, *self.probabilities.values()]

    def complete(self, image: Path, target: Path) -> bool:
        """Whether all that is wanted of an image is there."""
        shares = [path for (of, _), path in self.probabilities.items() if of == image]
        return all(path.is_file() for path in (target, *shares, *([self.uncertainty] if self.uncertainty else [])))

    @contextmanager
    def ready(self) -> Iterator[None]:
        """With the folders made and every file writable; folders in which nothing came to be are gone afterwards.

        Raises :class:`PromptSegError` before the block where that is not possible.
        """
        with ExitStack() as stack:
            for folder in self.folders:
                stack.enter_context(making(folder))
            for path in self.files:
                check_writable(path)
            yield


def planned(options: argparse.Namespace, prompts: Prompts, images: list[Path], classes: list[str]) -> Outputs:
    """What ``segment`` writes; raises :class:`PromptSegError` for names that do not fit or that are used twice."""
    from ..inference.writing import SUFFIXES

    if options.uncertainty and not options.uncertainty.endswith(SUFFIXES):
        raise PromptSegError(
            "The uncertainty is written as {suffixes}; {uncertainty} is not.",
            suffixes=", ".join(SUFFIXES[1:]),
            uncertainty=options.uncertainty,
        )
    files, folders = targets(images, options.output)
    shares: dict[tuple[Path, str], Path] = {}
    if options.probabilities:
        folders.append(Path(options.probabilities))
        for path in images:
            prefix = f"{_stem(path)}_" if len(images) > 1 else ""
            for name, word in _words(prompts, classes).items():
                shares[path, name] = folders[-1] / f"{prefix}{word}.nii.gz"
    outputs = Outputs(files, Path(options.uncertainty) if options.uncertainty else None, shares, folders)
    report = [Path(options.report)] if options.report else []
    keep_apart([*outputs.files, *report], [*images, options.strokes, options.prompts, options.model])
    return outputs


def targets(images: list[Path], words: str) -> tuple[list[Path], list[Path]]:
    """Where each image's result goes, a file for one image, files in a folder for many; and that folder.

    Raises :class:`PromptSegError` for names that do not fit.
    """
    from ..inference.writing import SUFFIXES

    if not words.strip():
        raise PromptSegError("The name of the result is empty; give a file or a folder.")
    output, folder = Path(words), words.endswith(("/", os.sep))
    if output.name.endswith(SUFFIXES) and not folder:
        if len(images) > 1:
            raise PromptSegError(
                "{output} is one file, but there are {count} images; give a folder.", output=output, count=len(images)
            )
        return [output], []
    if output.name.lower().endswith(_FILES) and not (folder or output.is_dir()):
        raise PromptSegError(
            "Results are written as {suffixes} or into a folder, not as {name}.",
            suffixes=", ".join(SUFFIXES),
            name=output.name,
        )
    files = [output / f"{_stem(image)}.seg.nrrd" for image in images]
    if len({file.name.casefold() for file in files}) < len(files):  # capitals do not matter on every disk
        raise PromptSegError("Two of the images have the same name; segment them one at a time.")
    return files, [output]


def _stem(path: Path) -> str:
    suffix = next((each for each in _STEMS if path.name.lower().endswith(each)), path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def keep_apart(outputs: Iterable[Path], inputs: Iterable[Union[str, Path, None]]) -> None:
    """Refuse to write a result over what it is made from, or two results to one file."""
    taken = {_identity(Path(each)) for each in inputs if each}
    for output in outputs:
        place = _identity(output)
        if place in taken:
            raise PromptSegError("{output} is used twice in this command; give the result another name.", output=output)
        taken.add(place)


def same_file(one: Union[str, Path], other: Union[str, Path]) -> bool:
    """Whether two names are of one file."""
    return _identity(Path(one)) == _identity(Path(other))


def _identity(path: Path) -> Hashable:
    """The same for all names of a file: links, and capitals where they do not matter, or may not: of one to be made."""
    try:
        found = os.stat(path)
    except OSError:
        folder, name = os.path.split(os.path.realpath(path))
        return (_identity(Path(folder)), name.casefold()) if name else folder.casefold()
    return found.st_dev, found.st_ino


def _words(prompts: Prompts, classes: list[str]) -> dict[str, str]:
    """A file name for each class, without suffix; the label value tells those apart that would be the same."""
    words = {
        name: "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)[:60] for name in classes
    }
    folded = [word.casefold() for word in words.values()]
    return {
        name: word if folded.count(word.casefold()) == 1 else f"{word}_{prompts.values[name]}"
        for name, word in words.items()
    }
