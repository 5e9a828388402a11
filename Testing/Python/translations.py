"""What PromptSeg says, to be translated: ``python translations.py FILE.ts`` writes it for Qt Linguist.

Slicer's own tools find ``_("...")`` in the panel and the texts of its ``.ui`` file. These are the others, all in the
context that ``gui/i18n.py`` looks them up in: sentences with named fields, and what session, installation and the view
models of the panel say plainly.
"""

from __future__ import annotations

import ast
import string
import sys
from pathlib import Path
from typing import Iterator
from xml.etree import ElementTree

LIBRARY = Path(__file__).resolve().parents[2] / "PromptSegLib"
MAKERS = ("PromptSegError", "Sentence")
CONTEXT = "PromptSeg"


def made(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that make a sentence."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS and node.args:
            yield node


def fields_of(template: str) -> set[str]:
    """Names of the fields of a template; raises ``ValueError`` for one that has others than named ones."""
    names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    if not all(name.isidentifier() for name in names):
        raise ValueError(f"the fields of {template!r} have no names")
    return names


def templates(path: Path) -> set[str]:
    """The sentences of a file: of its calls, and, where no widget is at hand, the literals that are one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {call.args[0].value for call in made(tree) if isinstance(call.args[0], ast.Constant)}
    if path.parent.name in ("gui", "session", "installation"):
        found |= {text for text in _literals(tree) if text[:1].isupper() and " " in text and text.endswith(".")}
    return found


def _literals(tree: ast.AST) -> Iterator[str]:
    """All text literals but docstrings, what ``_()`` marks, and the pieces of f-strings."""
    passed = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            passed.add(id(node.value))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Call) and ast.unparse(node.func) == "_"):
            passed |= {id(part) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
            yield node.value


def everything() -> dict[str, list[str]]:
    """Template -> the files that say it, as paths in the library."""
    found: dict[str, list[str]] = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        for template in sorted(templates(path)):
            found.setdefault(template, []).append(path.relative_to(LIBRARY).as_posix())
    return found


def write(file: Path) -> None:
    """A Qt translation source with one message for each template."""
    root = ElementTree.Element("TS", version="2.1", language="en")
    context = ElementTree.SubElement(root, "context")
    ElementTree.SubElement(context, "name").text = CONTEXT
    for template, places in sorted(everything().items()):
        message = ElementTree.SubElement(context, "message")
        for place in places:
            ElementTree.SubElement(message, "location", filename=place)
        ElementTree.SubElement(message, "source").text = template
        ElementTree.SubElement(message, "translation", type="unfinished")
    tree = ElementTree.ElementTree(root)
    tree.write(file, encoding="utf-8", xml_declaration=True)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
