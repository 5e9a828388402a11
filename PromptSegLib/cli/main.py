"""Arguments, exit codes and sentences of the command line."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Optional, Sequence

from ..errors import PromptSegError, is_out_of_memory
from ..memory import keep_freed_memory
from ..network.config import MODES, OUTPUTS, PASSES
from ..network.methods import registry
from . import commands, growing, pretraining, specializing
from .saying import visible

BAD_INPUT = 2
INTERRUPTED = 130
_MOST = 1024  # processes or threads


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        sentence = " ".join(f"{message[:1].upper()}{message[1:]}".split())
        self.exit(BAD_INPUT, f"{self.prog}: {sentence}.\n")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 bad input (one sentence on stderr), 130 interrupted.

    :param arguments: without them, those of this program, whose process is then ours alone.
    """
    if arguments is None:
        keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a class name may hold letters that the terminal lacks
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        _check_words(arguments or ())
        options.run(options)
        sys.stdout.flush()
    except PromptSegError as error:
        return _refused(str(error))
    except BrokenPipeError:  # whoever read the output has read enough
        _drop_output()
    except OSError as error:
        _drop_output()
        place = f" ({error.filename})" if error.filename else ""
        return _refused(f"The operating system refused{place}: {error.strerror or error}.")
    except KeyboardInterrupt:
        print("\npromptseg: Interrupted; no file is left half-written.", file=sys.stderr)
        return INTERRUPTED
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _refused("The memory is used up; close other programs or give a smaller image.")
    return 0


def _check_words(words: Sequence[str]) -> None:
    """Refuse what no program can be given, only Python: ``open`` raises something else for it than for other names."""
    for word in words:
        try:
            possible = b"\0" not in os.fsencode(word)
        except UnicodeEncodeError:
            possible = False
        if not possible:
            raise PromptSegError("No file or name can be {word}; write it without such letters.", word=ascii(word))


def _refused(sentence: str) -> int:
    print(f"promptseg: {visible(' '.join(sentence.split()))}", file=sys.stderr)
    return BAD_INPUT


