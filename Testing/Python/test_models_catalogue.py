"""The catalogue: its schema, which models are here, and files that somebody placed by hand."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path

import jsonschema
import pytest

from harness import tiny_model as tiny
from harness.catalogue_fixtures import BUNDLED, PROMPTS, WEIGHTS, remote, set_up, sha256
from PromptSegLib.cli.main import main
from PromptSegLib.errors import PromptSegError
from PromptSegLib.gui import model_list
from PromptSegLib.models import catalogue
from PromptSegLib.models.backbone import load_model, save_backbone
from PromptSegLib.network.punet import PUNet
from PromptSegLib.pretraining import publish
from PromptSegLib.pretraining.recipe import Recipe
from PromptSegLib.pretraining.source import Source

SCHEMA = json.loads((catalogue.FOLDER / "catalogue.schema.json").read_text(encoding="utf-8"))


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
        {"color": "red"},
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


@pytest.mark.parametrize(
    "sources, modality",
    [
        ([("CT", "x")], "CT"),
        ([("CT", "x"), ("MR", None)], "CT"),  # images without labels do not make it a model for them
        ([("MR", "x"), ("CT", "x")], "CT and MR"),
        ([("CT", None), ("MR", None)], "CT and MR"),
        ([("SPECT", "x")], "other"),
    ],
)
def test_the_modality_of_a_published_model_is_one_of_the_schemas(sources, modality):
    assert list(catalogue.MODALITIES) == SCHEMA["$defs"]["modality"]["enum"]
    made = tuple(
        Source(str(index), ".", "{case}.nii", kind, "none", label and "{case}_label.nii", {"x": 1})
        for index, (kind, label) in enumerate(sources)
    )
    recipe = Recipe("some", "Some", "", made, steps=1)
    assert publish.describe_run(recipe, {"step": 1, "seconds": 1.0})["modality"] == modality


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
    with pytest.raises(PromptSegError, match="give one of ct-body, mr-knee."):
        catalogue.find_name("none")
    assert catalogue.find().name == "ct-body"
    assert not folder.exists()  # looking makes nothing


def test_a_default_that_is_not_here(folder):
    content = json.loads(catalogue.CATALOGUE.read_text())
    catalogue.CATALOGUE.write_text(json.dumps({**content, "models": content["models"][::-1]}))
    with pytest.raises(PromptSegError, match="--download mr-knee"):
        catalogue.find()


def test_bundled_entries_keep_their_ways():
    entry = catalogue.find("ct-body")
    assert (entry.bundled, entry.installed, entry.url, entry.weights_download) == (True, True, "", None)
    assert catalogue.find() == catalogue.find_name("ct-body") == catalogue.find_sha256(entry.sha256) == entry
    own = catalogue.find(str(entry.path))
    assert (own.name, own.bundled, own.installed) == ("ct-body", True, True)
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
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(sys, "platform", platform)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
    assert catalogue.model_folders() == [tmp_path / place]


def test_folders_of_a_user_who_is_not_there(folder, monkeypatch):
    monkeypatch.setenv("PROMPTSEG_MODELS", os.pathsep.join(["~nobodyx/x", str(folder)]))
    assert catalogue.model_folders() == [Path("~nobodyx/x"), folder]
    assert main(["models"]) == 0
    monkeypatch.delenv("PROMPTSEG_MODELS")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where there is no home folder
    assert main(["models"]) == 0


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


# Files of the user's


CARD = {"title": "MR of our ward", "modality": "MR", "licence": "ours", "classes": ["liver", "spleen"], "text": "New."}


def own(path: Path, name: str = "ward", card: dict = CARD, seed: int = 0) -> Path:
    """A backbone as pretraining writes it, without prompts."""
    path.parent.mkdir(exist_ok=True)
    tiny.torch.manual_seed(seed)
    save_backbone(path, PUNet(tiny.CONFIG), name, tiny.PREPROCESSING, (16, 32, 32), card)
    return path


def own_entries() -> list[catalogue.Entry]:
    return [entry for entry in catalogue.entries() if entry.own]


def with_header(path: Path, **changes) -> None:
    """Change what a backbone's file says of itself; None takes a key away."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    said = {**json.loads(header["__metadata__"]["promptseg-backbone"]), **changes}
    said = {key: value for key, value in said.items() if value is not None}
    header["__metadata__"]["promptseg-backbone"] = json.dumps(said)
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + content[8 + length :])


