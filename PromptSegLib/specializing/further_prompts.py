"""Prompts that a frozen backbone ships beside its own, learned from many volumes as a recipe describes them.

As the user's own prompts, they are tuned on complete annotations (:mod:`..tuning`), only for longer and on more; what a
backbone never saw, such as MR, is added without a change of what it knows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Callable, Iterator, Optional

import numpy as np
import SimpleITK as sitk

from ..annotation.example import Example
from ..errors import PromptSegError
from ..evaluation.scores import score
from ..imaging.checking import check_image
from ..imaging.geometry import Grid, resample, to_model_grid, upright_grid
from ..imaging.intensity import decide
from ..imaging.reading import quiet, read_annotation, read_image
from ..inference.segmenting import segment
from ..models.backbone import Backbone
from ..models.catalogue import CATALOGUE
from ..pretraining.cases import alike_of
from ..pretraining.finding import CaseFile, find_cases
from ..pretraining.publish import commit
from ..pretraining.recipe import Recipe
from ..pretraining.settings import settings_of
from ..pretraining.source import Source
from ..pretraining.synthesis import regions_of, synthesized_from
from ..progress import ProgressHandle
from ..prompts.store import Prompts
from ..tuning.options import TuningOptions
from ..tuning.pipeline import tune
from ..tuning.settings import Settings

BACKGROUND = 255  # of annotations made here: known to be no class


@dataclass(frozen=True)
class PromptsRecipe:
    """What further prompts are learned from, and how.

    :param name: what commands and files call them.
    :param model: the backbone that they belong to.
    :param sources: as of a backbone's recipe; ``weight`` says nothing here, and ``synthetic`` is the share of
        ``copies`` of each case whose image is drawn anew.
    :param spacing: mm (z, y, x), of the grid that volumes are read on.
    :param mirrored: names of sources that are stored mirrored front to back: they are mirrored back.
    :param copies: volumes made of each case that has images drawn anew; all others are read once.
    :param steps: of tuning, so that a run is reproducible.
    """

    name: str
    title: str
    card: str
    modality: str
    sources: tuple[Source, ...]
    spacing: tuple[float, float, float]
    model: str = "ct-body"
    method: str = "side"
    mirrored: tuple[str, ...] = ()
    copies: int = 1
    steps: int = 1500
    seed: int = 0

    @classmethod
    def load(cls, path: Path) -> PromptsRecipe:
        """Read a recipe; raises :class:`PromptSegError` with what is wrong."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8-sig"))
            if isinstance(values, dict) and isinstance(values.get("sources"), list):
                values["sources"] = [Source.from_dict(each) for each in values["sources"]]
            recipe = cls(**settings_of(cls, values))
            if not recipe.class_names:
                raise ValueError("no source declares a class")
            if recipe.copies < 1 or recipe.steps < 1 or not all(step > 0 for step in recipe.spacing):
                raise ValueError('"copies", "steps" and "spacing" must be above 0')
        except (OSError, ValueError, KeyError, RecursionError) as error:
            raise PromptSegError("Cannot use the recipe {path}: {error}.", path=path, error=error) from error
        return recipe

    @property
    def class_names(self) -> tuple[str, ...]:
        """Every class of every source, once; the k-th (from 1) has the value k."""
        return tuple(dict.fromkeys(name for source in self.sources for name in source.classes))

    def files(self) -> tuple[list[CaseFile], list[CaseFile]]:
        """Of the training and of the validation cases; raises :class:`PromptSegError` as ``find_cases`` does."""
        return find_cases(Recipe(self.name, self.title, self.card, self.sources))


