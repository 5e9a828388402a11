"""Files are replaced at once or not at all, links stay links, and folders in which nothing came to be go again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from harness.refusals import sentence
from PromptSegLib.errors import PromptSegError
from PromptSegLib.files import atomic_write, check_writable, making

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


def write(path: Path, content: bytes = b"new") -> None:
    check_writable(path)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_link_stays_and_its_target_is_written(tmp_path, relative, there):
    target, link = tmp_path / "data" / "p.safetensors", tmp_path / "links" / "q.safetensors"
    target.parent.mkdir()
    link.parent.mkdir()
    if there:
        target.write_bytes(b"old")
    link.symlink_to(os.path.relpath(target, link.parent) if relative else target)
    write(link)
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert [each.name for each in target.parent.iterdir()] == ["p.safetensors"]
    assert [each.name for each in link.parent.iterdir()] == ["q.safetensors"]


def test_links_to_links_and_to_folders(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "data")
    (tmp_path / "one").symlink_to(tmp_path / "folder" / "p")
    (tmp_path / "two").symlink_to("one")
    write(tmp_path / "two")
    assert (tmp_path / "data" / "p").read_bytes() == b"new"
    assert (tmp_path / "two").is_symlink() and (tmp_path / "one").is_symlink()


def test_a_link_to_another_disk(tmp_path):
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other disk")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        (tmp_path / "link").symlink_to(Path(folder) / "p")
        write(tmp_path / "link")
        assert (tmp_path / "link").is_symlink() and (Path(folder) / "p").read_bytes() == b"new"


def test_what_fails_leaves_the_target(tmp_path):
    (tmp_path / "p").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "p")
    with pytest.raises(KeyError), atomic_write(tmp_path / "link") as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    assert (tmp_path / "p").read_bytes() == b"old"
    assert {each.name for each in tmp_path.iterdir()} == {"p", "link"}


@pytest.mark.parametrize("way", [check_writable, write])
def test_links_that_lead_nowhere(tmp_path, way):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to(tmp_path / "gone" / "p")
    (tmp_path / "folder").symlink_to(tmp_path)
    for name, word in (("loop", "link to itself"), ("lost", "gone"), ("folder", "folder")):
        sentence(lambda name=name: way(tmp_path / name), name if name != "lost" else "", word)


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_is_write_protected_stays(tmp_path, linked):
    target = tmp_path / "p"
    target.write_bytes(b"old")
    target.chmod(0o444)
    path = tmp_path / "link" if linked else target
    if linked:
        path.symlink_to(target)
    sentence(lambda: check_writable(path), "write-protected")
    sentence(lambda: write(path), "write-protected")
    assert target.read_bytes() == b"old"


def test_folders_in_which_nothing_came_to_be(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(KeyError), making(tmp_path / "a" / "b.1" / "c"):
        assert (tmp_path / "a" / "b.1" / "c").is_dir()
        raise KeyError
    assert not list((tmp_path / "a").iterdir())
    with pytest.raises(KeyError), making(tmp_path / "a" / "b.1" / "c"):
        (tmp_path / "a" / "b.1" / "result").write_bytes(b"kept")
        raise KeyError
    assert [each.name for each in (tmp_path / "a" / "b.1").iterdir()] == ["result"]
    with making(tmp_path / "a"):
        pass
    assert (tmp_path / "a").is_dir()  # it was there before
    with pytest.raises(PromptSegError, match="result is a file, not a folder"), making(tmp_path / "a/b.1/result"):
        pass


def test_folders_behind_links(tmp_path):
    (tmp_path / "link").symlink_to("there/a")
    with pytest.raises(KeyError), making(tmp_path / "link"):
        assert (tmp_path / "there" / "a").is_dir()
        raise KeyError
    assert [each.name for each in tmp_path.iterdir()] == ["link"]
    with making(tmp_path / "link"):
        (tmp_path / "link" / "result").write_bytes(b"kept")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "a" / "result").is_file()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(PromptSegError, match="link to itself"), making(tmp_path / "loop"):
        pass
