"""The README against what it speaks of: pictures, links, commands, labels of the panel, and messages."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
PICTURES = ROOT / "PromptSeg" / "Resources" / "Pictures"
LINKED_PICTURES = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", PROSE) + re.findall(r'<img[^>]*\ssrc="([^"]+)"', PROSE)
LINKS = [link for link in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", PROSE) if "://" not in link]
MOST_BYTES, MOST_BYTES_TOGETHER = 300_000, 1_200_000
FEWEST_LETTERS = 12  # of a message, so that finding it says something


def section(title: str) -> str:
    """What stands below a heading of the second level."""
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PROSE, re.MULTILINE | re.DOTALL)[1]


def texts_of_the_source() -> list[str]:
    """All text literals of the library, pieces put together as Python does; a value that is filled in is ``\\0``."""
    found = []
    for path in sorted((ROOT / "PromptSegLib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(each.value) if isinstance(each, ast.Constant) else "\0" for each in node.values)
                )
    return found


TEXTS = texts_of_the_source()
LABELS = [each.text for each in ElementTree.parse(ROOT / "PromptSeg/Resources/UI/PromptSeg.ui").iter("string")]
MESSAGES = re.findall(r"^\| `(.+?)` \| .+ \|$", section("When something goes wrong"), re.MULTILINE)
# Bold, in what explains the panel: a label of the panel, but for the numbered steps and what is a heading there.
BOLD = [
    words
    for title in ("Tutorial", "The panel", "Computing on another machine", "Privacy", "When something goes wrong")
    for words in re.findall(r"\*\*([^*]+)\*\*", section(title))
    if not re.match(r"\d+\. ", words)
]


def test_there_is_something_to_check():
    assert len(LINKED_PICTURES) >= 9
    assert len(LINKS) >= 10
    assert len(MESSAGES) >= 30
    assert len(BOLD) >= 30


@pytest.mark.parametrize("link", LINKED_PICTURES)
def test_pictures_are_there(link):
    path = ROOT / link
    assert path.stat().st_size < MOST_BYTES
    with Image.open(path) as image:
        assert image.format in ("PNG", "JPEG")
        image.load()


def test_pictures_are_used_and_small_together():
    """Every clone of the extension carries them."""
    there = [path for path in PICTURES.iterdir() if path.is_file()]
    assert {path.relative_to(ROOT).as_posix() for path in there} == set(LINKED_PICTURES)
    assert sum(path.stat().st_size for path in there) < MOST_BYTES_TOGETHER


def test_pictures_say_what_they_show():
    """For those who do not see them."""
    assert all(len(text) > 20 for text in re.findall(r"!\[([^\]]*)\]", PROSE))
    assert all(re.search(r'\salt="[^"]{20,}"', tag) for tag in re.findall(r"<img[^>]*>", PROSE))


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_links_resolve(link):
    path, _, anchor = link.partition("#")
    assert not path or (ROOT / path).exists()
    if not path:
        headings = re.findall(r"^#+ (.+)$", PROSE, re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_those_of_the_source(message):
    parts = [re.escape(part) for part in message.split("...")]
    assert len(re.sub(r"[^A-Za-z]", "", message)) >= FEWEST_LETTERS
    # What is left out in the table is a value that is filled in, or the rest of the sentence.
    pattern = re.compile(".*".join(parts), re.DOTALL)
    assert any(pattern.fullmatch(text) for text in TEXTS)


@pytest.mark.parametrize("words", sorted(set(BOLD)))
def test_labels_of_the_panel_are_its_own(words):
    """In bold stands what the panel says, in the same words."""
    said = [text.rstrip(":") for text in (*LABELS, *TEXTS) if text]
    assert words in said


def test_the_two_commands():
    assert re.search(r"^make demo .*\nmake test ", README, re.MULTILINE)


def test_make_has_the_targets():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"^make ([\w-]+)", README, re.MULTILINE)) | set(re.findall(r"`make ([\w-]+)`", README))
    assert {"demo", "test", "bench", "bench-large"} <= named <= targets


def test_promptseg_has_the_commands():
    from PromptSegLib.cli.main import _parser

    commands = next(action.choices for action in _parser()._actions if action.choices)
    named = set(re.findall(r"(?:^|`|models`|machine )promptseg ([a-z]+)", README, re.MULTILINE))
    assert {"models", "tune", "segment", "score", "info", "pretrain"} <= named <= set(commands)


def test_shortcuts_are_those_of_the_module():
    source = (ROOT / "PromptSegLib/gui/shortcuts.py").read_text(encoding="utf-8")
    keys = set(re.findall(r'": "(Ctrl\+[^"]+)"', source))
    assert keys
    assert set(re.findall(r"^\| (Ctrl\+\S+) \|", section("Keyboard shortcuts"), re.MULTILINE)) == keys


def test_every_folder_is_in_the_table():
    table = re.findall(r"^\| `([\w/]+)` \| \S.* \|$", section("How the folders are laid out"), re.MULTILINE)
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "PromptSegLib").glob("*/__init__.py")}
    assert set(table) == rooms | {"PromptSeg", "Testing"}


def test_samples_are_named_as_in_sample_data():
    from PromptSegLib.gui.sample_data import CATEGORY, SAMPLES

    assert f"*{CATEGORY}*" in section("Tutorial")
    for sample in SAMPLES:
        assert f"`{sample.name}`" in section("Tutorial")
        assert sample.node_name in section("Tutorial")


def test_the_license_is_named():
    assert "Apache-2.0" in section("License")
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_intended_use_is_said():
    assert "not for diagnosis" in README[: README.index("## ")]
    assert "not for diagnosis" in " ".join(section("Limits and intended use").split())


def test_measured_tables_have_their_commands():
    for command in ("make bench", "make demo", "make bench-large"):
        assert f"`{command}`" in section("What it reaches")