def test_a_backbone_in_a_model_folder_is_listed(folder):
    path = own(folder / "run 7.safetensors")
    (entry,) = own_entries()
    assert [each.name for each in catalogue.entries()] == ["ct-body", "mr-knee", "ward"]
    assert (entry.path, entry.title, entry.modality, entry.licence) == (path, "MR of our ward", "MR", "ours")
    assert (entry.spacing, entry.size, entry.card) == (tiny.PREPROCESSING.spacing, path.stat().st_size, CARD)
    assert (entry.bundled, entry.installed, entry.url) == (True, True, "")
    assert (entry.prompts, entry.classes) == (None, ())  # of the card's classes there are no prompts
    assert catalogue.find("ward") == catalogue.find_name("ward") == catalogue.find_sha256(entry.sha256) == entry
    assert load_model("ward", "cpu").sha256 == entry.sha256 == catalogue.sha256_of(path)
    row = model_list.rows()[-1]
    assert (row.key, row.title, row.installed, row.bundled) == ("ward", "MR of our ward", True, True)


def test_a_backbone_with_its_prompts(folder):
    folder.mkdir()
    tiny.tiny_backbone(folder, shipped=True)
    (entry,) = own_entries()
    assert (entry.name, entry.title) == ("tiny0", "tiny0")  # its card has no title
    assert entry.prompts == folder / "tiny0.prompts.safetensors"
    assert load_model("tiny0", "cpu").shipped.names == ["liver", "spleen", "aorta"]
    with_header(folder / "tiny0.safetensors", card=CARD)
    assert own_entries()[0].classes == ("liver", "spleen")
    assert json.loads(json.dumps(own_entries()[0].to_dict()))["own"]


def test_a_backbone_where_the_catalogue_needs_no_folder(tmp_path, monkeypatch):
    own(set_up(monkeypatch, tmp_path) / "w.safetensors")
    assert [entry.name for entry in catalogue.entries()] == ["ct-body", "ward"]


def header_of(length: int, content: bytes) -> bytes:
    return length.to_bytes(8, "little") + content


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"{}",
        bytes(range(256)) * 20,
        header_of(10**10, b"{}" * 100),
        header_of(2**64 - 1, b"{}"),
        header_of(0, b""),
        header_of(2, b"{}"),
        header_of(2, b"[]"),
        header_of(4, b"\xff\xfe\xff\xfe"),
        header_of(200_000, b"[" * 200_000),
        header_of(32, b'{"__metadata__":{"format":"pt"}}'),
    ],
)
def test_files_that_are_no_backbones(junk, folder):
    folder.mkdir()
    (folder / "junk.safetensors").write_bytes(junk)
    (folder / "a folder.safetensors").mkdir()
    own(folder / "good.safetensors")
    assert [entry.path.stem for entry in own_entries()] == ["good"]


def test_parts_of_a_backbone_are_none(folder, tmp_path):
    path = own(folder / "whole.safetensors")
    content = path.read_bytes()
    for kept in (4, 8, 100, len(content) // 2, len(content) - 1):
        (folder / "part.safetensors").write_bytes(content[:kept])
        assert [entry.path for entry in own_entries()] == [path]
    path.rename(folder / "whole.safetensors.part")
    tiny.tiny_backbone(tmp_path, shipped=True)
    (tmp_path / "tiny0.prompts.safetensors").rename(folder / "tiny0.prompts.safetensors")
    assert own_entries() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"name": 3},
        {"name": ""},
        {"name": "two\nlines"},
        {"name": None},
        {"card": None},
        {"card": [1]},
        {"card": {"title": ["x"]}},
        {"card": {"classes": "liver"}},
        {"card": {"classes": [3]}},
        {"card": {"classes": [""]}},
        {"preprocessing": None},
        {"preprocessing": [1]},
        {"preprocessing": {"spacing": [1, 1], "intensity": [0, 1]}},
        {"preprocessing": {"spacing": [1, 1, -1], "intensity": [0, 1]}},
        {"preprocessing": {"spacing": [1, 1, 10**400], "intensity": [0, 1]}},
        {"preprocessing": {"spacing": [1, 1, float("nan")], "intensity": [0, 1]}},
    ],
)
def test_headers_of_wrong_types(changes, folder):
    path = own(folder / "w.safetensors")
    assert own_entries()
    with_header(path, **changes)
    assert own_entries() == []


