"""The documents against what they speak of: pictures, links, places in the code, commands, labels, and messages."""

from __future__ import annotations

import ast
import functools
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "PromptSegLib"
PICTURES = ROOT / "PromptSeg" / "Resources" / "Pictures"
MOST_BYTES, MOST_BYTES_TOGETHER = 300_000, 1_200_000
MOST_LINES = 150  # of the README: what a visitor reads
FEWEST_LETTERS = 12  # of a message, so that finding it says something
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, eq=False)
class Document:
    """One Markdown file of the repository."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without its blocks of code."""
        return CODE.sub("", self.text)

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def pictures(self) -> list[str]:
        return re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", self.prose) + re.findall(r'<img[^>]*\ssrc="([^"]+)"', self.prose)

    @property
    def links(self) -> list[str]:
        """To files and headings of this repository."""
        found = re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", self.prose)
        return [link for link in found if "://" not in link]

    @property
    def anchors(self) -> set[str]:
        """Of the headings, as GitHub makes them."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings}

    def section(self, title: str) -> str:
        """What stands below a heading of the second level, code included."""
        return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", self.text, re.MULTILINE | re.DOTALL)[1]


def document(name: str) -> Document:
    return Document(ROOT / name)


PAGES = [Document(path) for path in sorted((ROOT / "docs").glob("*.md"))]
README, CONTRIBUTING = document("README.md"), document("CONTRIBUTING.md")
DOCUMENTS = [README, CONTRIBUTING, document("CHANGELOG.md"), *PAGES]
TUTORIAL, PANEL, METHODS = document("docs/tutorial.md"), document("docs/panel.md"), document("docs/methods.md")
TROUBLES, BENCHMARKS = document("docs/troubleshooting.md"), document("docs/benchmarks.md")
ARCHITECTURE = document("docs/architecture.md")


def of_all(attribute: str) -> list:
    """Pairs of a document and one of its pictures or links, for pytest."""
    pairs = [(each, one) for each in DOCUMENTS for one in sorted(set(getattr(each, attribute)))]
    return [pytest.param(each, one, id=f"{each.name}:{one}") for each, one in pairs]


# The code that the documents speak of


@functools.cache
def texts_of_the_source() -> list[str]:
    """All text literals of the library, pieces put together as Python does; a value that is filled in is ``\\0``."""
    found = []
    for path in sorted(LIBRARY.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"\{\w+[^{}]*\}", "\0", node.value))  # named fields, too
            elif isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(each.value) if isinstance(each, ast.Constant) else "\0" for each in node.values)
                )
    return found


UI = ElementTree.parse(ROOT / "PromptSeg/Resources/UI/PromptSeg.ui")
LABELS = [each.text for each in UI.iter("string")]
MESSAGES = re.findall(r"^\| `(.+?)` \| .+ \|$", TROUBLES.prose, re.MULTILINE)
# Bold, in what explains the panel: a label of the panel, but for the numbered steps and what is a heading there.
BOLD = [
    " ".join(words.split())
    for text in (TUTORIAL.prose, PANEL.prose, TROUBLES.prose, README.section("Tutorial"), README.section("Privacy"))
    for words in re.findall(r"\*\*([^*]+)\*\*", text)
    if words != "bold" and not re.match(r"\d+\. ", words)
]
PLACE = re.compile(r"[\w/]+\.py::[\w.]+")
PLACES = sorted({(each.name, place) for each in DOCUMENTS for place in PLACE.findall(each.text)})
# A path in backticks, of a file or of a folder; NAME stands for any.
FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|json|ui|txt))`")
FILES = sorted(
    {
        (each.name, path)
        for each in (CONTRIBUTING, *PAGES)
        for path in FILE.findall(each.prose)
        if not re.search(r"NAME|\.\.", path)
        and (each in (CONTRIBUTING, ARCHITECTURE) or (ROOT / path.split("/")[0]).is_dir())
    }
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def defined(path: Path, dotted: str) -> bool:
    """Whether a file defines a class, a function, a method or a constant."""
    body: list = tree(path).body
    for name in dotted.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef)
        inner = [each for each in body if isinstance(each, kinds) and each.name == name]
        if not inner:
            assigned = (getattr(each, "targets", [getattr(each, "target", None)]) for each in body)
            return any(getattr(one, "id", "") == name for targets in assigned for one in targets)
        body = inner[0].body
    return True


def rooms() -> set[str]:
    return {path.parent.relative_to(ROOT).as_posix() for path in LIBRARY.glob("*/__init__.py")}


def test_there_is_something_to_check():
    assert len(PAGES) >= 8
    assert len(of_all("pictures")) >= 12
    assert len(of_all("links")) >= 50
    assert len(MESSAGES) >= 30
    assert len(BOLD) >= 30
    assert len(PLACES) >= 50
    assert len(FILES) >= 10


# All documents


@pytest.mark.parametrize(("page", "link"), of_all("pictures"))
def test_pictures_are_there(page, link):
    path = page.path.parent / link
    assert path.stat().st_size < MOST_BYTES
    with Image.open(path) as image:
        assert image.format in ("PNG", "JPEG")
        image.load()


def test_pictures_are_used_and_small_together():
    """Every clone of the extension carries them."""
    there = {path for path in PICTURES.iterdir() if path.is_file()}
    assert there <= {(page.path.parent / link).resolve() for page in DOCUMENTS for link in page.pictures}
    assert sum(path.stat().st_size for path in there) < MOST_BYTES_TOGETHER


def test_pictures_say_what_they_show():
    """For those who do not see them."""
    for page in DOCUMENTS:
        assert all(len(text) > 20 for text in re.findall(r"!\[([^\]]*)\]", page.prose)), page.name
        assert all(re.search(r'\salt="[^"]{20,}"', tag) for tag in re.findall(r"<img[^>]*>", page.prose)), page.name


@pytest.mark.parametrize(("page", "link"), of_all("links"))
def test_links_resolve(page, link):
    path, _, anchor = link.partition("#")
    target = (page.path.parent / path).resolve() if path else page.path
    assert target.exists()
    assert target.is_relative_to(ROOT)
    if anchor:
        assert anchor in Document(target).anchors


@pytest.mark.parametrize(("page", "place"), PLACES)
def test_places_in_the_code_are_there(page, place):
    path, _, name = place.partition("::")
    assert defined(LIBRARY / path, name), f"{page} names {place}"


def test_the_check_of_places_checks():
    assert defined(LIBRARY / "tuning/optimization.py", "Tuner.run")
    assert defined(LIBRARY / "network/config.py", "FURTHER_TOKENS")
    assert defined(LIBRARY / "tuning/settings.py", "Settings.trust")
    assert not defined(LIBRARY / "tuning/optimization.py", "Tuner.walk")
    assert not defined(LIBRARY / "tuning/optimization.py", "run")


@pytest.mark.parametrize(("page", "path"), FILES)
def test_files_that_are_named_are_there(page, path):
    roots = (ROOT, LIBRARY, ROOT / "Testing" / "Python")
    assert any((root / path).exists() for root in roots), f"{page} names {path}"


def test_files_that_the_workflows_name_are_there():
    named = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        named |= set(re.findall(r"\b(?:Testing|PromptSeg(?:Lib)?)/[\w/.-]+\.py\b", path.read_text(encoding="utf-8")))
    assert len(named) > 3
    for name in named:
        assert (ROOT / name).is_file(), name


def test_make_has_the_targets():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for page in DOCUMENTS for name in re.findall(r"(?:^|`)make ([\w-]+)", page.text, re.MULTILINE)}
    assert {"demo", "test", "bench", "bench-large"} <= named <= targets


def commands() -> dict:
    """The commands of ``promptseg`` and their parsers."""
    from PromptSegLib.cli.main import _parser

    return next(action.choices for action in _parser()._actions if action.choices)


def test_promptseg_has_the_commands():
    pattern = r"(?:^|`|`models`|machine )promptseg ([a-z-]+)"
    named = {name for page in DOCUMENTS for name in re.findall(pattern, page.text, re.MULTILINE)}
    assert {"models", "tune", "segment", "score", "info", "pretrain"} <= named <= set(commands())


def test_promptseg_has_the_options():
    """Those of the shown commands, and those that the pages speak of."""
    known = {name: set(each._option_string_actions) for name, each in commands().items()}
    for page in DOCUMENTS:
        for command, rest in re.findall(r"^promptseg ([a-z-]+)([^#\n]*)", page.text, re.MULTILINE):
            assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", rest)) <= known[command], f"{page.name}: {command}{rest}"
    pages = (
        README,
        TUTORIAL,
        PANEL,
        METHODS,
        TROUBLES,
        document("docs/command-line.md"),
        document("docs/pretraining.md"),
    )
    spoken = {each for page in pages for each in re.findall(r"`(--[a-z][\w-]*)", page.prose)}
    assert {"--complete", "--start", "--outputs"} <= spoken <= set().union(*known.values())


def test_the_python_example_is_the_library_s():
    """Names and keywords of what it calls; that they work is tested elsewhere."""
    import inspect

    import PromptSegLib as ps

    block = re.search(r"```python\n(.*?)```", document("docs/command-line.md").text, re.DOTALL)[1]
    called = set()
    for node in ast.walk(ast.parse(block)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and getattr(node.func.value, "id", "") == "ps"
        ):
            assert node.func.attr in ps.__all__
            known = inspect.signature(getattr(ps, node.func.attr)).parameters
            assert {keyword.arg for keyword in node.keywords} <= set(known)
            called.add(node.func.attr)
    assert called == {"Example", "tune", "Settings", "segment", "SegmentationOptions"}


def test_tables_are_rectangular():
    count = 0
    for page in DOCUMENTS:
        for table in re.findall(r"(?:^\|.*\|$\n?)+", page.prose, re.MULTILINE):
            cells = [len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row))) for row in table.splitlines()]
            assert len(set(cells)) == 1, f"{page.name}: {table[:60]}"
            assert re.match(r"\|[-|]+\|$", table.splitlines()[1]), f"{page.name}: {table[:60]}"
            count += 1
    assert count > 15


BRITISH = r"licence|colour|labell|behaviour|neighbour|honour|favour|centre|grey|oesoph|normalis|optimise|recognis"


def test_spelling_is_american():
    british = re.compile(rf"\b(?:{BRITISH}|\w+alis[aei]|\w*(?:optim|summar|organ|recogn|random|minim)is[aei])\w*", re.I)
    for page in DOCUMENTS:
        prose = re.sub(r"`[^`]*`", "", page.prose)  # names in the code are what they are
        assert british.findall(prose) == [], page.name


def test_names_and_comments_are_american():
    """``licence`` is what catalogue entries and recipes have always called it; an organ may be typed in either way."""
    kept = {"licence", "licences", "oesophagus"}
    british = re.compile(rf"\w*(?:{BRITISH})\w*", re.I)
    for folder in ("PromptSegLib", "PromptSeg"):
        for path in (ROOT / folder).rglob("*.py"):
            assert set(british.findall(path.read_text(encoding="utf-8"))) <= kept, path


def test_code_cites_documents_that_are_there():
    """Comments and docstrings point to pages and headings of this repository, and to no document that is not in it."""
    cited = 0
    for folder in ("PromptSegLib", "Testing", "PromptSeg"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for name, anchor in re.findall(r"\b(docs/[\w-]+\.md)(?:#([\w-]+))?", text):
                cited += 1
                assert (ROOT / name).is_file(), f"{path} cites {name}"
                assert not anchor or anchor in document(name).anchors, f"{path} cites {name}#{anchor}"
            own = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "NAME.md"}
            others = set(re.findall(r"(?<![\w/])([A-Z]{4,}\.md)\b", text)) - own
            assert not others, f"{path} cites {others}"
    assert cited >= 15


# The README


def test_the_readme_is_short():
    assert len(README.text.splitlines()) <= MOST_LINES


def test_the_readme_leads_to_every_page():
    named = {(ROOT / link.partition("#")[0]).resolve() for link in README.links}
    assert {page.path for page in PAGES} <= named


def test_the_first_screen():
    first = README.text[: README.text.index("## ")]
    assert README.pictures[0] in first
    assert "not for diagnosis" in first
    assert re.search(r"^make demo .*\nmake test ", first, re.MULTILINE)


def test_the_license_is_named():
    assert "Apache-2.0" in README.section("License")
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_intended_use_is_said():
    assert "not for diagnosis" in " ".join(README.section("Limits").split())


def test_what_reviewers_of_the_index_ask_for():
    """Every module in a sentence; a tutorial with sample data; what is downloaded and how it goes again; citations."""
    assert "**PromptSeg**" in README.section("Install")
    assert "remove" in README.section("Install")
    assert "Nothing leaves your machine" in README.section("Privacy")
    assert len(re.findall(r"^- \w+: ", README.section("How to cite"), re.MULTILINE)) == 3
    assert "docs/tutorial.md" in README.section("Tutorial")


@pytest.mark.parametrize("page", [README.section("Tutorial"), TUTORIAL.prose], ids=["README", "tutorial"])
def test_samples_are_named_as_in_sample_data(page):
    from PromptSegLib.gui.sample_data import CATEGORY, SAMPLES

    assert f"*{CATEGORY}*" in page
    for sample in SAMPLES:
        assert f"`{sample.name}`" in page
        assert sample.node_name in page


# The panel and its messages


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_those_of_the_source(message):
    parts = [re.escape(part) for part in message.split("...")]
    assert len(re.sub(r"[^A-Za-z]", "", message)) >= FEWEST_LETTERS
    # What is left out in the table is a value that is filled in, or the rest of the sentence.
    pattern = re.compile(".*".join(parts), re.DOTALL)
    assert any(pattern.fullmatch(text) for text in texts_of_the_source())


@pytest.mark.parametrize("words", sorted(set(BOLD)))
def test_labels_of_the_panel_are_its_own(words):
    """In bold stands what the panel says, in the same words."""
    said = [text.rstrip(":") for text in (*LABELS, *texts_of_the_source()) if text]
    assert words in said


def sections_of_the_panel() -> dict[str, str]:
    """Name of a section -> its title; sections are the collapsible buttons that lie in no other and are not flat."""
    found = {}
    for each in UI.iter("widget"):
        if each.get("class") == "ctkCollapsibleButton":
            texts = {one.get("name"): one for one in each.findall("property")}
            if "flat" not in texts:
                found[(each.get("name") or "").removesuffix("CollapsibleButton")] = texts["text"].find("string").text
    return found


def test_every_section_of_the_panel_is_explained():
    sections = sections_of_the_panel()
    assert len(sections) >= 5
    for title in sections.values():
        assert re.search(rf"^\*\*{re.escape(title)}\*\*[: ]", PANEL.prose, re.MULTILINE), title


def test_shortcuts_are_those_of_the_module():
    source = (LIBRARY / "gui/shortcuts.py").read_text(encoding="utf-8")
    keys = set(re.findall(r'": "(Ctrl\+[^"]+)"', source))
    assert keys
    assert set(re.findall(r"^\| (Ctrl\+\S+) \|", PANEL.section("Keyboard shortcuts"), re.MULTILINE)) == keys


# Methods and measurements


def test_methods_have_their_sections():
    """Those of the command line, those of the panel, the rows of the table and the headings are the same."""
    from PromptSegLib.gui.choices import METHODS as SHOWN

    named = set(commands()["tune"]._option_string_actions["--method"].choices)
    table = METHODS.section("Which method to choose")
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == named == set(SHOWN)
    assert named <= METHODS.anchors


def test_numbers_of_a_class_are_the_networks():
    from math import prod

    from PromptSegLib.network.config import NetworkConfig

    def count(*arguments: str) -> int:
        return sum(prod(shape) for shape in NetworkConfig().prompt_shapes(*arguments).values())

    full, decoder = count("full"), count("decoder")
    for number in (full, decoder, count("decoder", "punet", "all") - decoder):
        assert f"{number:,}" in METHODS.section("PUNet")


def test_measured_tables_have_their_commands():
    assert "`make bench`" in README.section("What it reaches")
    for title in re.findall(r"^## (.+)$", BENCHMARKS.prose, re.MULTILINE):
        assert re.search(r"`make [\w-]+`", BENCHMARKS.section(title)), title


# The house


def test_every_folder_is_in_the_table_and_in_the_picture():
    text = ARCHITECTURE.section("Rooms")
    table = re.findall(r"^\| `([\w/]+)` \| \S.* \|$", text, re.MULTILINE)
    assert set(table) == rooms() | {"PromptSeg", "Testing"}
    picture = re.search(r"```mermaid\n(.*?)```", text, re.DOTALL)[1]
    assert set(re.findall(r'\b(\w+)\["', picture)) - {"slicer", "process"} == {name.split("/")[1] for name in rooms()}


def test_contributing_says_how_to_add_each_thing():
    for thing in ("a method", "a model", "a section of the panel", "a message"):
        part = re.search(rf"^\*\*To add {thing}\*\*.*?(?=^\*\*|^## )", CONTRIBUTING.text, re.MULTILINE | re.DOTALL)
        assert part, thing
        assert len(part[0].splitlines()) <= 8, thing  # a few lines
        assert PLACE.search(part[0]) or FILE.search(part[0]), thing


def test_sections_follow_what_contributing_says():
    """``<name>_section.py``, with a class that is in the panel's list and renders a view; its notices are shown."""
    panel = (LIBRARY / "gui/panel.py").read_text(encoding="utf-8")
    for name in sections_of_the_panel():
        path = LIBRARY / "gui" / f"{name}_section.py"
        kind = f"{name.capitalize()}Section"
        assert defined(path, f"{kind}.render"), name
        assert f"{kind}(self)" in panel
