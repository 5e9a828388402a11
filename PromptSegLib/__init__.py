"""PromptSeg: tune the prompts of a frozen 3D segmentation network on a few painted voxels.

Importing this package imports neither torch nor Slicer nor Qt; the names below load what
they need when they are first used. Images are SimpleITK images.

Example::

    import SimpleITK as sitk
    import PromptSegLib as ps

    example = ps.Example(sitk.ReadImage("ct.nii.gz"), sitk.ReadImage("strokes.nii.gz"), background=255)
    prompts = ps.tune([example], {"liver": 6, "spleen": 1}, settings=ps.Settings(seconds=30))
    prompts.save("abdomen.safetensors")
    labels = ps.segment(prompts, sitk.ReadImage("next_patient.nii.gz")).labels
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .annotation.example import Example
    from .errors import PromptSegError
    from .inference.options import SegmentationOptions
    from .inference.result import Segmentation
    from .inference.segmenting import segment
    from .models.backbone import Backbone, load_model
    from .progress import Cancelled, ProgressHandle, Report
    from .prompts.store import Prompts
    from .specializing.specialize import Effort, specialize
    from .tuning.options import TuningOptions
    from .tuning.pipeline import tune
    from .tuning.settings import Settings

__version__ = "0.1.0"

_PLACES = {
    "Backbone": "models.backbone",
    "Cancelled": "progress",
    "Effort": "specializing.specialize",
    "Example": "annotation.example",
    "ProgressHandle": "progress",
    "PromptSegError": "errors",
    "Prompts": "prompts.store",
    "Report": "progress",
    "Segmentation": "inference.result",
    "SegmentationOptions": "inference.options",
    "Settings": "tuning.settings",
    "TuningOptions": "tuning.options",
    "load_model": "models.backbone",
    "segment": "inference.segmenting",
    "specialize": "specializing.specialize",
    "tune": "tuning.pipeline",
}

__all__ = [
    "Backbone",
    "Cancelled",
    "Effort",
    "Example",
    "ProgressHandle",
    "PromptSegError",
    "Prompts",
    "Report",
    "Segmentation",
    "SegmentationOptions",
    "Settings",
    "TuningOptions",
    "load_model",
    "segment",
    "specialize",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
