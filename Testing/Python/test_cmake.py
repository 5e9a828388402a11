"""The CMake files: every list against the disk, and a real build against a stand-in for Slicer."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cmake_lists import LISTS, ROOT, Listed

MODULES = "lib/Slicer-5.12/qt-scripted-modules"
NAMES = [f"{each.folder}:{each.variable}" for each in LISTS]

# What Slicer's build system gives to an extension, as far as a scripted one goes: the same macro names and arguments,
# the same refusals and the same places in the build tree and the installed tree.
STAND_IN = {
    "SlicerConfig.cmake": """
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/Config.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/CPackExtension.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "@MODULES@")
""",
    "UseSlicer.cmake": """
include(CTest)

function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(ARG "WITH_GENERIC_TESTS;WITH_SUBDIR" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(ARG_UNPARSED_ARGUMENTS OR NOT ARG_NAME OR NOT ARG_SCRIPTS)
    message(FATAL_ERROR "bad arguments: ${ARGN}")
  endif()
  set(folder "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
  set(installed "${folder}/")
  if(ARG_WITH_SUBDIR)
    get_filename_component(name "${CMAKE_CURRENT_SOURCE_DIR}" NAME)
    set(folder "${folder}/${name}")
    set(installed "${folder}")
  endif()
  set(copies)
  foreach(file IN LISTS ARG_SCRIPTS ARG_RESOURCES)
    if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
      message(FATAL_ERROR "${ARG_NAME} lists '${file}', which does not exist")
    endif()
    add_custom_command(
      OUTPUT "${folder}/${file}"
      DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${file}"
      COMMAND ${CMAKE_COMMAND} -E copy "${CMAKE_CURRENT_SOURCE_DIR}/${file}" "${folder}/${file}")
    list(APPEND copies "${folder}/${file}")
  endforeach()
  add_custom_target(${ARG_NAME} ALL DEPENDS ${copies})
  install(DIRECTORY "${installed}" DESTINATION "${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
  if(BUILD_TESTING AND ARG_WITH_GENERIC_TESTS)
    add_test(NAME py_nomainwindow_qSlicer${ARG_NAME}ModuleGenericTest COMMAND ${CMAKE_COMMAND} -E true)
  endif()
endfunction()

function(slicer_add_python_unittest)
  cmake_parse_arguments(ARG "" "TESTNAME_PREFIX;SCRIPT" "SLICER_ARGS" ${ARGN})
  if(ARG_UNPARSED_ARGUMENTS OR NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${ARG_SCRIPT}")
    message(FATAL_ERROR "there is no test script '${ARG_SCRIPT}'")
  endif()
  get_filename_component(name "${ARG_SCRIPT}" NAME_WE)
  add_test(NAME py_${ARG_TESTNAME_PREFIX}${name} COMMAND ${CMAKE_COMMAND} -E true)
endfunction()
""",
    "Config.cmake": "",
    "CPackExtension.cmake": """
foreach(name HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  list(LENGTH EXTENSION_${name} parts)
  if(NOT parts EQUAL 1)
    message(FATAL_ERROR "EXTENSION_${name} is not one string: ${EXTENSION_${name}}")
  endif()
endforeach()
foreach(name LICENSE README)
  if(NOT EXISTS "${EXTENSION_${name}_FILE}")
    message(FATAL_ERROR "EXTENSION_${name}_FILE does not exist")
  endif()
endforeach()
""",
}


# The lists


@pytest.mark.parametrize("listed", LISTS, ids=NAMES)
def test_cmake_lists_what_lies_on_disk(listed: Listed):
    entries, files = listed.entries(), listed.files()
    assert sorted(set(entries) - set(files)) == [], "listed but not there; python Testing/Python/cmake_lists.py --write"
    assert sorted(set(files) - set(entries)) == [], "there but not listed; python Testing/Python/cmake_lists.py --write"
    assert entries == files, "not sorted, or listed twice"


def test_the_files_are_found():
    module, resources, scripts, data, tests = LISTS
    assert module.files() == ["PromptSeg.py"]  # any other .py here would be a module of its own to Slicer
    assert {"Resources/requirements.txt", "Resources/Icons/PromptSeg.png"} <= set(resources.files())
    assert not [name for name in resources.files() if "Pictures" in name]
    assert {"__init__.py", "scene/segmentations.py", "gui/__init__.py"} <= set(scripts.files())
    assert {"models/catalogue.json", "models/weights/ct-body.safetensors"} <= set(data.files())
    assert "PromptSegModuleTest.py" in tests.files()


def test_every_folder_of_the_library_is_a_package():
    scripts = LISTS[2].files()
    assert {str(Path(name).parent / "__init__.py") for name in scripts} <= set(scripts)


def test_application_tests_hold_a_test_case():
    """Slicer imports each by its file's name and runs the test cases in it."""
    for name in LISTS[4].files():
        module = ast.parse((ROOT / "Testing" / "Python" / name).read_text(encoding="utf-8"), name)
        classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
        bases = {base.attr if isinstance(base, ast.Attribute) else base.id for each in classes for base in each.bases}
        assert bases & {"TestCase", "ScriptedLoadableModuleTest"}, name


def test_a_list_is_read_and_renewed(tmp_path, monkeypatch):
    folder = tmp_path / "Thing"
    (folder / "part").mkdir(parents=True)
    for name in ("Thing.py", "part/new.py", "part/ignored.py", "notes.txt"):
        (folder / name).touch()
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    cmake = folder / "CMakeLists.txt"
    cmake.write_text("# before\nset(SCRIPTS\n  ${MODULE_NAME}.py\n  part/gone.py\n  )\nset(OTHER\n  a.py\n  )\n")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setattr("cmake_lists.ROOT", tmp_path)
    listed = Listed("Thing", "SCRIPTS", lambda path: path.suffix == ".py")
    assert listed.entries() == ["Thing.py", "part/gone.py"]
    assert listed.files() == ["Thing.py", "part/new.py"]
    assert listed.write()
    assert not listed.write()
    assert cmake.read_text() == "# before\nset(SCRIPTS\n  Thing.py\n  part/new.py\n  )\nset(OTHER\n  a.py\n  )\n"
    with pytest.raises(ValueError, match="no set"):
        Listed("Thing", "MISSING", lambda path: True).entries()


# Building


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> SimpleNamespace:
    """The extension built, and installed from the build: ``build`` and ``install`` are the module folders.

    ``tests`` are the names of the registered tests.
    """
    cmake = shutil.which("cmake")
    if cmake is None or shutil.which("ctest") is None:
        pytest.skip("needs cmake")
    folder = tmp_path_factory.mktemp("extension")
    package, build, prefix = folder / "Slicer", folder / "build", folder / "installed"
    package.mkdir()
    for name, text in STAND_IN.items():
        (package / name).write_text(text.replace("@MODULES@", MODULES), encoding="utf-8")
    # Nothing is compiled: a compiler that is never called spares the machine one.
    (package / "toolchain.cmake").write_text(
        "".join(
            f'set(CMAKE_{language}_COMPILER "{sys.executable}")\nset(CMAKE_{language}_COMPILER_FORCED TRUE)\n'
            for language in ("C", "CXX")
        )
    )
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={package / 'toolchain.cmake'}"
    run(cmake, "-S", ROOT, "-B", build, f"-DSlicer_DIR={package}", toolchain)
    run(cmake, "--build", build)
    run(cmake, "--install", build, "--prefix", prefix)
    tests = re.findall(r"Test +#\d+: (\S+)", run("ctest", "--show-only", cwd=build))
    return SimpleNamespace(build=build / MODULES, install=prefix / MODULES, tests=tests)


def run(*words: object, cwd: Path = ROOT, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.application
@pytest.mark.parametrize("tree", ["build", "install"])
def test_the_trees_hold_every_file_once(built, tree):
    modules: Path = getattr(built, tree)
    found = {path.relative_to(modules).as_posix() for path in modules.rglob("*") if path.is_file()}
    expected = set(LISTS[0].files() + LISTS[1].files())
    expected |= {f"PromptSegLib/{name}" for name in LISTS[2].files() + LISTS[3].files()}
    assert found == expected
    for name in ("PromptSegLib/models/weights/ct-body.safetensors", "PromptSegLib/__init__.py"):
        assert (modules / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.mark.application
@pytest.mark.parametrize("tree", ["build", "install"])
def test_the_library_works_next_to_the_module(built, tree, tmp_path):
    """As in Slicer, only the folder with the modules is on the path."""
    modules: Path = getattr(built, tree)
    code = (
        "import PromptSegLib\n"
        "from PromptSegLib.models import catalogue\n"
        "entry = catalogue.find()\n"
        "print(PromptSegLib.__file__, entry.path, entry.prompts, sep='\\n')\n"
        "print(entry.installed, entry.prompts.is_file())\n"
    )
    environment = {"PYTHONPATH": str(modules), "PYTHONDONTWRITEBYTECODE": "1"}
    *paths, state = run(sys.executable, "-c", code, cwd=tmp_path, **environment).splitlines()
    assert [Path(each).resolve().relative_to(modules.resolve()).as_posix() for each in paths] == [
        "PromptSegLib/__init__.py",
        "PromptSegLib/models/weights/ct-body.safetensors",
        "PromptSegLib/models/weights/ct-body.prompts.safetensors",
    ]
    assert (modules / "Resources" / "requirements.txt").is_file()
    assert state == "True True"
    said = run(sys.executable, "-m", "PromptSegLib", "models", cwd=tmp_path, **environment)
    assert "ct-body" in said


@pytest.mark.application
def test_the_tests_are_registered(built):
    expected = {"py_PromptSeg", "py_nomainwindow_qSlicerPromptSegModuleGenericTest"}
    assert set(built.tests) == expected | {f"py_{Path(name).stem}" for name in LISTS[4].files()}
