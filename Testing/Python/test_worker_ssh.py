"""Workers on another machine, for which an ssh of the test's own stands in."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Callable

import pytest

import PromptSegLib as ps
from harness import brisk
from harness.worker_harness import (
    Driven,
    is_expected,
    tuning,
)
from PromptSegLib.worker.launch import environment, ssh_command

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ends processes by signals")

FAKE = """#!{python}
import json, os, subprocess, sys
arguments = sys.argv[1:]
with open({record!r}, "w") as file:
    json.dump(arguments, file)
{body}
"""


@pytest.fixture
def ssh(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Puts an ssh first on the path that does what it is told; gives the file with the arguments it was given."""
    folder, record = tmp_path / "bin", tmp_path / "arguments.json"
    folder.mkdir()
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))

    def install(body: str, name: str = "ssh") -> Path:
        (folder / name).write_text(FAKE.format(python=sys.executable, record=str(record), body=body))
        (folder / name).chmod(0o755)
        return record

    return install


def test_the_same_job_works_over_ssh(ssh, models, case, expected, tmp_path):
    record = ssh('os.execvp("sh", ["sh", "-c", arguments[-1]])')  # as the shell there would
    remote = tmp_path / "bin" / "promptseg"
    remote.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{brisk.__file__}" "$@"\n')
    remote.chmod(0o755)
    driven = Driven(lambda folder: ssh_command("me@gpu"), environment(1), files=False, place="me@gpu")
    try:
        job = tuning(driven, models / "tiny0.safetensors", case, "a")
        assert is_expected(driven.last("done", job), expected, case)
    finally:
        driven.worker.kill()
    assert driven.end() == ""
    arguments = json.loads(record.read_text())
    assert arguments[-2:] == ["me@gpu", "promptseg worker"]
    options = arguments[:-2]
    assert options[0] == "-T" and options[options.index("BatchMode=yes") - 1] == "-o"
    assert not any(option.startswith("-t") for option in options)


@pytest.mark.parametrize(
    "body, words",
    [
        ("sys.exit('me@gpu: Permission denied (publickey).\\n\\n')", "Permission denied"),
        ("print('ssh: Could not resolve hostname gpu', file=sys.stderr); sys.exit(255)", "resolve hostname"),
        ("sys.exit(255)", "exit code 255"),
        ("print('Welcome to the cluster', flush=True); sys.exit(127)", "cannot be read"),
        ("print('Welcome to the cluster', flush=True); sys.stdin.read()", "cannot be read"),
    ],
)
def test_an_ssh_that_fails_is_told_with_the_host(ssh, body, words):
    ssh(body)
    driven = Driven(lambda folder: ssh_command("me@gpu"), environment(), files=False, place="me@gpu")
    driven.worker.submit("prepare", {})
    message = driven.end()
    assert message.startswith("No worker could be started on me@gpu (") and words in message
    assert message.endswith("try ssh me@gpu in a terminal first.")


@pytest.mark.parametrize(
    "host", ["-oProxyCommand=x", "-x", "", " gpu", "gpu host", "gpu;ls", "gpu\n", "$(ls)", "`ls`", "a'b", "@gpu", "a/b"]
)
def test_what_is_no_host_is_refused(ssh, host):
    ssh("")
    with pytest.raises(ps.PromptSegError) as told:
        ssh_command(host)
    assert "host" in str(told.value)
    driven = Driven(lambda folder: ssh_command(host), environment(), files=False, place=host)
    assert driven.end() == str(told.value)


@pytest.mark.parametrize("host", ["gpu", "me@gpu-1.example.org", "10.0.0.7", "user_1@host", "2001:db8::1"])
def test_hosts_are_taken_as_they_are(ssh, host):
    ssh("")
    assert ssh_command(host, "other worker")[-2:] == [host, "other worker"]


def test_without_ssh_that_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ps.PromptSegError, match="no ssh on this machine"):
        ssh_command("gpu")
