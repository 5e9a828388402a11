"""The house in numbers, at a commit and now; prints the table of the architecture page: ``python house.py [COMMIT]``.

A room is a folder of the library. An arrow runs back up if it is against the order of the rooms that has the fewest of
these; where no two rooms need each other, there is none. Lines of code are those with a token that is neither comment
nor docstring. Of functions, everything from ``def`` to the last line counts; those that a class or function holds as
well.
"""

from __future__ import annotations

import ast
import io
import itertools
import statistics
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from pathlib import Path
from typing import Any, Iterator

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "PromptSegLib"
BEFORE = "4e2bee4"
_NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)


def arrows(library: Path) -> dict[tuple[str, str], int]:
    """(importing room, imported room) -> how many imports."""
    found: dict[tuple[str, str], int] = {}
    for path in library.rglob("*.py"):
        room = path.relative_to(library).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            parent = path.parents[node.level - 1].joinpath(*(node.module or "").split(".")).relative_to(library).parts
            for target in [parent[0]] if parent else [alias.name for alias in node.names]:
                if target != room and (library / target).is_dir() and (library / room).is_dir():
                    found[room, target] = found.get((room, target), 0) + 1
    return found


def arrows_back(edges: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """The fewest arrows without which no room needs itself, room by room of those that need each other."""
    reach = {a: {b for x, b in edges if x == a} for a, _ in edges}
    for _ in reach:
        for room, known in reach.items():
            reach[room] = known.union(*(reach.get(each, set()) for each in known))
    circles = {frozenset(other for other in known if room in reach.get(other, ())) for room, known in reach.items()}
    back: list[tuple[str, str]] = []
    for circle in filter(None, circles):
        inner = [edge for edge in edges if set(edge) <= circle]
        orders = itertools.permutations(sorted(circle))
        fewest = min(([e for e in inner if order.index(e[0]) > order.index(e[1])] for order in orders), key=len)
        back += fewest
    return back


def code_lines(path: Path) -> int:
    text = path.read_text(encoding="utf-8")
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {
        line
        for token in tokens
        if token.type not in _NO_CODE and token.type != tokenize.ENDMARKER
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - docstrings)


def nodes(paths: list[Path], kinds: tuple) -> Iterator[tuple[str, Any]]:
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kinds):
                yield f"{path.parent.name}/{path.name}::{node.name}", node


def measured(root: Path) -> dict[str, str]:
    """Row -> what there is at ``root``."""
    library = root / LIBRARY
    files = sorted(library.rglob("*.py"))
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    longest = max(files, key=lengths.__getitem__)
    functions = list(nodes(files, (ast.FunctionDef, ast.AsyncFunctionDef)))
    length = lambda node: node.end_lineno - node.lineno + 1  # noqa: E731
    name, worst = max(functions, key=lambda each: length(each[1]))
    methods = {
        name: sum(isinstance(each, ast.FunctionDef) for each in node.body)
        for name, node in nodes(files, (ast.ClassDef,))
    }
    many = sorted((count, name.partition("::")[2]) for name, count in methods.items() if count > 20)
    edges = arrows(library)
    back = arrows_back(edges)
    tests = sorted((root / "Testing").rglob("*.py"))
    return {
        "rooms": str(len({path.relative_to(library).parts[0] for path in files if path.parent != library})),
        "arrows between rooms": str(len(edges)),
        "of them back up": f"{len(back)}{''.join(f', {a} to {b}' for a, b in back)}",
        "files": str(len(files)),
        "lines of a file, median": f"{statistics.median(lengths.values()):.0f}",
        "longest file": f"{lengths[longest]} ({longest.relative_to(library)})",
        "files above 400 lines": str(sum(count > 400 for count in lengths.values())),
        "longest function": f"{length(worst)} ({name})",
        "functions above 60 lines": str(sum(length(node) > 60 for _, node in functions)),
        "classes above 20 methods": f"{len(many)}{''.join(f', {name} {count}' for count, name in many[::-1])}",
        "lines of code": f"{sum(map(code_lines, files)):,}",
        "lines of tests, demo and benchmarks": f"{sum(map(code_lines, tests)):,}",
        "words of the README": f"{len((root / 'README.md').read_text(encoding='utf-8').split()):,}",
    }


def at(commit: str) -> dict[str, str]:
    """What there was at a commit."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        wanted = [each for each in tar.getmembers() if each.name.endswith((".py", "README.md"))]
        tar.extractall(folder, wanted)
        return measured(Path(folder))


def table(commit: str) -> str:
    before, now = at(commit), measured(ROOT)
    rows = [f"| {row} | {before[row]} | {now[row]} |" for row in now]
    return "\n".join([f"| | before ({commit}) | now |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table(sys.argv[1] if len(sys.argv) > 1 else BEFORE))
