"""The catalogue: its schema, which models are here, and files that somebody placed by hand."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from pathlib import Path

import jsonschema
import pytest

from PromptSegLib.cli.main import main
from PromptSegLib.errors import PromptSegError
from PromptSegLib.models import catalogue
from PromptSegLib.models.backbone import load_model
from PromptSegLib.pretraining import publish

SCHEMA = json.loads((catalogue.FOLDER / "catalogue.schema.json").read_text(encoding="utf-8"))
BUNDLED = json.loads(catalogue.CATALOGUE.read_text(encoding="utf-8"))
WEIGHTS, PROMPTS = b"weights" * 1000, b"prompts" * 10


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def remote(name: str = "mr-knee", address: str = "https://example.org") -> dict:
    """An entry to be downloaded, as the catalogue has it."""
    return {
        "name": name,
        "title": "MR knee",
        "url": f"{address}/{name}.safetensors",
        "sha256": sha256(WEIGHTS),
        "size": len(WEIGHTS),
        "prompts": {"url": f"{address}/{name}.prompts", "sha256": sha256(PROMPTS), "size": len(PROMPTS)},
        "modality": "MR",
        "spacing": [3.0, 1.0, 1.0],
        "classes": ["femur", "tibia"],
        "licence": "CC0",
        "expected_seconds": {"gpu": 4},
    }


def set_up(monkeypatch, tmp_path: Path, *more: dict) -> Path:
    """The bundled catalogue with further entries, and a model folder of one's own; returns that folder."""
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps({**BUNDLED, "models": [*BUNDLED["models"], *more]}))
    monkeypatch.setattr(catalogue, "CATALOGUE", path)
    monkeypatch.setenv("PROMPTSEG_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    return set_up(monkeypatch, tmp_path, remote())


def accepted(content: dict) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(content)


# The schema


def test_the_bundled_catalogue_follows_the_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(BUNDLED, SCHEMA, jsonschema.Draft202012Validator)
    for entry in catalogue.entries():
        assert entry.installed
        assert entry.path.stat().st_size == entry.size
        if entry.prompts is not None:
            assert entry.prompts.is_file()
    names = [item["name"] for item in BUNDLED["models"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 63},
        {"sha256": None},
        {"size": 0},
        {"name": "Two words"},
        {"name": "../x"},
        {"spacing": [1.0, 1.0]},
        {"spacing": [1.0, 1.0, 0.0]},
        {"classes": ["femur", "femur"]},
        {"licence": ""},
        {"modality": "magic"},
        {"expected_seconds": {"cpu": -1}},
        {"expected_seconds": {}},
        {"url": "http://example.org/x"},
        {"url": "file:///etc/passwd"},
        {"url": None},
        {"file": "weights/x.safetensors"},
        {"prompts": "weights/x.prompts.safetensors"},
        {"prompts": {"url": "https://example.org/x"}},
        {"colour": "red"},
    ],
)
def test_what_the_schema_refuses(change):
    """None as a value takes the key away."""
    good = {"schema": 1, "models": [remote()]}
    assert accepted(good)
    item = {key: value for key, value in {**remote(), **change}.items() if value is not None}
    assert not accepted({"schema": 1, "models": [item]})


def test_bundled_files_stay_inside_the_catalogues_folder():
    for file in ("/etc/passwd", "weights/../../x.safetensors", "https://example.org/x.safetensors"):
        changed = copy.deepcopy(BUNDLED)
        changed["models"][0]["file"] = file
        assert not accepted(changed)
    assert not accepted({"schema": 2, "models": BUNDLED["models"]})
    assert not accepted({"schema": 1, "models": []})


def test_publishing_keeps_to_the_schema(tmp_path, monkeypatch):
    """An entry as pretraining writes it, without the optional times."""
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps(BUNDLED))
    monkeypatch.setattr(publish, "CATALOGUE", path)
    entry = {key: value for key, value in BUNDLED["models"][0].items() if key != "expected_seconds"}
    publish.register({**entry, "name": "ct-new", "file": "weights/ct-new.safetensors"})
    publish.register({**entry, "title": "CT abdomen, anew"})
    content = json.loads(path.read_text())
    assert accepted(content)
    assert [(item["name"], item["title"]) for item in content["models"]] == [
        ("ct-new", entry["title"]),
        (entry["name"], "CT abdomen, anew"),
    ]


# Entries


def test_an_entry_that_is_not_here(folder):
    entry = catalogue.find_name("mr-knee")
    assert (entry.bundled, entry.installed, entry.size) == (False, False, len(WEIGHTS))
    assert entry.url == "https://example.org/mr-knee.safetensors"
    assert entry.expected == {"gpu": 4}
    assert entry.path == folder / "mr-knee.safetensors"
    assert entry.prompts == folder / "mr-knee.prompts.safetensors"
    assert catalogue.find_sha256(sha256(WEIGHTS)) == entry
    for look in (lambda: catalogue.find("mr-knee"), lambda: load_model("mr-knee", "cpu")):
        with pytest.raises(PromptSegError, match="promptseg models --download mr-knee"):
            look()
    with pytest.raises(PromptSegError, match="give one of ct-abdomen, mr-knee."):
        catalogue.find_name("none")
    assert catalogue.find().name == "ct-abdomen"
    assert not folder.exists()  # looking makes nothing


