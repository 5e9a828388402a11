"""What Slicer's Extensions Index asks of its entry and of this repository, as its own checker reads them."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
ENTRY = ROOT / "PromptSeg.json"
CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
RAW = "https://raw.githubusercontent.com/PromptSeg/SlicerPromptSeg/main/"

# The entry's schema, version 1.0.1. Version 1.0.2 only adds a DICOM rule, and the checker downloads the schema from
# the address in the entry, where version 1.0.1 is the last there is.
SCHEMA = (
    "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.1.json"
)
REQUIRED = {"$schema", "category", "scm_url"}
TYPES = {
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "enabled": bool,
    "tier": int,
}

# How the checker reads the first project(), and the two fields with pictures.
PROJECT = r"project\s*\(\s*([^\s\)\n\r]+)"
ICON = r'set\s*\(EXTENSION_ICONURL\s*"([^"]+)"[ ]*\)'
SCREENSHOTS = r'set\s*\(EXTENSION_SCREENSHOTURLS\s*"([^"]+)"\)'
LICENCES = ("LICENSE", "LICENCE", "License.txt", "license.txt", "LICENSE.txt", "COPYING", "COPYING.txt")
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
MAX_MEGABYTES = 90  # the index refuses 100, counted over the clone with its history


@pytest.fixture(scope="module")
def entry() -> dict:
    return json.loads(ENTRY.read_text(encoding="utf-8"))


def field(name: str) -> str:
    """The one quoted string that ``set(EXTENSION_<name> ...)`` gives."""
    found = re.findall(rf'^set\(EXTENSION_{name} "([^"]*)"\)', CMAKE, re.MULTILINE)
    assert len(found) == 1, name
    return found[0]


def picture(url: str) -> Path:
    """The file of this repository that a URL of a picture shows, once the repository is public."""
    assert url.startswith(RAW), url
    path = ROOT / url[len(RAW) :]
    assert path.is_file(), url
    return path


# The entry


def test_the_entry_keeps_the_schema(entry):
    assert REQUIRED <= set(entry) <= set(TYPES)
    for name, value in entry.items():
        assert type(value) is TYPES[name], name
    assert entry["$schema"].partition("#")[0] == SCHEMA
    assert all(type(each) is str for each in entry["build_dependencies"])
    assert entry.get("scm_type", "git") == "git"
    assert 1 <= entry["tier"] <= 5


def test_the_entry_has_unix_line_endings():
    assert b"\r" not in ENTRY.read_bytes()
    assert ENTRY.read_bytes().endswith(b"}\n")


def test_names(entry):
    assert not ENTRY.stem.lower().startswith("slicer")
    assert re.findall(PROJECT, CMAKE, re.IGNORECASE)[0] == ENTRY.stem
    url = urlsplit(entry["scm_url"])
    assert url.scheme in ("https", "git")
    assert Path(url.path).stem.startswith("Slicer")
    assert field("HOMEPAGE") == entry["scm_url"][: -len(".git")]


def test_category_and_dependencies_are_said_the_same_twice(entry):
    assert entry["category"] == "Segmentation"  # one of the index's own
    assert field("CATEGORY") == entry["category"]
    assert field("DEPENDS").split() == entry["build_dependencies"] == ["PyTorch"]


# CMake's fields


def test_fields_are_one_string():
    for name in ("HOMEPAGE", "CATEGORY", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS"):
        assert field(name).strip() == field(name) != ""
        assert ";" not in field(name)  # a list, to CMake
    assert len(field("DESCRIPTION")) < 300  # shown on a tile of the Extensions Manager


def test_the_checker_finds_the_pictures():
    assert re.findall(ICON, CMAKE, re.IGNORECASE) == [field("ICONURL")]
    assert re.findall(SCREENSHOTS, CMAKE, re.IGNORECASE) == [field("SCREENSHOTURLS")]


def test_pictures_are_what_their_names_say():
    for url in [field("ICONURL"), *field("SCREENSHOTURLS").split()]:
        path = picture(url)
        with Image.open(path) as image:
            assert image.format == PICTURES[path.suffix]
            image.verify()


# The repository


def test_licence():
    names = [name for name in LICENCES if (ROOT / name).is_file()]
    assert names == ["LICENSE"]
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache-2.0" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_clone_is_small():
    """The index counts every file of a clone: the tree, and the objects of its history."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    tree = sum((ROOT / name).stat().st_size for name in git("ls-files", "-z").split("\0") if (ROOT / name).is_file())
    # What a clone gets: this folder may hold objects of other branches, and some of them in several packs.
    history = int(git("rev-list", "--disk-usage", "--objects", "HEAD"))
    assert tree > 2**20  # the weights are in it
    assert (tree + history) / 2**20 < MAX_MEGABYTES


def test_no_links_and_no_binaries():
    """The package is the same on all platforms, and nothing in it runs that cannot be read."""
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    entries = [line.split(maxsplit=3) for line in listed.splitlines()]
    assert {mode for mode, *_ in entries} <= {"100644", "100755"}  # neither links nor submodules
    compiled = {".pyc", ".so", ".dll", ".dylib", ".exe", ".pkl", ".pt", ".pth", ".whl", ".zip", ".jar"}
    assert not [name for *_, name in entries if Path(name).suffix in compiled]


# The icon


@pytest.fixture(scope="module")
def icon_script():
    spec = importlib.util.spec_from_file_location("icon", ROOT / "Testing" / "Demo" / "icon.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_icon_is_the_same_everywhere(icon_script):
    assert picture(field("ICONURL")) in icon_script.PLACES
    first, *others = (path.read_bytes() for path in icon_script.PLACES)
    assert others == [first]
    with Image.open(icon_script.PLACES[0]) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (128, 128))


def test_the_icon_is_what_its_script_draws(icon_script):
    with Image.open(icon_script.PLACES[0]) as image:
        kept = np.asarray(image, float)
    drawn = np.asarray(icon_script.draw(), float)
    assert np.abs(kept - drawn).mean() < 2  # other versions of matplotlib and Pillow round differently
    blank = np.zeros_like(kept)
    assert np.abs(kept - blank).mean() > 50


@pytest.mark.parametrize("ground", [255, 43], ids=["light", "dark"])
def test_the_icon_stands_out_at_16_pixels(icon_script, ground):
    with Image.open(icon_script.PLACES[0]) as image:
        small = np.asarray(image.convert("RGBa").resize((16, 16), Image.Resampling.LANCZOS), float)
    shown = small[..., :3] + ground * (1 - small[..., 3:] / 255)
    solid = small[..., 3] > 200  # its rim is half transparent at this size
    assert solid.mean() > 0.4
    assert np.abs(shown - ground).max(axis=-1)[solid].min() > 50