def _drop_output() -> None:
    """Forget what standard output still holds and cannot take, so that Python does not try again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="promptseg",
        description="Tune prompts of a frozen 3D segmentation network on a few painted voxels, and segment with them.",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for add in (
        _add_models,
        _add_tune,
        _add_specialize,
        _add_segment,
        _add_grow,
        _add_score,
        _add_info,
        _add_pretrain,
        _add_pretrain_prompts,
        _add_train,
        _add_worker,
    ):
        add(subparsers)
    return parser


def _add_models(subparsers: Any) -> None:
    models = subparsers.add_parser("models", help="list the backbones there are, download or delete them")
    what = models.add_mutually_exclusive_group()
    what.add_argument("--json", action="store_true", help="print JSON")
    what.add_argument("--download", metavar="NAME", help="get a model; goes on where an interrupted download stopped")
    what.add_argument("--delete", metavar="NAME", help="delete what was downloaded of a model, or one made here")
    what.add_argument("--share", nargs=2, metavar=("NAME", "FILE"), help="write a model made here as one .zip")
    what.add_argument("--add", metavar="FILE", help="take a shared model")
    models.set_defaults(run=commands.models)


def _add_specialize(subparsers: Any) -> None:
    _device(specializing.add_command(subparsers))


def _add_tune(subparsers: Any) -> None:
    tune = subparsers.add_parser("tune", help="tune class prompts on annotated images")
    specializing.add_examples(tune, "(0 unknown); repeat for several", "classes to tune")
    unpainted = tune.add_mutually_exclusive_group()
    unpainted.add_argument("--background", type=int, metavar="VALUE", help="annotation value of known background")
    unpainted.add_argument("--complete", action="store_true", help="the annotations are complete: 0 is background")
    tune.add_argument(
        "--model", help="name or path of the backbone (default: that of --start, or the catalogue's first)"
    )
    tune.add_argument("--mode", choices=MODES, help="blocks that hold tokens (default: decoder)")
    tune.add_argument("--outputs", choices=OUTPUTS, default="all", help="maps with output tokens (default: all)")
    tune.add_argument("--passes", choices=PASSES, default="joint", help="one for all classes, or each its own")
    tune.add_argument(
        "--method",
        choices=("auto", *registry.offered()),
        default="auto",
        help="how prompts steer the network (default: that of --start; else by what is annotated)",
    )
    budget = tune.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, help="time budget (default: 60)")
    budget.add_argument("--steps", type=int, help="step budget; reproducible for a seed on the CPU")
    tune.add_argument("--start", metavar="PROMPTS", help="go on from these prompts; their other classes are kept")
    tune.add_argument(
        "--forget-strokes", action="store_true", help="the prompts carry no strokes, those of --start neither"
    )
    tune.add_argument("--seed", type=int, default=0)
    _device(tune)
    tune.add_argument("-o", "--output", required=True, metavar="PROMPTS", help="prompts file to write (.safetensors)")
    tune.set_defaults(run=commands.tune)


def _add_segment(subparsers: Any) -> None:
    segment = subparsers.add_parser("segment", help="segment images with prompts")
    segment.add_argument(
        "prompts",
        metavar="PROMPTS",
        help="prompts file, or the name of a model or of prompts that come along (see promptseg models)",
    )
    segment.add_argument("images", nargs="+", metavar="IMAGE", help="images, or folders of images")
    segment.add_argument(
        "-o", "--output", required=True, metavar="OUT", help=".nii.gz, .nrrd, .seg.nrrd, or a folder for many images"
    )
    segment.add_argument("--classes", nargs="+", metavar="NAME", help="only these classes")
    segment.add_argument("--model", help="name or path of the backbone (default: found by the prompts)")
    segment.add_argument("--strokes", metavar="ANNOTATION", help="what was painted on this image, to be grown")
    segment.add_argument("--background", type=int, metavar="VALUE", help="value of known background in the strokes")
    segment.add_argument("--no-grow", action="store_true", help="do not grow strokes, only honor them")
    segment.add_argument(
        "--keep-islands",
        action="store_true",
        help="without strokes: keep far and small parts of organs that are one body",
    )
    segment.add_argument("--region", nargs=6, type=int, metavar=("X0", "X1", "Y0", "Y1", "Z0", "Z1"), help="voxels")
    segment.add_argument("--probabilities", metavar="DIR", help="also write each class's probability there")
    segment.add_argument(
        "--report", metavar="CSV", help="write volumes (ml) and failures there; one bad image does not stop the others"
    )
    segment.add_argument(
        "--resume", action="store_true", help="leave out images whose result and maps are there already"
    )
    segment.add_argument("--uncertainty", metavar="FILE", help="also write the uncertainty map")
    _device(segment)
    segment.set_defaults(run=commands.segment)


def _add_grow(subparsers: Any) -> None:
    grow = subparsers.add_parser("grow", help="grow what was painted on an image; needs no model")
    grow.add_argument("image", metavar="IMAGE")
    grow.add_argument("--strokes", required=True, metavar="ANNOTATION", help="what was painted on it (0 unknown)")
    grow.add_argument("--classes", nargs="+", required=True, metavar="NAME=VALUE", help="classes, e.g. liver=6")
    grow.add_argument("--background", type=int, metavar="VALUE", help="value of known background in the strokes")
    grow.add_argument("--network", metavar="FILE", help="a growing network of your own, from train-growing")
    grow.add_argument("--quick", action="store_true", help="as the module while one paints: coarser")
    grow.add_argument("-o", "--output", required=True, metavar="OUT", help=".nii.gz, .nrrd, .seg.nrrd, or a folder")
    grow.set_defaults(run=growing.grow)


def _add_score(subparsers: Any) -> None:
    score = subparsers.add_parser("score", help="compare a segmentation with a reference")
    score.add_argument("reference", metavar="REFERENCE")
    score.add_argument("prediction", metavar="PREDICTION")
    score.add_argument("--classes", nargs="+", required=True, metavar="NAME=VALUE")
    score.add_argument("--json", action="store_true", help="print JSON")
    score.set_defaults(run=commands.score)


def _add_info(subparsers: Any) -> None:
    info = subparsers.add_parser("info", help="show what a prompts file holds")
    info.add_argument("prompts", metavar="PROMPTS")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=commands.info)


def _add_pretrain(subparsers: Any) -> None:
    pretrain = subparsers.add_parser("pretrain", help="train a backbone from a recipe")
    pretrain.add_argument("recipe", metavar="CONFIG", help="recipe (JSON), or the name of a bundled one")
    pretrain.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="checkpoint, curves and results; resumes there (default: the recipe's name)",
    )
    pretrain.add_argument(
        "--workers", type=_count, default=0, help="processes that prepare views, for a GPU to wait less"
    )
    pretrain.add_argument("--threads", type=_count, default=0, help="CPU threads of this process")
    pretrain.add_argument("--bundle", action="store_true", help="put the result into this checkout's catalogue")
    _device(pretrain, "auto, cpu or cuda")
    pretrain.set_defaults(run=pretraining.pretrain)


def _add_pretrain_prompts(subparsers: Any) -> None:
    further = subparsers.add_parser("pretrain-prompts", help="learn prompts that come along, from a recipe")
    further.add_argument("recipe", metavar="CONFIG", help="recipe (JSON), or the name of a bundled one")
    further.add_argument("-o", "--output", metavar="DIR", help="for prompts and card (default: the recipe's name)")
    further.add_argument("--threads", type=_count, default=0, help="CPU threads of this process")
    further.add_argument("--bundle", action="store_true", help="put the result into this checkout's catalogue")
    _device(further, "auto, cpu or cuda")
    further.set_defaults(run=pretraining.pretrain_prompts)


def _add_train(subparsers: Any) -> None:
    train = subparsers.add_parser("train-growing", help="train the network that grows strokes")
    train.add_argument("recipe", metavar="CONFIG", help="recipe (JSON), or the name of a bundled one")
    train.add_argument("-o", "--output", required=True, metavar="DIR", help="checkpoint and result; resumes there")
    train.add_argument("--workers", type=_count, default=1, help="processes that prepare views beside (default: 1)")
    train.add_argument("--threads", type=_count, default=0, help="CPU threads of this process")
    train.set_defaults(run=growing.train_growing)


def _add_worker(subparsers: Any) -> None:
    worker = subparsers.add_parser("worker", help="do the Slicer module's jobs (started by it, here or over ssh)")
    worker.add_argument("--folder", metavar="DIR", help="folder that both sides see, for arrays")
    worker.set_defaults(run=commands.worker)


def _count(text: str) -> int:
    """How many of something the user wants."""
    if not (text.isdecimal() and len(text) < 5 and int(text) <= _MOST):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {_MOST}")
    return int(text)


def _device(parser: argparse.ArgumentParser, names: str = "auto, cpu, cuda or mps") -> None:
    parser.add_argument("--device", default="auto", help=f"{names} (default: auto)")
