"""A job that runs out of memory is done with less, and says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Iterator

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import PromptSegLib as ps
from harness.tiny_model import CLASSES
from harness.worker_harness import BRIEF, image_of, is_expected, labels_of, one_sentence, strokes_of
from PromptSegLib.cli.main import main
from PromptSegLib.errors import is_out_of_memory
from PromptSegLib.inference import segmenting
from PromptSegLib.models import backbone as backbone_module
from PromptSegLib.models.feature_cache import FeatureCache
from PromptSegLib.progress import Cancelled, ProgressHandle
from PromptSegLib.tuning import parts as parts_module
from PromptSegLib.tuning import pipeline as tuning_module
from PromptSegLib.tuning.options import TuningOptions
from PromptSegLib.tuning.parts import tune_in_parts
from PromptSegLib.tuning.settings import Settings
from PromptSegLib.worker.client import Event
from PromptSegLib.worker.jobs import JobHandlers, _in_time
from PromptSegLib.worker.messages import Message
from PromptSegLib.worker.packing import packed_prompts, prompts_of
from PromptSegLib.worker.thrift import STEPS, Thrift, smaller, sparingly

pytestmark = pytest.mark.usefixtures("brisk_growing")

OUT = {
    "python": MemoryError(),
    "numpy": np.core._exceptions._ArrayMemoryError((9, 9), np.dtype("f4"))
    if np.__version__ < "2"
    else np._core._exceptions._ArrayMemoryError((9, 9), np.dtype("f4")),
    "torch": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cuda driver": RuntimeError("CUDA error: out of memory"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 7 GB)"),
    "itk": RuntimeError(
        "Exception thrown in SimpleITK: itk::MemoryAllocationError: Failed to allocate memory for image."
    ),
    "system": OSError(12, "Cannot allocate memory"),
    "c++": RuntimeError("std::bad_alloc"),
}
NOT_OUT = [
    RuntimeError("a bug"),
    OSError(28, "No space left on device"),
    ps.PromptSegError("not enough memory."),
    KeyError("x"),
]


@pytest.mark.parametrize("name", OUT)
def test_what_running_out_of_memory_looks_like(name):
    assert is_out_of_memory(OUT[name])


@pytest.mark.parametrize("error", NOT_OUT, ids=repr)
def test_what_does_not_look_like_it(error):
    assert not is_out_of_memory(error)


# The steps


def attempts(fails: int, on_gpu: bool, error: Exception = OUT["python"]):
    """What is tried when so many attempts fail."""
    tried, told = [], []

    def attempt(thrift: Thrift) -> str:
        tried.append(thrift)
        if len(tried) <= fails:
            raise error
        return "done"

    result, thrift = sparingly(attempt, ProgressHandle(lambda report: told.append(report.stage)), lambda: on_gpu)
    assert result == "done" and thrift is tried[-1]
    return tried, told


def test_without_need_nothing_is_spared_and_nothing_said():
    tried, told = attempts(0, on_gpu=True)
    assert tried == [Thrift()] and not told and not tried[0].note


@pytest.mark.parametrize("error", OUT.values(), ids=list(OUT))
def test_each_attempt_needs_less_and_says_so(error):
    tried, told = attempts(len(STEPS) - 1, False, error)
    assert tried == list(STEPS) and not any(each.cpu for each in tried)
    assert len(told) == len(STEPS) - 1 and all("memory ran short" in words for words in told)
    shares = [np.prod(each.parts) for each in tried]
    assert shares == sorted(shares) and tried[-1].at_once < 3 and not tried[1].caches


def test_the_cpu_is_tried_when_the_gpu_is_too_small_in_every_way():
    tried, told = attempts(len(STEPS), on_gpu=True)
    assert [each.cpu for each in tried] == [False] * len(STEPS) + [True]
    assert "on the CPU" in told[-1] and "on the CPU" in tried[-1].note


@pytest.mark.parametrize("on_gpu", [False, True])
def test_when_nothing_helps_the_last_error_is_raised(on_gpu):
    with pytest.raises(MemoryError):
        attempts(99, on_gpu)


def test_another_error_is_not_tried_again():
    with pytest.raises(KeyError):
        attempts(1, True, KeyError("x"))


@pytest.mark.parametrize("thrift", STEPS[1:], ids=lambda each: each.words)
@pytest.mark.parametrize("cpu", [False, True])
def test_every_note_is_one_sentence(thrift, cpu):
    note = replace(thrift, cpu=cpu).note
    assert one_sentence(note) and note.startswith("Memory ran short") and ("CPU" in note) == cpu
    assert ("borders may differ" in note) == (thrift.parts != (1, 1, 1))


def test_cancel_is_heard_between_attempts():
    def attempt(thrift: Thrift) -> None:
        raise MemoryError

    with pytest.raises(Cancelled):
        sparingly(attempt, ProgressHandle(None, lambda: True), lambda: False)


def test_what_failed_is_let_go_before_the_next_attempt():
    """Its tensors hang on the frames of the exception."""

    class Tensor:
        alive = 0

        def __init__(self):
            Tensor.alive += 1

        def __del__(self):
            Tensor.alive -= 1

    seen = []

    def attempt(thrift: Thrift) -> None:
        seen.append(Tensor.alive)
        big = Tensor()
        if len(seen) < 3:
            raise MemoryError
        del big

    sparingly(attempt, ProgressHandle(), lambda: False)
    assert seen == [0, 0, 0]


@pytest.mark.parametrize(
    "size, part, step, found", [(96, 2, 32, 64), (128, 2, 32, 64), (48, 2, 16, 32), (48, 1, 16, 48)]
)
def test_smaller_tiles_are_whole_voxels_of_the_coarsest_level(size, part, step, found):
    assert smaller(size, part, step) == found
    assert smaller(16, 2, 16) == 16  # there is nothing left to cut


# Jobs


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the worker of these tests: sums of floats depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def scarce(monkeypatch) -> Callable:
    """Lets torch run out of memory in tunings or segmentations so many times; what was tried."""
    tried: list[tuple] = []

    def install(kind: str, times: int, error: Exception = OUT["torch"]) -> list[tuple]:
        def wrapped(original: Callable, name: str) -> Callable:
            def call(one, two, three=None, *arguments, **keywords):
                tried.append((name, three, keywords))
                if name == kind and sum(each[0] == kind for each in tried) <= times:
                    raise error
                return original(one, two, three, *arguments, **keywords)

            return call

        for module, name in ((tuning_module, "tune"), (parts_module, "tune"), (segmenting, "segment")):
            monkeypatch.setattr(module, name, wrapped(getattr(module, name), name))
        return tried

    return install


def done(name: str, values: dict, arrays: dict, case: ps.Example, jobs: JobHandlers) -> tuple[Event, list]:
    """A job as a worker does it, here."""
    sent, reports, previews = image_of(case, "image"), [], []
    jobs.add_image(Message("image", {"key": "image", **sent.values}, {"voxels": sent.voxels}))
    message = Message("job", {"name": name, "device": "cpu", **values}, arrays)
    values, arrays = jobs.run(message, ProgressHandle(reports.append), lambda *each: previews.append(each))
    return Event("done", 1, values, arrays), [each.stage for each in reports]


def tuned(models, case, jobs=None, **changes) -> tuple[Event, list]:
    values = {
        "model": str(models / "tiny0.safetensors"),
        "settings": BRIEF,
        "classes": CLASSES,
        "examples": [strokes_of(case, "image")],
        "previews": False,
        **changes,
    }
    return done("tune", values, {"annotation0": sitk.GetArrayFromImage(case.annotation)}, case, jobs or JobHandlers())


def test_a_tuning_that_only_drops_caches_gives_the_same(scarce, models, case, expected):
    scarce("tune", 1)
    event, stages = tuned(models, case)
    assert is_expected(event, expected, case)
    assert event.values["note"] == STEPS[1].note and any("memory ran short" in stage for stage in stages)


@pytest.mark.parametrize("times", [2, 3])
def test_a_tuning_in_smaller_tiles_has_the_same_classes_and_says_so(scarce, models, case, times):
    scarce("tune", times)
    event, _ = tuned(models, case, classes={**CLASSES})
    assert event.values["note"] == STEPS[times].note and "borders may differ" in event.values["note"]
    assert set(prompts_of(event.arrays["prompts"]).names) == set(CLASSES)
    assert [each["name"] for each in event.values["classes"]] == list(CLASSES)
    labels, painted = labels_of(event, case.image), sitk.GetArrayFromImage(case.annotation)
    assert set(np.unique(labels)) <= {0, *CLASSES.values()}
    for value in CLASSES.values():
        assert (labels[painted == value] == value).all() and (labels == value).sum() > (painted == value).sum()


def test_prompts_that_are_tuned_are_not_tuned_again_when_memory_runs_out_afterwards(scarce, models, case, expected):
    tried = scarce("segment", 1)
    event, _ = tuned(models, case)
    assert [each[0] for each in tried] == ["tune", "segment", "segment"]
    assert is_expected(event, expected, case) and event.values["note"]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_segmenting_steps_down(scarce, models, case, expected, times):
    tried = scarce("segment", times)
    values = {"model": str(models / "tiny0.safetensors"), "strokes": strokes_of(case, "image")}
    arrays = {"prompts": packed_prompts(expected.prompts), "annotation0": sitk.GetArrayFromImage(case.annotation)}
    event, _ = done("segment", values, arrays, case, JobHandlers())
    assert event.values["note"] == STEPS[times].note
    tiles = [np.prod(each[1].tile) for each in tried]
    assert tiles == sorted(tiles, reverse=True) and tried[-1][2]["options"].quick == (times == 3)
    labels, whole = labels_of(event, case.image), sitk.GetArrayFromImage(expected.result.labels)
    assert np.array_equal(labels, whole) if times == 1 else (labels == whole).mean() > 0.9
    assert set(np.unique(labels)) == set(np.unique(whole))


def test_getting_ready_is_given_up_quietly(models, case, monkeypatch):
    from PromptSegLib.inference import class_margins

    def out(*arguments):
        raise OUT["torch"]

    monkeypatch.setattr(class_margins, "encode_tiles", out)
    values = {"model": str(models / "tiny0.safetensors"), "image": "image"}
    event, _ = done("prepare", values, {}, case, JobHandlers())
    assert event.values["device"]


def test_the_next_job_begins_as_usual(scarce, models, case, expected):
    jobs = JobHandlers()
    scarce("tune", 3)
    assert tuned(models, case, jobs)[0].values["note"] == STEPS[3].note
    event, stages = tuned(models, case, jobs)
    assert "note" not in event.values and is_expected(event, expected, case)
    assert not any("memory" in stage for stage in stages)


def test_a_job_that_no_step_helps_fails_as_before(scarce, models, case):
    scarce("tune", 99)
    with pytest.raises(RuntimeError, match="allocate memory"):
        tuned(models, case)


def test_what_is_too_large_for_the_gpu_is_computed_on_the_cpu(scarce, models, case, expected, monkeypatch):
    monkeypatch.setattr(backbone_module.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backbone_module.torch.cuda, "empty_cache", lambda: None)
    loaded, load = [], backbone_module.load_model

    def load_model(model, device):
        loaded.append(device)
        return load(model, "cpu")

    monkeypatch.setattr(backbone_module, "load_model", load_model)
    scarce("tune", len(STEPS), OUT["cuda"])
    event, _ = tuned(models, case, device="auto")
    assert set(loaded) == {"auto", "cpu"} and loaded[-1] == "cpu"
    assert "on the CPU" in event.values["note"] and is_expected(event, expected, case)


def test_a_gpu_that_is_full_when_the_model_comes_is_not_used(models, case, expected, monkeypatch):
    monkeypatch.setattr(backbone_module.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backbone_module.torch.cuda, "empty_cache", lambda: None)
    load = backbone_module.load_model

    def load_model(model, device):
        if device != "cpu":
            raise OUT["cuda"]
        return load(model, "cpu")

    monkeypatch.setattr(backbone_module, "load_model", load_model)
    event, _ = tuned(models, case, device="auto")
    assert "on the CPU" in event.values["note"] and is_expected(event, expected, case)


def test_another_attempt_has_no_more_time_than_the_user_gave(scarce, models, case):
    tried = scarce("tune", 1)
    tuned(models, case, settings={"seconds": 0.2, "token_steps": 1})
    budgets = [each[2]["settings"].seconds for each in tried if each[0] == "tune"]
    assert budgets[0] == 0.2 and 0.1 <= budgets[1] < 0.2


# Classes in turn


def test_parts_of_classes_give_what_all_of_them_give(expected, case):
    """The same classes with their values and colors, the same strokes; each part a group of its own."""
    parts = [{name: value} for name, value in CLASSES.items()]
    settings = ps.Settings(**BRIEF)
    prompts = tune_in_parts(
        [case],
        parts,
        expected.backbone,
        start=None,
        settings=settings,
        options=TuningOptions(feature_cache=FeatureCache()),
    )
    assert prompts.names == expected.prompts.names and prompts.values == expected.prompts.values
    assert [each.image for each in prompts.strokes] == [each.image for each in expected.prompts.strokes]
    values = list(CLASSES.values())
    for one, other in zip(prompts.strokes, expected.prompts.strokes):
        assert np.array_equal(one.unpack(values), other.unpack(values))
    assert len(prompts.groups()) == len(parts)
    result = sitk.GetArrayFromImage(ps.segment(prompts, case.image, expected.backbone).labels)
    painted = sitk.GetArrayFromImage(case.annotation)
    for value in values:
        assert (result[painted == value] == value).all() and (result == value).sum() > (painted == value).sum()


@pytest.mark.parametrize("complete", [False, True])
def test_parts_do_without_a_background(expected, case, complete):
    """What is painted of the other classes is background enough."""
    bare = replace(case, background=None, complete=complete)
    parts = [{name: value} for name, value in CLASSES.items()]
    prompts = tune_in_parts([bare], parts, expected.backbone, start=None, settings=ps.Settings(steps=1, token_steps=2))
    assert prompts.names == list(CLASSES)


def test_parts_keep_the_other_classes_of_the_given_prompts(expected, case):
    start = ps.tune([case], {"ball": CLASSES["ball"]}, expected.backbone, settings=ps.Settings(**BRIEF))
    prompts = tune_in_parts(
        [replace(case, background=7)],
        [{"rod": CLASSES["rod"]}],
        expected.backbone,
        start=start,
        settings=ps.Settings(**BRIEF),
    )
    assert prompts.names == ["ball", "rod"]
    for key, tensor in start.find("ball").tensors.items():
        assert np.array_equal(tensor, prompts.find("ball").tensors[key])


# Command line


def test_the_command_line_says_so(scarce, models, case, tmp_path, capsys):
    sitk.WriteImage(case.image, str(tmp_path / "ct.nrrd"))
    sitk.WriteImage(case.annotation, str(tmp_path / "strokes.nrrd"))
    scarce("tune", 2)
    common = ["--model", str(models / "tiny0.safetensors"), "--device", "cpu"]
    classes = [f"{name}={value}" for name, value in CLASSES.items()]
    given = [
        "--example",
        str(tmp_path / "ct.nrrd"),
        str(tmp_path / "strokes.nrrd"),
        "--background",
        str(case.background),
    ]
    prompts = str(tmp_path / "p.safetensors")
    assert main(["tune", *given, "--classes", *classes, "--steps", "1", "-o", prompts, *common]) == 0
    assert STEPS[2].note in capsys.readouterr().err
    scarce("segment", 1)
    assert main(["segment", prompts, str(tmp_path / "ct.nrrd"), "-o", str(tmp_path / "out.nrrd"), *common]) == 0
    assert STEPS[1].note in capsys.readouterr().err
    assert (tmp_path / "out.nrrd").is_file()


def test_the_result_of_many_classes_is_in_time_too():
    """What the result will take after the tuning, as the first look took it, is left of the user's seconds."""
    settings = Settings(seconds=40.0)
    assert _in_time(settings, 1.0, None).seconds == 40.0  # nothing was looked at, so nothing is known
    assert _in_time(settings, 2.0, 2.0).seconds == 40.0  # few classes: seconds after the tuning
    assert _in_time(settings, 11.0, 10.0).seconds == pytest.approx(40 + 5 - 11 - 12)
    assert _in_time(settings, 60.0, 50.0).seconds == 16.0  # a part of the seconds is tuned in any case
    assert _in_time(Settings(steps=3), 60.0, 50.0) == Settings(steps=3)
