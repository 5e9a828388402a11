"""How a run is launched: devices, processes, signals, and the command on the card."""

from __future__ import annotations

import json
import shlex
import signal

import pytest
import torch

from harness.pretraining_fixtures import loaded, quiet
from PromptSegLib.cli import pretraining
from PromptSegLib.cli.main import _parser, main
from PromptSegLib.errors import PromptSegError
from PromptSegLib.pretraining import process
from PromptSegLib.pretraining import run as running
from PromptSegLib.pretraining.process import asked_to_end
from PromptSegLib.pretraining.run import Pretraining

pytest_plugins = ["harness.pretraining_fixtures"]


@pytest.mark.parametrize(
    "settings, said", [({"device": "mps"}, "does not run on mps"), ({"workers": 1}, "cannot fork")]
)
def test_what_cannot_train_is_refused(recipe, tmp_path, monkeypatch, settings, said):
    monkeypatch.setattr(running.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(PromptSegError, match=said):
        Pretraining(recipe, tmp_path / "run", log=quiet, **settings)


@pytest.mark.parametrize("other", [{}, {"step": "x"}, {"recipe": "x", "cases": "x"}])
def test_processes_that_differ_are_stopped(recipe, tmp_path, monkeypatch, other):
    def gather(everyone: list, mine: dict) -> None:
        everyone[:] = [mine, {**mine, **other}]

    run = Pretraining(recipe, tmp_path / "run", log=quiet)
    run.ranks.count = 2
    monkeypatch.setattr(process.distributed, "all_gather_object", gather)
    if not other:
        run._check_processes()
        return
    with pytest.raises(PromptSegError, match=f"differ in {' and '.join(other)};"):
        run._check_processes()


@pytest.mark.parametrize(
    "words, environment, said",
    [
        (["--workers", "-1"], {}, "--workers: '-1' is not a whole number from 0"),
        (["--threads", "many"], {}, "--threads: 'many' is not a whole number from 0"),
        ([], {"WORLD_SIZE": "abc", "RANK": "0"}, "WORLD_SIZE is 'abc', not a number"),
        ([], {"WORLD_SIZE": "2", "RANK": "2"}, "RANK 2 is not below WORLD_SIZE 2"),
        (["--device", "cuda:0"], {"WORLD_SIZE": "2", "RANK": "0"}, "give --device cuda"),
    ],
)
def test_a_launch_that_is_wrong_gets_a_sentence(values, tmp_path, monkeypatch, capsys, words, environment, said):
    loaded(values, tmp_path)
    for name, value in {**environment, **({"MASTER_ADDR": "here", "MASTER_PORT": "1"} if environment else {})}.items():
        monkeypatch.setenv(name, value)
    try:
        code = main(["pretrain", str(tmp_path / "tiny.json"), "-o", str(tmp_path / "run"), *words])
    except SystemExit as stopped:  # argparse
        code = stopped.code
    err = capsys.readouterr().err
    assert code == 2 and said in err and err.count("\n") == 1


@pytest.mark.parametrize("size", ["abc", "2"])
def test_a_world_size_without_a_launcher_means_nothing(values, tmp_path, monkeypatch, capsys, size):
    loaded(values, tmp_path, steps=1)
    monkeypatch.setenv("WORLD_SIZE", size)
    words = [str(tmp_path / "tiny.json"), "--output", str(tmp_path / "my run"), "--device", "cpu"]
    assert main(["pretrain", *words]) == 0
    out = capsys.readouterr().out
    card = json.loads(out[out.index("{\n") :])["card"]
    assert card["command"] == f"python -m PromptSegLib pretrain {shlex.join(words)}" and card["processes"] == 1


def test_processes_that_do_not_find_each_other(values, tmp_path, monkeypatch, capsys):
    loaded(values, tmp_path)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)

    def lost(_: str) -> None:
        raise torch.distributed.DistError("The client socket has timed out\nand more")

    monkeypatch.setattr(torch.distributed, "init_process_group", lost)
    assert main(["pretrain", str(tmp_path / "tiny.json"), "-o", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert "do not find each other (The client socket has timed out); start them with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "ranks, here, launcher",
    [
        (1, None, "python -m PromptSegLib"),
        (4, "4", "torchrun --nproc-per-node 4 -m PromptSegLib"),
        (8, "4", "torchrun --nnodes 2 --nproc-per-node 4 -m PromptSegLib"),
    ],
)
def test_the_command_on_the_card(monkeypatch, ranks, here, launcher):
    if here:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    options = _parser().parse_args(["pretrain", "my recipe.json", "-o", "run", "--workers", "3", "--bundle"])
    wanted = f"{launcher} pretrain 'my recipe.json' --output run --workers 3 --bundle"
    assert pretraining._pretrain_command(options, ranks) == wanted


def test_a_launcher_may_pass_on_what_the_group_was_sent(request):
    # Tests that run side by side ignore Ctrl+C; a user's terminal does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    for number in (signal.SIGTERM, signal.SIGINT):
        with asked_to_end(alone=False) as ended:
            for _ in range(2):
                signal.raise_signal(number)
                assert ended()
    with pytest.raises(KeyboardInterrupt), asked_to_end(alone=True):
        for _ in range(2):  # a user who does not want to wait
            signal.raise_signal(signal.SIGINT)
