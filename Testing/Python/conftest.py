"""What several tests share: a synthetic scan with strokes painted on it, as files."""

from __future__ import annotations

import gc
import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Callable, Iterator

import numpy as np
import pytest
import SimpleITK as sitk

pytest.register_assert_rewrite("harness")

SLOW = ("training", "application")
LONG = ("test_replay.py", "test_real_data.py")  # of the slow tier: minutes each, in one process


def pytest_collection_finish() -> None:
    """What was imported for the tests stays: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu-seconds", help="file to append the processor seconds of each test to")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--cpu-seconds", None)
    if path:
        from harness.cpu_seconds import CpuSeconds

        config.pluginmanager.register(CpuSeconds(Path(path).resolve()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What has no other mark is fast. Files with workers take longest, and come first: cores are busy to the end."""
    for item in items:
        if not any(item.get_closest_marker(mark) for mark in SLOW):
            item.add_marker("fast")
    long = {item.path for item in items if {"models", "workers"} & set(item.fixturenames)}
    items.sort(key=lambda item: (item.path.name not in LONG, item.path not in long))


LIVER, SPLEEN, BACKGROUND = 6, 300, 255


@pytest.fixture(scope="session", autouse=True)
def recovery_folder(tmp_path_factory) -> Iterator[None]:
    """What panels keep for recovery is not kept among the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTSEG_RECOVERY", str(tmp_path_factory.mktemp("recovery")))
        yield


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> SimpleNamespace:
    """``image`` and ``annotation`` are files, ``truth`` an array (z, y, x): two bright balls in a gray body, in air.

    Two strokes through each ball (values ``LIVER`` and ``SPLEEN``) and some beside them (``BACKGROUND``). The voxels
    are 3 mm, the axes of the image are not those of the patient.
    """
    folder: Path = tmp_path_factory.mktemp("phantom")
    z, y, x = np.ogrid[:48, :64, :64]
    voxels = np.full((48, 64, 64), -1000.0)
    voxels[((y - 32) / 30) ** 2 + ((x - 32) / 28) ** 2 + 0 * z < 1] = -20
    truth = np.zeros(voxels.shape, np.uint16)
    for value, intensity, center, radius in ((LIVER, 110, (24, 28, 20), 11), (SPLEEN, 160, (26, 36, 46), 8)):
        ball = sum((axis - at) ** 2 for axis, at in zip((z, y, x), center)) < radius**2
        voxels[ball], truth[ball] = intensity, value
    voxels += np.random.default_rng(0).normal(0, 8, voxels.shape)
    painted = np.zeros(voxels.shape, np.uint16)
    for at, row in ((22, 28), (28, 30)):
        painted[at, row, 15:26] = LIVER
    for at, row in ((24, 36), (29, 38)):
        painted[at, row, 43:50] = SPLEEN
    painted[24, 8, 20:45] = painted[30, 54, 20:45] = BACKGROUND
    assert not ((painted == LIVER) & (truth != LIVER)).any()
    assert not ((painted == SPLEEN) & (truth != SPLEEN)).any()

    def written(array: np.ndarray, name: str) -> Path:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((3.0, 3.0, 3.0))
        image.SetOrigin((-80.0, 70.0, -300.0))
        image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(folder / name), True)
        return folder / name

    return SimpleNamespace(
        folder=folder,
        image=written(voxels.astype(np.int16), "scan.nrrd"),
        annotation=written(painted, "strokes.nrrd"),
        reference=written(truth, "truth.nrrd"),
        truth=truth,
        painted=painted,
    )


@pytest.fixture(scope="module")
def benchmark_module() -> Iterator[Callable[[str], ModuleType]]:
    """Gives a module of ``Testing/Benchmark`` by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).resolve().parents[1] / "Benchmark")
        yield importlib.import_module


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with two tiny backbones that ship prompts; nobody changes it."""
    from harness.tiny_model import LARGE_TILE, tiny_backbone  # not at the top: it needs torch, which most tests do not

    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        tiny_backbone(folder, seed, shipped=True, tile=LARGE_TILE)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A tiny backbone that ships prompts, as a file; nobody changes it."""
    from harness.tiny_model import tiny_backbone

    folder = tmp_path_factory.mktemp("model")
    tiny_backbone(folder, shipped=True)
    return folder / "tiny0.safetensors"


@pytest.fixture(scope="session")
def case() -> Any:
    """An example for jobs of a worker: the phantom with its strokes."""
    from harness.tiny_model import example

    return example()


@pytest.fixture(scope="session")
def expected(models, case) -> SimpleNamespace:
    """What those jobs give without a worker, where growing is as brisk as in theirs."""
    from harness import brisk
    from harness.worker_harness import given_without_a_worker

    with pytest.MonkeyPatch.context() as patch:
        brisk.spare(patch.setattr, brisk.FEWER)
        return given_without_a_worker(models, case)


@pytest.fixture(scope="module")
def brisk_growing(request) -> Iterator[None]:
    """Growing and fitting held-back slices take little of a module's time: they are tested in others. Jobs grow as in
    the worker of the tests."""
    from harness import brisk

    jobs = request.module.__name__.rpartition(".")[2].startswith("test_worker")
    with pytest.MonkeyPatch.context() as patch:
        brisk.spare(patch.setattr, brisk.FEWER if jobs else brisk.VOXELS)
        yield


@pytest.fixture(scope="session")
def workers() -> Iterator[Any]:
    """A worker process that sessions share, of all modules; one that a test ends is started again."""
    from harness.mrml_fixtures import Workers

    lent = Workers()
    yield lent
    lent.end()


@pytest.fixture
def desk(models, workers) -> Iterator[Any]:
    """A desk with the usual strokes painted."""
    from harness.mrml_fixtures import paint_strokes
    from harness.session_harness import Desk

    desk = Desk(models, workers)
    paint_strokes(desk.segmentation, desk.volume, desk.reference)
    yield desk
    desk.close()


@pytest.fixture
def blank_desk(models, workers) -> Iterator[Any]:
    from harness.session_harness import Desk

    desk = Desk(models, workers)
    yield desk
    desk.close()


@pytest.fixture
def oblique_desk(models, workers) -> Iterator[Any]:
    from harness.mrml_volumes import rotation
    from harness.session_harness import SHIFTED, Desk

    desk = Desk(models, workers, direction=tuple(rotation(20, -35, 50).ravel()), matrix=SHIFTED)
    yield desk
    desk.close()


@pytest.fixture
def session_with() -> Iterator[Any]:
    """Gives a session on a painted volume whose worker follows a script, and that worker."""
    from harness.mrml_fixtures import add_volume, new_session, paint_strokes
    from harness.scene_files import new_scene
    from harness.scripted_worker import ScriptedWorker

    made = []

    def build(script):
        scene = new_scene()
        volume, reference = add_volume(scene)
        worker = ScriptedWorker(script)
        session = new_session(scene, "ct-body", {"make_worker": lambda parameters: worker})
        session.inputs.choose_volume(volume)
        paint_strokes(session.inputs.ensure_segmentation(), volume, reference)
        made.append(session)
        return session, worker

    yield build
    for session in made:
        session.close()