def further_prompts(
    recipe: PromptsRecipe,
    backbone: Backbone,
    command: str,
    log: Callable[[str], None] = print,
    job: Optional[ProgressHandle] = None,
) -> tuple[Prompts, dict[str, Any]]:
    """Tune the prompts of a recipe, and segment its validation cases; what came of them is the card.

    :param command: that makes them, for the card.
    :raises PromptSegError: files that are missing or cannot be used.
    """
    training, validation = recipe.files()
    classes = {name: k for k, name in enumerate(recipe.class_names, start=1)}
    rng = np.random.default_rng(recipe.seed)
    with quiet():
        examples = [each for file in training for each in _examples(recipe, file, backbone, rng)]
    log(f"{len(examples)} volumes of {len(training)} cases")
    settings = Settings(method=recipe.method, training=True, steps=recipe.steps, seed=recipe.seed)
    prompts = tune(examples, classes, backbone, settings=settings, options=TuningOptions(keep_strokes=False), job=job)
    found: dict[str, dict[str, float]] = {}
    for file in validation:
        case = f"{recipe.sources[file.source].name}/{file.name}"
        found[case] = _agreement(recipe, file, prompts, backbone)
        log(f"{case}: " + ", ".join(f"{name} {value:.3f}" for name, value in found[case].items()))
    return prompts, {**_card(recipe, training, validation, prompts, found), "command": command}


def _examples(recipe: PromptsRecipe, file: CaseFile, backbone: Backbone, rng: np.random.Generator) -> Iterator[Example]:
    """What is learned from one case: its image, or images drawn anew, or both."""
    source = recipe.sources[file.source]
    if file.label is None:
        return
    labels = read_annotation(file.label)
    image = read_image(file.image) if file.image is not None else None
    if image is not None:
        check_image(image, file.image.name if file.image else "")
    grid = upright_grid(Grid.of(labels if image is None else image), recipe.spacing)
    step = -1 if source.name in recipe.mirrored else 1
    values = sitk.GetArrayFromImage(resample(labels, grid, sitk.sitkNearestNeighbor, 0))[:, ::step]
    annotation = grid.image(annotated(values, source, recipe.class_names))
    drawn = round(recipe.copies * source.synthetic)
    array = None
    if image is not None:
        kind = source.modality if source.modality in ("CT", "MR") else None
        rule = decide(image, backbone.preprocessing, kind)
        array = to_model_grid(image, grid, rule.low)[:, ::step]
        if not source.synthetic or drawn < recipe.copies:
            yield Example(grid.image(array), annotation, BACKGROUND, name=file.name)
        array = np.clip(rule.normalize(array), -1, 1)
    if drawn:
        regions = regions_of(array, values, rng)
        several = [source.values_of(name) for name in source.classes if len(source.values_of(name)) > 1]
        alike = alike_of(regions, [np.isin(values, each) for each in several])
        for _ in range(drawn):
            made = synthesized_from(regions, array, rng, alike)
            yield Example(grid.image(made.astype(np.float32)), annotation, BACKGROUND, name=file.name)


def annotated(values: np.ndarray, source: Source, names: tuple[str, ...]) -> np.ndarray:
    """Annotation uint8 (z, y, x) of label values: k of the k-th class, ``BACKGROUND``, or 0 where nothing is known.

    Known background lies between the first and the last slice (z) of the classes that are labeled in part; where a
    class of other sources may be, or one that is not contoured here, nothing is known but what is labeled.
    """
    result = np.zeros(values.shape, np.uint8)
    unsaid = set(names) - set(source.classes) - set(source.absent)
    labeled = np.isin(values, source.values)
    if source.missing == "unknown":
        unsaid |= {name for name in source.classes if not np.isin(values, source.values_of(name)).any()}
    if not unsaid:
        known = np.isin(values, source.unused_values, invert=True)
        for name in source.partial:
            slices = np.flatnonzero(np.isin(values, source.values_of(name)).any((1, 2)))
            between = np.zeros(len(values), bool)
            if len(slices):
                between[slices[0] : slices[-1] + 1] = True
            known &= between[:, None, None]
        result[known & ~labeled] = BACKGROUND
    for name in source.classes:
        result[np.isin(values, source.values_of(name))] = names.index(name) + 1
    return result


