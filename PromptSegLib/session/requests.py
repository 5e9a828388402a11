"""Nodes and choices as what a worker takes."""

from __future__ import annotations

from typing import Mapping, Optional, Sequence

import numpy as np
import SimpleITK as sitk

from ..imaging.geometry import Grid, resample
from ..inference.result import Segmentation
from ..prompts.store import Prompts
from ..scene.volumes import modality_of_volume, voxels_of_volume
from ..worker import packing
from ..worker.client import Event, Sent, Worker
from ..worker.contract import Annotated, Reply
from ..worker.launch import environment, local_command, ssh_command
from ..worker.packing import grid_of, grid_values
from .codes import annotation_of
from .parameters import Parameters


def worker_key(parameters: Parameters) -> tuple:
    """What makes another worker necessary when it changes."""
    if parameters.device == "ssh":
        return ("ssh", parameters.host)
    return ("local", parameters.threads)


def start_worker(parameters: Parameters) -> Worker:
    """A worker where the user wants it; raises :class:`PromptSegError` for a host that cannot be one."""
    if parameters.device == "ssh":
        command = ssh_command(parameters.host)
        return Worker(lambda _: command, files=False, place=parameters.host)
    return Worker(local_command, environment(parameters.threads))


def device_of(parameters: Parameters) -> str:
    """The device as the worker knows it."""
    return "auto" if parameters.device == "ssh" else parameters.device


def image_of(volume_node) -> Sent:
    """A volume for the worker; its voxels are read when they are sent, by another thread."""
    voxels = voxels_of_volume(volume_node)
    modality = modality_of_volume(volume_node)
    values = {"grid": grid_values(voxels.grid), "modality": modality}
    return Sent(repr((voxels.state, modality)), values, voxels.array)


def annotated(
    image: Sent, name: str, codes: sitk.Image, values: Mapping[int, int], taken: Sequence[int], complete: bool
) -> Annotated:
    """An example as the worker takes it.

    :param values: number of a class -> its value in the annotation.
    """
    annotation, background, barred = annotation_of(codes, values, taken)
    voxels = sitk.GetArrayFromImage(annotation)
    return Annotated(image.key, Grid.of(annotation), voxels, background, complete, barred, name)


def segmentation_of(event: Event) -> Segmentation:
    """The labels of a ``preview`` or ``done``, with their classes, where to look, and what there is to say of them."""
    without = {name: array for name, array in event.arrays.items() if name != "prompts"}
    return Reply.unpack(event.values, without).result


def full_of(event: Event) -> Optional[sitk.Image]:
    """Labels of a ``done`` as the retuned prompts have them everywhere; None where they are those of the event."""
    without = {name: array for name, array in event.arrays.items() if name != "prompts"}
    return Reply.unpack(event.values, without).full


def prompts_of(event: Event) -> Prompts:
    """The prompts that come with a ``preview`` or ``done`` of a tuning."""
    return packing.prompts_of(event.arrays["prompts"])


def on_grid(codes: sitk.Image, grid: Grid) -> np.ndarray:
    """Codes on another grid (nearest neighbour), (z, y, x); 0 outside."""
    # A copy: a view would outlive its image.
    return sitk.GetArrayFromImage(resample(codes, grid, sitk.sitkNearestNeighbor, 0))


def map_of(event: Event) -> sitk.Image:
    """The uncertainty of a ``done``: uint8, 0..255, on the model's grid."""
    return grid_of(event.values["map_grid"]).image(event.arrays["map"])
