"""What the frozen backbone's shipped prompts say of training cases: the evidence that comes with some questions."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Sequence

import numpy as np
import SimpleITK as sitk

from ...imaging.reading import read_image
from ...imaging.volume import Volume
from ...inference.class_margins import Probabilities, class_margins
from ...models.backbone import Backbone
from .recipe import Source
from .volumes import LabeledVolume, find_files


def add_evidence(
    source: Source, volumes: Sequence[LabeledVolume], backbone: Backbone, folder: Path, log: Callable[[str], None]
) -> None:
    """Give the volumes of a source the backbone's probabilities, kept as .npy files in ``folder``."""
    if not source.evidence or source.image is None or backbone.shipped is None:
        return
    shipped = backbone.shipped.decoder_only()
    names = [each.info.name for each in shipped.active]
    rows = [name for name in source.evidence if name in names]
    images = {f"{source.name}/{name}": image for name, image, _ in find_files(source)}
    folder.mkdir(parents=True, exist_ok=True)
    for volume in volumes:
        image: sitk.Image = read_image(images[volume.name])  # type: ignore[arg-type]
        seen = Volume.of(image, backbone.preprocessing)
        path = folder / f"{volume.name.replace('/', '-')}.npy"
        if not path.exists():
            log(f"evidence of {volume.name}")
            shares = Probabilities(class_margins(backbone, shipped, seen.array))
            maps = np.stack([np.round(255 * shares[names.index(name) + 1]).astype(np.uint8) for name in rows])
            np.save(path, maps)
        volume.maps, volume.map_grid = np.load(path, allow_pickle=False), seen.grid
        volume.evidence = {source.evidence[name]: row for row, name in enumerate(rows)}
