"""What the user chose in the panel; the module's parameter node has the same names, types and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

AUTO = "auto"  # the method that fits what is annotated


@dataclass
class Parameters:
    """Node fields hold MRML nodes or None.

    :param model: name in the catalogue; "" is its first.
    :param host: for the device ``ssh``, as one writes it for ssh.
    :param seconds: budget of the first tuning; a retuning takes a third.
    :param threads: of the worker on this machine; 0 is one per core.
    :param examples: further volumes, whose own segmentations teach, too.
    :param smoothing: mm, standard deviation; 0 is off.
    :param live: grow what is painted after each stroke.
    """

    volume: Optional[Any] = None
    segmentation: Optional[Any] = None
    model: str = ""
    device: str = "auto"
    host: str = ""
    unpainted: str = "unknown"
    method: str = "auto"
    mode: str = "decoder"
    seconds: float = 30.0
    threads: int = 0
    overlap: str = "keep"
    largestComponent: bool = False
    fillHoles: bool = False
    smoothing: float = 0.0
    opacity: float = 0.5
    show3D: bool = False
    live: bool = True
    examples: list = field(default_factory=list)