def test_a_default_that_is_not_here(folder):
    content = json.loads(catalogue.CATALOGUE.read_text())
    catalogue.CATALOGUE.write_text(json.dumps({**content, "models": content["models"][::-1]}))
    with pytest.raises(PromptSegError, match="--download mr-knee"):
        catalogue.find()


def test_bundled_entries_keep_their_ways():
    entry = catalogue.find("ct-abdomen")
    assert (entry.bundled, entry.installed, entry.url, entry.weights_download) == (True, True, "", None)
    assert catalogue.find() == catalogue.find_name("ct-abdomen") == catalogue.find_sha256(entry.sha256) == entry
    own = catalogue.find(str(entry.path))
    assert (own.name, own.bundled, own.installed) == ("ct-abdomen", True, True)
    assert own.prompts == entry.prompts
    with pytest.raises(PromptSegError, match="or the path of a backbone file"):
        catalogue.find("none")


def test_files_placed_by_hand_under_any_name(folder):
    folder.mkdir()
    (folder / "from a stick.bin").write_bytes(WEIGHTS)
    (folder / "same size").write_bytes(b"x" * len(WEIGHTS))
    (folder / "a folder").mkdir()
    entry = catalogue.find_name("mr-knee")
    assert entry.path == folder / "from a stick.bin"
    assert not entry.installed  # the prompts are still missing
    (folder / "prompts (1)").write_bytes(PROMPTS)
    entry = catalogue.find("mr-knee")
    assert entry.installed
    assert entry.prompts == folder / "prompts (1)"
    (folder / "from a stick.bin").write_bytes(WEIGHTS[::-1])  # damaged since
    assert not catalogue.find_name("mr-knee").installed
    assert catalogue.find_name("mr-knee").path == folder / "mr-knee.safetensors"


def test_folders_that_are_only_read(folder, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "w").write_bytes(WEIGHTS)
    (shared / "p").write_bytes(PROMPTS)
    monkeypatch.setenv("PROMPTSEG_MODELS", os.pathsep.join([str(folder), str(tmp_path / "none"), str(shared)]))
    entry = catalogue.find("mr-knee")
    assert (entry.path, entry.prompts) == (shared / "w", shared / "p")
    assert catalogue.download_paths("mr-knee")[0] == folder / "mr-knee.safetensors"


@pytest.mark.parametrize(
    ("platform", "variable", "place"),
    [
        ("linux", "XDG_CACHE_HOME", "promptseg/models"),
        ("win32", "LOCALAPPDATA", "promptseg/models"),
        ("linux", "", ".cache/promptseg/models"),
        ("darwin", "", "Library/Caches/promptseg/models"),
        ("win32", "", "AppData/Local/promptseg/models"),
    ],
)
def test_the_folder_of_the_user(platform, variable, place, tmp_path, monkeypatch):
    for name in ("PROMPTSEG_MODELS", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
    assert catalogue.model_folders() == [tmp_path / place]


def test_a_file_is_hashed_once(folder, monkeypatch):
    folder.mkdir()
    (folder / "w").write_bytes(WEIGHTS)
    (folder / "p").write_bytes(PROMPTS)
    hashed = []
    original = catalogue.sha256_of
    monkeypatch.setattr(catalogue, "sha256_of", lambda path: hashed.append(path) or original(path))
    assert catalogue.find("mr-knee").installed
    assert sorted(hashed) == [folder / "p", folder / "w"]
    assert catalogue.find("mr-knee").installed
    assert len(hashed) == 2
    os.utime(folder / "w", (1, 1))
    assert catalogue.find("mr-knee").installed
    assert hashed[2:] == [folder / "w"]


# The command line


def test_the_command_shows_what_is_here(folder, capsys):
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert "installed yes, bundled" in said
    assert "installed no: promptseg models --download mr-knee" in said
    assert "15.3 MB" in said
    assert "4 s (gpu)" in said
    assert main(["models", "--json"]) == 0
    here, absent = json.loads(capsys.readouterr().out)
    assert (here["installed"], here["bundled"], here["url"]) == (True, True, None)
    assert (absent["installed"], absent["bundled"], absent["size"]) == (False, False, len(WEIGHTS))
    assert absent["expected_seconds"] == {"gpu": 4}
    folder.mkdir()
    (folder / "w").write_bytes(WEIGHTS)
    (folder / "p").write_bytes(PROMPTS)
    assert main(["models"]) == 0
    assert "installed yes\n" in capsys.readouterr().out


def test_a_bundled_file_that_is_gone(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    assert main(["models"]) == 0
    assert "missing or damaged" in capsys.readouterr().out