def test_texts_of_a_header_fit_a_list(folder):
    own(folder / "w.safetensors", card={"title": " two\nlines\x1b[31m ", "licence": "x" * 9999})
    (entry,) = own_entries()
    assert (entry.title, len(entry.licence)) == ("two lines[31m", 1000)


def test_downloads_are_not_listed_twice(tmp_path, monkeypatch):
    """Neither under the catalogue's name nor under another, and whether their prompts are here or not."""
    path = own(tmp_path / "w.safetensors")
    weights = {"sha256": catalogue.sha256_of(path), "size": path.stat().st_size}
    folder = set_up(monkeypatch, tmp_path, {**remote(), **weights})
    folder.mkdir()
    for place in (folder / "mr-knee.safetensors", folder / "from a stick.safetensors"):
        path.rename(place)
        assert [entry.name for entry in catalogue.entries()] == ["ct-body", "mr-knee"]
        assert catalogue.find_name("mr-knee").path == place
        path = place
    bundled = catalogue.find("ct-body")
    (folder / "copy.safetensors").write_bytes(bundled.path.read_bytes())
    assert own_entries() == []


def test_two_files_of_one_name(folder, tmp_path, monkeypatch):
    own(folder / "a.safetensors")
    own(folder / "b.safetensors", seed=1)
    own(folder / "c.safetensors", "ct-body", seed=2)
    own(folder / "copy.safetensors")  # of a
    named = {entry.name: (entry.path.stem, entry.title) for entry in own_entries()}
    ward = "MR of our ward"
    assert named == {"ward": ("a", ward), "b": ("b", f"{ward} (b)"), "c": ("c", f"{ward} (c)")}
    assert load_model("b", "cpu").sha256 == catalogue.find("b").sha256 != catalogue.find("ward").sha256
    shared = own(tmp_path / "shared" / "b.safetensors", seed=3).parent  # neither of its names is left
    monkeypatch.setenv("PROMPTSEG_MODELS", os.pathsep.join([str(folder), str(tmp_path / "none"), str(shared)]))
    assert {entry.name: (entry.path.stem, entry.title) for entry in own_entries()} == named
    monkeypatch.setenv("PROMPTSEG_MODELS", os.pathsep.join([str(shared), str(folder)]))
    assert catalogue.find("ward").path == shared / "b.safetensors"


def test_files_that_come_and_go(folder, monkeypatch):
    """Each is read and hashed once as long as it stays the same."""
    read, hashed = [], []
    read_header, sha256_of = catalogue._read_header, catalogue.sha256_of
    monkeypatch.setattr(catalogue, "_read_header", lambda file: read.append(file.path.name) or read_header(file))
    monkeypatch.setattr(catalogue, "sha256_of", lambda path: hashed.append(path.name) or sha256_of(path))
    path = own(folder / "w.safetensors")
    (folder / "junk.safetensors").write_bytes(b"junk")
    for _ in range(3):
        (before,) = own_entries()
        assert before.installed
    assert (sorted(read), hashed) == (["junk.safetensors", "w.safetensors"], ["w.safetensors"])
    own(path, "clinic", {**CARD, "title": "Another"}, seed=1)
    (after,) = own_entries()
    assert (after.name, after.title) == ("clinic", "Another")
    assert after.sha256 != before.sha256
    assert catalogue.find_sha256(before.sha256) is None
    path.unlink()
    assert own_entries() == []
    with pytest.raises(PromptSegError, match="give one of ct-body, mr-knee."):
        catalogue.find_name("clinic")


def test_a_file_that_cannot_be_read_now_may_be_later(folder, monkeypatch):
    own(folder / "w.safetensors")

    def refused(_path):
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(catalogue, "sha256_of", refused)
        assert own_entries() == []
    assert own_entries()


def test_the_command_and_files_of_the_users(folder, capsys):
    path = own(folder / "w.safetensors")
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert "ward: MR of our ward\n" in said
    assert "installed yes, a file of yours" in said
    assert main(["models", "--json"]) == 0
    assert [item["own"] for item in json.loads(capsys.readouterr().out)] == [False, False, True]
    for option, advice in (("--delete", "delete it by hand if you want"), ("--download", "nothing to download")):
        assert main(["models", option, "ward"]) != 0
        said = capsys.readouterr().err
        assert f"The model ward is a file of yours, {path}, not a download" in said
        assert advice in said
    assert path.is_file()
