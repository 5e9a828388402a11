"""Time and peak memory on a large CT: a made-up 512 x 512 x 600 volume, all shipped organs, with and without a stroke.

Usage: ``make bench-large`` or ``python Testing/Benchmark/large.py [--strokes]``; one process a figure, because the
peak is that of the process.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
import SimpleITK as sitk
import torch

import PromptSegLib as ps

SHAPE = (600, 512, 512)
SPACING = (0.8, 0.8, 1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strokes", action="store_true", help="grow a stroke too")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    image = made_up_ct()
    strokes = None
    if options.strokes:
        painted = sitk.Image(image.GetSize(), sitk.sitkUInt8)
        painted.CopyInformation(image)
        painted[180:220, 250:252, 200] = 6
        painted[100:130, 250:252, 200] = 255
        strokes = ps.Example(image, painted, 255)
    backbone = ps.load_model(device="cpu")
    assert backbone.shipped is not None
    began = time.perf_counter()
    result = ps.segment(backbone.shipped, image, backbone, strokes=strokes)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # kB on Linux
    parts = ", ".join(f"{name} {taken:.1f}" for name, taken in result.seconds.items())
    print(f"{'with' if strokes else 'without'} a stroke: {seconds:.0f} s ({parts}), peak {peak:.1f} GB")
    return 0


def made_up_ct() -> sitk.Image:
    """A noisy elliptic body with an organ-like block, HU, int16."""
    rng = np.random.default_rng(0)
    depth, height, width = SHAPE
    y, x = np.ogrid[:height, :width]
    body = ((y - 256) / 170) ** 2 + ((x - 256) / 220) ** 2 < 1
    array = np.full(SHAPE, -1000, np.int16)
    array[:, body] = 40
    array[100:300, 200:320, 120:260] = 120
    for plane in array:
        plane += rng.integers(-20, 20, (height, width), dtype=np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    return image


if __name__ == "__main__":
    sys.exit(main())