def _agreement(recipe: PromptsRecipe, file: CaseFile, prompts: Prompts, backbone: Backbone) -> dict[str, float]:
    """Dice of each labeled class of a case, on its own grid, where its labels say anything."""
    assert file.image is not None and file.label is not None
    image, source = read_image(file.image), recipe.sources[file.source]
    values = sitk.GetArrayFromImage(resample(read_annotation(file.label), Grid.of(image), sitk.sitkNearestNeighbor, 0))
    said = sitk.GetArrayFromImage(segment(prompts, image, backbone).labels)
    upright = np.moveaxis(values, _axis_of_z(image), 0)
    known = np.moveaxis(annotated(upright, source, recipe.class_names), 0, _axis_of_z(image))
    said[known == 0] = 0
    reference, labels = (Grid.of(image).image(each.astype(np.uint8)) for each in (known, said))
    shown = {name: recipe.class_names.index(name) + 1 for name in source.classes}
    measured = score(reference, labels, {name: k for name, k in shown.items() if (known == k).any()})
    return {name: each.dice for name, each in measured.items() if each.dice is not None}


def _axis_of_z(image: sitk.Image) -> int:
    """The array axis along which a patient is upright."""
    return 2 - int(np.abs(np.reshape(image.GetDirection(), (3, 3))[2]).argmax())


def _card(
    recipe: PromptsRecipe,
    training: list[CaseFile],
    validation: list[CaseFile],
    prompts: Prompts,
    found: dict[str, dict[str, float]],
) -> dict[str, Any]:
    names = recipe.class_names
    means = {name: [each[name] for each in found.values() if name in each] for name in names}
    return {
        "title": recipe.title,
        "text": recipe.card,
        "modality": recipe.modality,
        "licence": "; ".join(dict.fromkeys(source.licence for source in recipe.sources)),
        "classes": list(names),
        "sources": [
            {
                "name": source.name,
                "modality": source.modality,
                "licence": source.licence,
                "training": sum(file.source == index for file in training),
                "validation": [file.name for file in validation if file.source == index],
            }
            for index, source in enumerate(recipe.sources)
        ],
        "method": prompts.method,
        "steps": sum(each["steps"] for each in prompts.tuning.values()),
        "commit": commit(),
        "validation_dice": {name: round(mean(values), 4) if values else None for name, values in means.items()},
    }


def publish(prompts: Prompts, card: dict[str, Any], name: str, folder: Path) -> dict[str, Any]:
    """Write ``NAME.prompts.safetensors`` and ``NAME.md``; returns the catalogue's entry."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.prompts.safetensors"
    prompts.save(path)
    (folder / f"{name}.md").write_text(as_text(card), encoding="utf-8")
    entry = {"name": name, "file": f"weights/{path.name}", "card": card}
    return {**entry, **{key: card[key] for key in ("title", "modality", "classes", "licence")}}


def as_text(card: dict[str, Any]) -> str:
    """The card in plain words, Markdown."""
    lines = [f"# {card['title']}", "", card["text"], "", "## Learned from", ""]
    for source in card["sources"]:
        lines.append(f"- {source['name']}: {source['training']} cases ({source['modality']}). {source['licence']}.")
    cases = [
        f"{source['name']}: {', '.join(source['validation'])}" for source in card["sources"] if source["validation"]
    ]
    lines += [
        "",
        "## Validation (Dice)",
        "",
        f"On {'; '.join(cases) or 'no case'}.",
        "",
        "| class | Dice |",
        "|---|---|",
    ]
    lines += [
        f"| {name} | {'-' if dice is None else f'{dice:.3f}'} |" for name, dice in card["validation_dice"].items()
    ]
    lines += [
        "",
        "## How",
        "",
        f"- `{card['method']}`, {card['steps']} steps; `{card['command']}`, commit {card['commit']}",
    ]
    return "\n".join(lines) + "\n"


def register(entry: dict[str, Any], model: str) -> None:
    """Put an entry into the bundled catalogue, with its backbone, in place of one of the same name."""
    content = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    of = next(each for each in content["models"] if each["name"] == model)
    of["further"] = [each for each in of.get("further", []) if each["name"] != entry["name"]] + [entry]
    CATALOGUE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
