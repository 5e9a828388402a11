"""What each command does, in the API's words."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator

import SimpleITK as sitk

from ..annotation.example import Example
from ..errors import PromptSegError
from ..files import check_writable
from ..inference.options import SegmentationOptions
from ..models import catalogue
from ..models.further import find_further
from ..network.config import outputs_of
from ..progress import ProgressHandle, Report
from ..prompts.beside import place
from ..prompts.store import Prompts, parse_classes
from ..tuning.options import TuningOptions
from .outputs import Outputs, keep_apart, planned, same_file


def models(options: argparse.Namespace) -> None:
    if options.download:
        from ..models.download import download

        entry = _of_the_catalogue(options.download, "there is nothing to download")
        with progress() as job:
            entry = download(entry, job)
        print(f"{entry.name}  {entry.path}")
        return
    if options.share or options.add:
        from . import specializing

        if options.share:
            specializing.share(*options.share)
        else:
            specializing.add(options.add)
        return
    if options.delete:
        from ..models import own
        from ..models.download import delete

        if own.finished(options.delete) is not None or own.unfinished(options.delete).is_file():
            own.delete(options.delete)
            return
        delete(_of_the_catalogue(options.delete, "delete it by hand if you want it gone"))
        return
    entries = catalogue.entries()
    if options.json:
        print(json.dumps([entry.to_dict() for entry in entries], indent=2))
        return
    for entry in entries:
        spacing = " x ".join(f"{step:g}" for step in entry.spacing)
        print(f"{entry.name}: {entry.title}")
        print(f"  modality  {entry.modality}")
        print(f"  spacing   {spacing} mm (z, y, x)")
        print(f"  classes   {', '.join(entry.classes)}")
        print(f"  licence   {entry.licence}")
        print(f"  SHA-256   {entry.sha256}")
        print(f"  size      {entry.size / 1e6:.1f} MB")
        if entry.expected:
            times = ", ".join(f"{seconds:g} s ({device})" for device, seconds in entry.expected.items())
            print(f"  time      {times} for 512 x 512 x 600 voxels and all classes")
        print(f"  installed {_presence(entry)}")
        print(f"  where     {entry.path}")
        for each in entry.further:
            print(f"  prompts   {each.name}: {each.title} ({', '.join(each.classes)})")


def tune(options: argparse.Namespace) -> None:
    classes = parse_classes(options.classes)
    output = Path(options.output)
    if not output.name:
        raise PromptSegError("The name of the prompts is empty; give a file that ends with .safetensors.")
    if output.suffix != ".safetensors":
        raise PromptSegError("Prompts are saved as .safetensors; {name} ends otherwise.", name=output.name)
    check_writable(output)
    keep_apart([output], [file for pair in options.example for file in pair] + [options.model])
    for image, annotation in options.example:
        if same_file(image, annotation):
            raise PromptSegError(
                "What is given as the annotation of {name} is the image itself; give the file with what "
                "was painted on it.",
                name=Path(image).name,
            )
    start = Prompts.load(_prompts_file(options.start)) if options.start else None
    from ..annotation.checking import check_examples, holds
    from ..annotation.pairs import read_pair

    examples = [
        Example(*read_pair(image, annotation, tell), options.background, options.complete, Path(image).name)
        for image, annotation in options.example
    ]
    check_examples(examples, classes)  # what else is wrong with an annotation says more than this
    if options.background and not any(holds(each.annotation, options.background) for each in examples):
        raise PromptSegError(
            "No annotation holds the value {background} of the background; correct --background, or leave it out.",
            background=options.background,
        )
    from ..tuning.settings import Settings
    from . import sparing

    settings = Settings(
        mode=options.mode or (start.mode if start else "decoder"),
        method=options.method,
        outputs=options.outputs,
        passes=options.passes,
        seconds=options.seconds,
        steps=options.steps,
        seed=options.seed,
    )
    with progress() as job:
        prompts = sparing.tune(
            examples,
            classes,
            options.model,
            start=start,
            settings=settings,
            options=TuningOptions(keep_strokes=not options.forget_strokes, device=options.device),
            job=job,
        )
    prompts.save(output)
    if prompts.outside:
        print(f"What was painted has no room in {output.name}; keep {place(output).name} beside it.", file=sys.stderr)
    for note in prompts.notes:
        print(note, file=sys.stderr)
    print(_described(prompts, output))


def segment(options: argparse.Namespace) -> None:
    from .batch import Batch, images_in

    prompts = Prompts.load(_prompts_file(options.prompts))
    images = images_in(options.images)
    classes = list(dict.fromkeys(prompts.find(name).info.name for name in options.classes or prompts.names))
    if len(images) > 1 and (options.strokes or options.region or options.uncertainty):
        raise PromptSegError("--strokes, --region and --uncertainty belong to one image; give one image at a time.")
    if options.strokes and same_file(options.strokes, images[0]):
        raise PromptSegError(
            "What is given as --strokes is the image itself; give the file with what was painted on it."
        )
    outputs = planned(options, prompts, images, classes)
    with outputs.ready():
        from .sparing import Backbones

        report = Path(options.report) if options.report else None
        values = {name: prompts.values[name] for name in classes}
        batch = Batch(list(zip(images, outputs.targets)), report, options.resume, values, outputs.complete)
        backbones = Backbones(prompts, options.model, options.device)
        for path, target in batch:
            with batch.noting(path) as row:
                labels = _segment_one(options, prompts, classes, backbones, path, target, outputs)
                batch.measure(row, labels)
        batch.finish()


def _segment_one(
    options: argparse.Namespace,
    prompts: Prompts,
    classes: list[str],
    backbones: Any,
    path: Path,
    target: Path,
    outputs: Outputs,
) -> sitk.Image:
    """Segment the image ``path``, write what is wanted of it, and give its labels."""
    from ..annotation.checking import check_strokes
    from ..annotation.pairs import read_pair
    from ..imaging.reading import read_image
    from ..inference.writing import write_image, write_segmentation

    strokes, region = None, None
    if options.strokes:
        image, annotation = read_pair(path, options.strokes, tell)
        strokes = Example(image, annotation, options.background, name=path.name)
        check_strokes(strokes, prompts.values)
        tell_of_background(strokes)
    else:
        image = read_image(path)
    if options.region:
        x0, x1, y0, y1, z0, z1 = options.region
        region = ((x0, y0, z0), (x1, y1, z1))
    with progress() as job:
        wanted = SegmentationOptions(
            grow_strokes=False if options.no_grow else None,
            keep_islands=options.keep_islands,
            region=region,
            probabilities=bool(outputs.probabilities),
            uncertainty=outputs.uncertainty is not None,
            name=path.name,
        )
        result = backbones.segment(prompts, image, classes, strokes, wanted, job)
    for name, each in (result.probabilities or {}).items():
        write_image(each, outputs.probabilities[path, name], path)
    if outputs.uncertainty and result.uncertainty is not None:
        write_image(result.uncertainty, outputs.uncertainty, path)
    write_segmentation(result, target, path)  # last: where it is, --resume leaves the image out
    print(f"{target}  {sum(result.seconds.values()):.1f} s", flush=True)
    for note in result.notes:
        print(f"{path.name}: {note}", file=sys.stderr)
    return result.labels


def worker(options: argparse.Namespace) -> None:
    from ..worker.serving import serve_standard_streams

    serve_standard_streams(Path(options.folder) if options.folder else None)


def score(options: argparse.Namespace) -> None:
    from ..evaluation.scores import format_table, to_json
    from ..evaluation.scores import score as score_labels
    from ..imaging.reading import read_annotation

    classes = parse_classes(options.classes)
    scores = score_labels(read_annotation(options.reference), read_annotation(options.prediction), classes)
    print(json.dumps(to_json(scores), indent=2) if options.json else format_table(scores))


def info(options: argparse.Namespace) -> None:
    path = _prompts_file(options.prompts)
    prompts = Prompts.load(path)
    if not options.json:
        print(_described(prompts, path))
        return
    content = {
        "backbone": prompts.backbone,
        "sha256": prompts.sha256,
        "mode": prompts.mode,
        "method": prompts.method,
        "preprocessing": prompts.preprocessing.to_dict(),
        "classes": [
            {**each.info.to_dict(), "group": each.group, "outputs": outputs_of(each.tensors)} for each in prompts.active
        ],
        "tuning": dict(prompts.tuning),
    }
    print(json.dumps(content, indent=2))


def _of_the_catalogue(name: str, otherwise: str) -> catalogue.Entry:
    """The entry of that name; raises :class:`PromptSegError` for one that somebody put into a model folder."""
    entry = catalogue.find_name(name)
    if entry.own:
        raise PromptSegError(
            "The model {name} is a file of yours, {path}, not a download; {otherwise}.",
            name=name,
            path=entry.path,
            otherwise=otherwise,
        )
    return entry


def _presence(entry: catalogue.Entry) -> str:
    """Whether a model can be used, and what to do where it cannot."""
    if entry.own:
        return "yes, a file of yours"
    if entry.installed:
        return "yes, bundled" if entry.bundled else "yes"
    if entry.bundled:
        return "no: its file is missing or damaged; install PromptSeg again"
    return f"no: promptseg models --download {entry.name}"


def _prompts_file(name: str) -> Path:
    """A prompts file by its path, or by its own name or that of the model that ships it.

    Raises :class:`PromptSegError` for a model that is not downloaded, or that ships none.
    """
    entries = catalogue.entries()
    further = find_further(entries, name)
    if further is not None:
        return further.path
    if all(entry.name != name for entry in entries):
        return Path(name)
    prompts = catalogue.find(name).prompts
    if prompts is None:
        raise PromptSegError("The model {name} has no prompts of its own; give a prompts file.", name=name)
    return prompts


def tell(sentence: str) -> None:
    """Say something beside the results."""
    print(f"promptseg: {sentence}", file=sys.stderr)


def tell_of_background(strokes: Example) -> None:
    """Say it where no stroke has the value of the background: perhaps none was painted, perhaps another was meant."""
    from ..annotation.checking import holds

    if strokes.background is not None and not holds(strokes.annotation, strokes.background):
        tell(f"{strokes.name}: no stroke has the value {strokes.background} of --background.")


def _described(prompts: Prompts, path: Path) -> str:
    lines = [
        f"{path}  {path.stat().st_size / 1024:.0f} kB",
        f"  backbone  {prompts.backbone} (SHA-256 {prompts.sha256[:12]}...), mode {prompts.mode}, {prompts.method}",
    ]
    for each in prompts.active:
        known = _entry(prompts.tuning.get(str(each.group)), "classes", {})
        tuned = _entry(known, each.info.name, {})
        text = f"  {each.info.name} = {each.info.value}"
        if tuned:
            text += f"  {_held_back(tuned)}, started from {tuned.get('start')}"
        lines.append(text)
    for group, record in prompts.tuning.items():
        if "seed" in record:
            examples = ", ".join(
                f"{each.get('name')} {' x '.join(map(str, _entry(each, 'shape', [])))} at {each.get('spacing')} mm"
                for each in _entry(record, "examples", [])
                if isinstance(each, dict)
            )
            lines.append(
                f"  tuning {group}: {record.get('steps')} steps, {record.get('seconds')} s on {record.get('device')}, "
                f"seed {record.get('seed')}, examples: {examples}"
            )
    return "\n".join("".join(letter if letter.isprintable() else "?" for letter in line) for line in lines)


def _held_back(tuned: dict) -> str:
    """How well a class was told on painted slices that were held back, as its tuning's record says."""
    agreed = tuned.get("held_back")
    if isinstance(agreed, float):
        return f"agreement on held-back slices {agreed}"
    return "nothing was held back to check it" if "held_back" in tuned else "not checked"


def _entry(values: Any, key: str, otherwise: Any) -> Any:
    """``values[key]`` if that is there and of the kind of ``otherwise``: the record of a tuning is anybody's."""
    found = values.get(key) if isinstance(values, dict) else None
    return found if isinstance(found, type(otherwise)) else otherwise


@contextmanager
def progress() -> Iterator[ProgressHandle]:
    """A job that draws a progress bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield ProgressHandle()
        return
    from tqdm import tqdm

    layout = "{desc:24.24s} |{bar}| {percentage:3.0f}% {remaining} {postfix}"
    with tqdm(total=100, bar_format=layout, leave=False) as bar:

        def show(report: Report) -> None:
            bar.set_description_str(report.stage, refresh=False)
            bar.n = round(100 * report.share)
            bar.set_postfix({key: f"{value:.3g}" for key, value in report.figures.items()}, refresh=False)
            bar.refresh()

        yield replace(ProgressHandle(), on_report=show)


__all__ = ["info", "models", "score", "segment", "tune"]
