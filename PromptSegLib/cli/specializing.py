"""Models of the user's own on the command line: making them, giving them away, taking those of others."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..models import catalogue, own
from ..prompts.store import Prompts, parse_classes


def specialize(options: argparse.Namespace) -> None:
    """Make a model of its own of completely annotated images."""
    classes = parse_classes(options.classes)
    own.place_for(options.name)  # before anything large is read
    from ..annotation.example import Example
    from ..annotation.pairs import read_pair
    from ..specializing.specialize import Effort
    from ..specializing.specialize import specialize as make
    from .commands import progress, tell

    effort = Effort(options.what, options.seconds, options.steps, options.seed).checked()
    examples = [
        Example(*read_pair(image, annotation, tell), complete=True, name=Path(image).name)
        for image, annotation in options.example
    ]
    if own.unfinished(options.name).exists():
        tell(f"going on with {options.name} where it was stopped")
    with progress() as job:
        entry = make(
            examples,
            classes,
            options.name,
            options.model,
            effort=effort,
            title=options.title,
            device=options.device,
            job=job,
        )
    for note in Prompts.load(entry.prompts).notes if entry.prompts else ():
        print(note, file=sys.stderr)
    print(f"{entry.name}  {entry.path}  {entry.size / 1e6:.1f} MB")


def share(name: str, target: str) -> None:
    """Write a model that was made here as one file."""
    print(own.share(catalogue.find_name(name), Path(target)))


def add(source: str) -> None:
    """Take a model that somebody gave away."""
    entry = own.add(Path(source))
    print(f"{entry.name}  {entry.path}")


def add_examples(parser: argparse.ArgumentParser, what: str, classes: str) -> None:
    """The arguments that say what is learned from."""
    parser.add_argument(
        "--example",
        nargs=2,
        action="append",
        required=True,
        metavar=("IMAGE", "ANNOTATION"),
        help=f"an image and its label volume {what}",
    )
    parser.add_argument("--classes", nargs="+", required=True, metavar="NAME=VALUE", help=f"{classes}, e.g. liver=6")


def add_command(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """The command ``specialize``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "specialize", help="make a model of its own from three or more completely annotated images"
    )
    add_examples(parser, "(0 background); repeat for each, three at least", "classes")
    parser.add_argument("--name", required=True, metavar="NAME", help="of the new model, in the catalogue")
    parser.add_argument("--title", default="", help="what lists show (default: the name)")
    parser.add_argument("--model", help="name or path of the backbone it begins as (default: the catalogue's first)")
    parser.add_argument(
        "--what", choices=("full", "decoder"), default="full", help="what moves (default: the whole network)"
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, help="time budget, all attempts together (default: 240)")
    budget.add_argument("--steps", type=int, help="step budget; reproducible for a seed on the CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=specialize)
    return parser
