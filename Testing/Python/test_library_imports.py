"""What the library imports, and when; and that Python 3.9 can read all of it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from typing import Iterator

import pytest

from harness.library_files import FILES, LIBRARY, ROOT, imported, tree

HEAVY = ("torch", "monai", "slicer", "vtk", "qt", "ctk", "PythonQt")
MRML = {"slicer", "vtk"}
LIGHT_MODULES = ("prompts.store", "models.catalogue", "imaging.reading", "network.config", "inference.writing")
VIEW_MODELS = ("action_bar", "choices", "installation", "model_list", "segments_table", "volume_list")
TYPES = {"int", "str", "float", "bool", "bytes", "dict", "list", "tuple", "set", "Path", "Tensor", "None"}


def heavy_modules(*steps: str) -> dict[str, list[str]]:
    """What each step of code makes a fresh interpreter load of ``HEAVY``, after the steps before it; what they print is
    dropped."""
    lines = ["import contextlib, io, sys", "found, seen = {}, set()"]
    for step in steps:
        lines += ["with contextlib.redirect_stdout(io.StringIO()):", f"    {step}"]
        lines += [f"found[{step!r}] = [name for name in {HEAVY!r} if name in sys.modules and name not in seen]"]
        lines += [f"seen.update(found[{step!r}])"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, "print({step: names for step, names in found.items() if names})"])],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


def test_the_files_are_found():
    assert len(FILES) > 40
    assert LIBRARY / "scene" / "segmentations.py" in FILES


# What is loaded when


def test_the_probe_sees_modules():
    assert heavy_modules("pass", "sys.modules['vtk'] = sys", "pass") == {"sys.modules['vtk'] = sys": ["vtk"]}


def test_the_library_its_light_modules_and_commands_that_only_look_load_nothing_heavy():
    """One after the other in one interpreter, so that the first that loads something is the one named."""
    steps = ["import PromptSegLib", "dir(PromptSegLib)", "PromptSegLib.__version__"]
    for name in LIGHT_MODULES:
        steps.append(f"import PromptSegLib.{name}")
    steps.append("from PromptSegLib.cli.main import main")
    for words in (["models"], ["models", "--json"], ["info", "ct-body"], ["info", "ct-body", "--json"]):
        steps.append(f"assert main({words!r}) == 0")
    for room in ("installation", "worker"):
        steps += imports_of(room)
    assert heavy_modules(*steps) == {}


def test_the_session_and_the_panels_view_models_load_slicers_mrml_at_most():
    """They bring that with them through the scene, and no widgets."""
    steps = [*imports_of("session"), *(f"import PromptSegLib.gui.{name}" for name in VIEW_MODELS)]
    assert not {name for names in heavy_modules(*steps).values() for name in names} - MRML


def imports_of(room: str) -> list[str]:
    """Imports of all modules of a room."""
    files = sorted((LIBRARY / room).rglob("*.py"))
    assert files
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).replace(".__init__", "") for path in files]
    return [f"import {name}" for name in names if not name.endswith(".__main__")]


def test_the_names_of_the_library():
    import PromptSegLib

    assert set(PromptSegLib.__all__) == set(PromptSegLib._PLACES)
    for name in PromptSegLib.__all__:
        thing = getattr(PromptSegLib, name)
        assert thing.__name__ == name
        assert thing.__module__ == f"PromptSegLib.{PromptSegLib._PLACES[name]}"
        assert name in dir(PromptSegLib)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        PromptSegLib.nothing  # noqa: B018
    listed = {
        alias.name: node.module
        for node in ast.walk(tree(LIBRARY / "__init__.py"))
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    assert listed == PromptSegLib._PLACES  # what type checkers see is what callers get


# What may be imported where: the contracts in pyproject.toml, which ``lint-imports`` checks; here is what it cannot see


def test_every_room_is_under_contract():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11; the contracts are checked there
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers, nodes, *_ = contracts
    listed = {room.strip() for layer in layers["layers"] for room in layer.split("|")}
    rooms = {path.relative_to(LIBRARY).parts[0].partition(".")[0] for path in FILES} - {"__init__"}
    assert layers["exhaustive"] and listed == rooms
    assert {name.partition(".")[2] for name in nodes["source_modules"]} == rooms - {"scene", "gui"}


BREACHES = {
    "No arrow between rooms runs back up": ("imaging/geometry.py", "from ..session import session"),
    "Slicer's nodes are known to scene and gui alone": ("imaging/geometry.py", "import slicer"),
    "Widgets are known to gui alone": ("scene/node_references.py", "import qt"),
    "Torch stays out of what needs none": ("imaging/geometry.py", "def f():\n    import torch"),
    "No pickle": ("imaging/geometry.py", "import pickle"),
}


def test_the_contracts_can_be_broken(tmp_path):
    """All of them at once, since a look at all imports takes seconds; that they are kept is ``make lint``'s to say."""
    pytest.importorskip("importlinter")
    for path in FILES:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for name, line in BREACHES.values():
        victim = tmp_path / "PromptSegLib" / name
        before = victim.read_text(encoding="utf-8")
        victim.write_text(before.replace("import numpy", f"{line}\nimport numpy", 1))
        assert victim.read_text(encoding="utf-8") != before
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode, done.stdout + done.stderr
    assert re.findall(r"^(.+) BROKEN", done.stdout, re.MULTILINE) == list(BREACHES)


