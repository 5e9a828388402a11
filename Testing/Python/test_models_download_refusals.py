"""Downloads that cannot be: damage, servers that refuse, full disks, proxies; one sentence each."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from types import SimpleNamespace

import pytest
import requests

from harness.catalogue_fixtures import remote, set_up
from harness.download_server import NAME, contents, entry, refused
from PromptSegLib.models import download as module
from PromptSegLib.models.download import delete, download

pytest_plugins = ["harness.download_server"]


def test_a_damaged_file(folder, server):
    server.plan = ["damaged"] * 5
    refused("SHA-256 is wrong")
    assert contents(folder) == {}
    assert len(server.asked) == 1


def test_a_login_page_in_between(folder, server):
    server.plan = ["page"] * 5
    refused("log in where your network asks you to")
    assert contents(folder) == {}


@pytest.mark.parametrize(("code", "word"), [("404", "not there (404)"), ("403", "refused"), ("407", "password")])
def test_a_server_that_refuses(folder, server, code, word):
    server.plan = [code]
    assert str(folder) in refused(word)
    assert len(server.asked) == 1


def test_a_server_that_stays_broken(folder, server):
    server.plan = ["500"] * 9
    refused("refused the download (500")
    assert len(server.asked) == module.ATTEMPTS


def test_nobody_there(folder, server, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    set_up(monkeypatch, tmp_path, remote(NAME, address))
    assert str(folder) in refused("connection")
    set_up(monkeypatch, tmp_path, remote(NAME, "http://nobody.invalid"))
    refused("There is no connection to nobody.invalid; check the network and the proxy settings")


def test_a_certificate_that_is_not_accepted(folder, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise requests.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED")

    monkeypatch.setattr(requests, "get", refuse)
    refused("certificate")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/x"])
def test_only_web_addresses(url, folder, tmp_path, monkeypatch):
    set_up(monkeypatch, tmp_path, {**remote(), "url": url})
    refused("no web address")


def test_a_disk_that_is_too_small(folder, server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    refused("0 MB left")
    assert server.asked == []


def test_a_disk_that_gets_full(folder, server, monkeypatch):
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused("is full")
    assert download(entry()).installed


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_not_taken_for_the_network(folder, server, monkeypatch):
    """What is still in memory is refused once more when the file is closed."""
    folder.mkdir()
    part = folder / f"{NAME}.safetensors.part"
    part.symlink_to("/dev/full")
    refused("is full; free some space and download again")
    assert len(server.asked) == 1
    part.unlink()
    assert download(entry()).installed


def test_a_folder_that_cannot_be_written(folder, server):
    folder.write_bytes(b"a file")
    assert "PROMPTSEG_MODELS" in refused("Cannot write")
    folder.unlink()
    (folder / f"{NAME}.safetensors").mkdir(parents=True)
    refused("Cannot write")


# Proxies


def test_proxies_are_followed(folder, server, tmp_path, monkeypatch):
    """The server as a proxy: it is asked for the whole address of a machine that nobody knows."""
    set_up(monkeypatch, tmp_path, remote(NAME, "http://models.invalid"))
    monkeypatch.setenv("http_proxy", server.address)
    assert download(entry()).installed
    assert server.asked[0][0] == f"http://models.invalid/{NAME}.safetensors"
    delete(entry())
    monkeypatch.setenv("no_proxy", "models.invalid")
    refused("models.invalid")
