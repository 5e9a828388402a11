"""What grows strokes without a model: the command for an image, and the training of its network."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ..annotation.classes import class_infos
from ..errors import PromptSegError
from ..prompts.store import parse_classes
from .commands import progress, tell, tell_of_background
from .outputs import Outputs, keep_apart, same_file, targets


def grow(options: argparse.Namespace) -> None:
    classes = parse_classes(options.classes)
    image_path = Path(options.image)
    if same_file(options.strokes, image_path):
        raise PromptSegError(
            "What is given as --strokes is the image itself; give the file with what was painted on it."
        )
    files, folders = targets([image_path], options.output)
    keep_apart(files, [image_path, options.strokes, options.network])
    from ..annotation.checking import check_strokes
    from ..annotation.example import Example
    from ..annotation.pairs import read_pair
    from ..inference.writing import write_segmentation
    from ..worker.thrift import sparingly

    with Outputs(files, None, {}, folders).ready():
        began = time.monotonic()
        image, annotation = read_pair(image_path, options.strokes, tell)
        strokes = Example(image, annotation, options.background, name=image_path.name)
        check_strokes(strokes, classes, each=True)
        tell_of_background(strokes)
        from ..growing.model import load_growing
        from ..inference.stroke_regions import segment_strokes

        network = load_growing(Path(options.network)) if options.network else None
        infos = class_infos(classes, {})
        with progress() as job:
            result, thrift = sparingly(
                lambda thrift: segment_strokes(
                    strokes, infos, options.quick or thrift.coarse, job=job, checked=True, network=network
                ),
                job,
                lambda: False,
            )
        write_segmentation(result, files[0], image_path)
    print(f"{files[0]}  {time.monotonic() - began:.1f} s")
    for note in (*result.notes, thrift.note):
        if note:
            tell(f"{image_path.name}: {note}")


def train_growing(options: argparse.Namespace) -> None:
    import torch

    from ..pretraining.growing.run import train

    bundled = Path(__file__).parents[1] / "growing" / "recipes" / f"{options.recipe}.json"
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = bundled if bundled.is_file() else Path(options.recipe)
    train(recipe, Path(options.output), log=lambda line: print(line, flush=True), workers=options.workers)