def test_nothing_is_executed_from_files():
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "load"), path
            if isinstance(node, ast.ImportFrom) and node.module == "torch":
                assert "load" not in {alias.name for alias in node.names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "__import__"), path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path


# Documentation


def test_every_package_says_what_it_is():
    packages = [path for path in FILES if path.name == "__init__.py" and path.parent != LIBRARY]
    assert {path.parent for path in FILES} - {LIBRARY} == {path.parent for path in packages}
    for path in packages:
        text = ast.get_docstring(tree(path)) or ""
        assert "\n" not in text, path
        assert text.endswith("."), path
        assert ". " not in text, path


def test_every_module_says_what_it_is():
    assert not [path for path in FILES if not (ast.get_docstring(tree(path)) or "").split("\n")[0].strip()]


# Python 3.9


def test_python_3_9_reads_all_of_it():
    for path in FILES:
        python_3_9_reads(path)


def python_3_9_reads(path):
    text = path.read_text(encoding="utf-8")
    module = ast.parse(text, str(path), feature_version=(3, 9))
    later = [node for node in ast.walk(module) if isinstance(node, getattr(ast, "Match", ()))]
    assert not later, path  # feature_version lets match statements pass
    postponed = any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" and node.names[0].name == "annotations"
        for node in module.body
    )
    notes = list(annotations(module))
    assert postponed or not any(unions(note) for note in notes), path
    inside = {id(node) for note in notes for node in ast.walk(note)}
    assert not [node.lineno for node in unions(module) if id(node) not in inside], (
        path,
        "X | Y is evaluated at run time",
    )
    for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        words = {keyword.arg for keyword in call.keywords}
        assert not (name == "zip" and "strict" in words), path
        assert not (name == "dataclass" and words & {"slots", "kw_only"}), path
    assert not {"tomllib"} & set(imported(path)), path


def annotations(module: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns:
            yield node.returns
        if isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation:
            yield node.annotation


def unions(module: ast.AST) -> list[ast.BinOp]:
    """The expressions ``X | Y`` of which a side is plainly a type."""

    def is_type(node: ast.AST) -> bool:
        if isinstance(node, ast.Subscript):
            return is_type(node.value)
        if isinstance(node, ast.Constant):
            return node.value is None
        return isinstance(node, ast.Name) and node.id in TYPES

    return [
        node
        for node in ast.walk(module)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.BitOr)
        and (is_type(node.left) or is_type(node.right))
    ]


def test_the_check_for_python_3_9_checks(tmp_path):
    for text in (
        "def f(x: int | None): ...",
        "from __future__ import annotations\nKind = int | None",
        "from __future__ import annotations\nKind = list[int] | dict",
        "match 1:\n    case 1: ...",
        "for a, b in zip([], [], strict=True): ...",
    ):
        (tmp_path / "a.py").write_text(text)
        with pytest.raises((AssertionError, SyntaxError)):
            python_3_9_reads(tmp_path / "a.py")
    (tmp_path / "a.py").write_text("from __future__ import annotations\ndef f(x: int | None = 1 | 2): ...")
    python_3_9_reads(tmp_path / "a.py")
