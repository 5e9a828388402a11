"""Downloads from a server on this machine: progress, going on, two at once, cancelling, deleting."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock

from harness.catalogue_fixtures import PROMPTS, WEIGHTS
from harness.download_server import FILES, NAME, WHOLE, contents, entry, refused
from PromptSegLib.cli.main import main
from PromptSegLib.errors import PromptSegError
from PromptSegLib.models import catalogue
from PromptSegLib.models import download as module
from PromptSegLib.models.download import delete, download
from PromptSegLib.progress import Cancelled, ProgressHandle, Report

pytest_plugins = ["harness.download_server"]

# Good


def test_download(folder, server):
    reports: list[Report] = []
    found = download(entry(), ProgressHandle(reports.append))
    assert contents(folder) == WHOLE
    assert found == entry()
    assert found.installed
    assert (found.path, found.prompts) == (folder / f"{NAME}.safetensors", folder / f"{NAME}.prompts.safetensors")
    assert [each.share for each in reports] == sorted(each.share for each in reports)
    assert reports[-1].share == 1
    assert reports[0].figures["of"] == round((len(WEIGHTS) + len(PROMPTS)) / 1e6, 1)
    assert server.asked == [(path, "") for path in FILES]


def test_downloading_what_is_here(folder, server):
    download(entry())
    server.asked.clear()
    assert download(entry()).installed
    bundled = catalogue.find("ct-body")
    assert download(bundled) is bundled
    assert server.asked == []
    (folder / f"{NAME}.safetensors").unlink()
    assert download(entry()).installed
    assert [path for path, _ in server.asked] == [f"/{NAME}.safetensors"]


def test_only_what_nobody_placed_by_hand(folder, server):
    folder.mkdir()
    (folder / "from a stick").write_bytes(WEIGHTS)
    found = download(entry())
    assert found.installed
    assert found.path == folder / "from a stick"
    assert [path for path, _ in server.asked] == [f"/{NAME}.prompts"]


@pytest.mark.parametrize("how", ["no length", "good"])
def test_answers_without_a_length(folder, server, how):
    server.plan = [how]
    assert download(entry()).installed


# Going on


def test_a_broken_connection_is_taken_up_again(folder, server):
    server.plan = ["breaks", "breaks", "good"]
    assert download(entry()).installed
    starts = [wanted for path, wanted in server.asked if path == f"/{NAME}.safetensors"]
    assert starts == ["", "bytes=3500-", "bytes=5250-"]
    assert contents(folder) == WHOLE


def test_a_connection_that_breaks_again_and_again_goes_on_at_the_next_click(folder, server):
    server.plan = ["breaks"] * module.ATTEMPTS
    assert "go on where it stopped" in refused("broke")
    (name,) = contents(folder)
    assert name == f"{NAME}.safetensors.part"
    there = (folder / name).stat().st_size
    assert 0 < there < len(WEIGHTS)
    server.asked.clear()
    assert download(entry()).installed
    assert server.asked[0][1] == f"bytes={there}-"
    assert contents(folder) == WHOLE


@pytest.mark.parametrize(
    "left",
    [b"other" * 10, b"x" * len(WEIGHTS), b"x" * (len(WEIGHTS) + 5), WEIGHTS],
    ids=["part", "whole", "more", "ok"],
)
def test_what_another_attempt_left_is_not_trusted(folder, server, left):
    folder.mkdir()
    (folder / f"{NAME}.safetensors.part").write_bytes(left)
    assert download(entry()).installed
    assert contents(folder) == WHOLE


@pytest.mark.parametrize(
    ("answer", "asked"), [("416", None), ("another range", ["bytes=100-", "", ""]), ("no ranges", None)]
)
def test_a_server_that_does_not_go_on_where_it_is_asked_to(folder, server, answer, asked):
    folder.mkdir()
    (folder / f"{NAME}.safetensors.part").write_bytes(b"x" * 100)
    server.plan = [answer]
    assert download(entry()).installed
    assert contents(folder) == WHOLE
    assert asked is None or [wanted for _, wanted in server.asked] == asked


def test_a_server_that_is_busy_for_a_moment(folder, server):
    server.plan = ["503", "429"]
    assert download(entry()).installed


def test_a_connection_that_stalls(folder, server, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.3)
    server.plan = ["waits"]
    assert download(entry()).installed
    assert server.asked[1][1] == "bytes=3500-"


# Two at once

AGAIN = "is being downloaded by another PromptSeg"


@pytest.fixture
def underway(folder, server):
    """A download in another thread that has half of the weights, and waits; gives what it returns, after the test."""
    half, found = threading.Event(), []
    job = ProgressHandle(lambda report: half.set() if report.share > 0.4 else None)
    server.plan = ["waits"]
    thread = threading.Thread(target=lambda: found.append(download(entry(), job)), daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_REPORT_SECONDS", 0.0)
        thread.start()
        assert half.wait(30)
        yield found
        server.release.set()
        thread.join(30)
    assert [each.installed for each in found] == [True]
    assert contents(folder) == WHOLE


def test_another_download_of_a_model_is_left_alone(underway, folder):
    before = contents(folder)
    assert AGAIN in refused("wait until that has ended")
    with pytest.raises(PromptSegError, match=AGAIN):
        delete(entry())
    assert contents(folder) == before


def test_another_process_is_left_alone(folder, server):
    """It holds the lock until it is killed, which leaves its file behind."""
    folder.mkdir()
    place = folder / f"{NAME}.lock"
    code = f"""
        from filelock import FileLock
        lock = FileLock({str(place)!r})
        lock.acquire()
        print("locked", flush=True)
        input()
    """
    words = [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout.readline().strip() == b"locked"
        refused(AGAIN)
        other.kill()
        other.wait()
    assert place.exists()
    assert download(entry()).installed
    assert contents(folder) == WHOLE


def test_what_another_got_just_before_the_lock_is_not_fetched_again(folder, server, monkeypatch):
    acquire = FileLock.acquire

    def late(self: FileLock, **words: object) -> object:
        for name, content in WHOLE.items():
            (folder / name).write_bytes(content)
        return acquire(self, **words)

    monkeypatch.setattr(FileLock, "acquire", late)
    assert download(entry()).installed
    assert server.asked == []
    assert contents(folder) == WHOLE


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOLCK, ""), OSError(errno.ENOTSUP, ""), NotImplementedError("no locks here")]
)
def test_a_file_system_without_locks(folder, error, monkeypatch):
    def refuse(self: FileLock, **words: object) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert download(entry()).installed


def test_without_locks_what_another_got_is_no_failure(folder, monkeypatch):
    def overtaken(part: catalogue.Download, path: Path, report: object) -> None:
        path.write_bytes(FILES["/" + part.url.rpartition("/")[2]])
        raise PromptSegError("The part is gone.")

    monkeypatch.setattr(module, "_get", overtaken)
    assert download(entry()).installed


# Cancelling


def test_cancel_keeps_what_came(folder, server, monkeypatch):
    cancelled = threading.Event()

    def seen(report: Report) -> None:
        if report.share > 0.3:
            cancelled.set()

    monkeypatch.setattr(module, "_REPORT_SECONDS", 0.0)
    with pytest.raises(Cancelled):
        download(entry(), ProgressHandle(seen, cancelled.is_set))
    assert not entry().installed
    (part,) = contents(folder).items()
    assert part[0] == f"{NAME}.safetensors.part"
    assert 0 < len(part[1]) < len(WEIGHTS)
    assert WEIGHTS.startswith(part[1])
    server.asked.clear()
    assert download(entry()).installed
    assert server.asked[0][1] == f"bytes={len(part[1])}-"


def test_cancel_before_the_first_byte(folder, server):
    with pytest.raises(Cancelled):
        download(entry(), ProgressHandle(None, lambda: True))
    assert contents(folder).get(f"{NAME}.safetensors") is None


# Deleting


def test_delete(folder):
    download(entry())
    (folder / f"{NAME}.safetensors.part").write_bytes(b"x")
    (folder / "of the user").write_bytes(b"x")
    delete(entry())
    assert contents(folder) == {"of the user": b"x"}
    assert not entry().installed
    delete(entry())  # nothing is left to delete


def test_only_downloads_are_deleted(folder):
    bundled = catalogue.find("ct-body")
    with pytest.raises(PromptSegError, match="part of PromptSeg"):
        delete(bundled)
    assert bundled.path.exists()
    with pytest.raises(PromptSegError, match="part of PromptSeg"):
        delete(catalogue.find(str(bundled.path)))
    folder.mkdir()
    (folder / "from a stick").write_bytes(WEIGHTS)
    with pytest.raises(PromptSegError, match="by hand"):
        delete(entry())
    assert contents(folder) == {"from a stick": WEIGHTS}


def test_what_cannot_be_deleted(folder, monkeypatch):
    download(entry())

    def refuse(self: Path) -> None:
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(PromptSegError, match="in use; close what uses it"):
        delete(entry())


# The command line


def run(capsys, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["models", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command(folder, server, capsys):
    code, out, err = run(capsys, "--download", NAME)
    assert (code, err) == (0, "")
    assert out == f"{NAME}  {folder / NAME}.safetensors\n"
    assert contents(folder) == WHOLE
    assert run(capsys, "--download", NAME)[0] == 0
    assert run(capsys, "--delete", NAME) == (0, "", "")
    assert contents(folder) == {}
    server.plan = ["404"]
    code, out, err = run(capsys, "--download", NAME)
    assert (code, out) == (2, "")
    assert "(404)" in err
    assert Counter(err)["\n"] == 1


@pytest.mark.parametrize("words", [("--download", "none"), ("--delete", "none"), ("--delete", "ct-body")])
def test_the_command_refuses(words, folder, capsys):
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("promptseg: ")
    assert len(err.splitlines()) == 1


def test_the_command_does_one_thing(folder, capsys):
    with pytest.raises(SystemExit):
        main(["models", "--download", NAME, "--delete", NAME])
