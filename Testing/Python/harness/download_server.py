"""A server of models on this machine that behaves as it is told, and a folder for what is downloaded from it."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.catalogue_fixtures import PROMPTS, WEIGHTS, remote, set_up
from PromptSegLib.errors import PromptSegError
from PromptSegLib.models import catalogue
from PromptSegLib.models import download as module
from PromptSegLib.models.download import download

NAME = "mr-knee"
FILES = {f"/{NAME}.safetensors": WEIGHTS, f"/{NAME}.prompts": PROMPTS}


class Server(ThreadingHTTPServer):
    """Serves ``FILES`` with ranges; ``behavior`` of the first requests is taken from ``plan``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.plan: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.release = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("127.0.0.1.nip")[0]
        wanted = self.headers.get("Range", "")
        self.server.asked.append((path, wanted))
        how = self.server.plan.pop(0) if self.server.plan else "good"
        if how.isdecimal():
            self.send_error(int(how))
            return
        content = self.server.files.get("/" + path.rpartition("/")[2])
        if content is None:
            self.send_error(404)
            return
        start = int(wanted[len("bytes=") :].partition("-")[0]) if wanted and how != "no ranges" else 0
        if start >= len(content):
            self.send_error(416)
            return
        part = content[start:]
        if how == "page":
            part = b"<html>Log in</html>"
        elif how == "damaged":
            part = part[:-1] + bytes([part[-1] ^ 1])
        self.send_response(206 if start else 200)
        if start:
            said = 0 if how == "another range" else start
            self.send_header("Content-Range", f"bytes {said}-{len(content) - 1}/{len(content)}")
        if how != "no length":
            self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if how == "breaks":
            self.wfile.write(part[: len(part) // 2])
        elif how == "waits":
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.server.release.wait(60)
            self.wfile.write(part[len(part) // 2 :])
        else:
            self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.release.set()
        running.shutdown()


@pytest.fixture
def folder(server, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(module, "_BLOCK", 250)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return set_up(monkeypatch, tmp_path, remote(NAME, server.address))


def entry() -> catalogue.Entry:
    return catalogue.find_name(NAME)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


WHOLE = {f"{NAME}.safetensors": WEIGHTS, f"{NAME}.prompts.safetensors": PROMPTS}


def refused(word: str) -> str:
    """The sentence of a download that fails, which leaves nothing that counts as installed."""
    with pytest.raises(PromptSegError) as caught:
        download(entry())
    said = str(caught.value)
    assert word in said
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) < 400
    assert not entry().installed
    return said
