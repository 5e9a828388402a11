"""Memory that a program of ours has freed stays with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COUNT = """
import ctypes
import sys

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Info
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
if sys.argv[1] == "kept":
    from PromptSegLib.memory import keep_freed_memory
    keep_freed_memory()
before = library.mallinfo2().hblks
library.malloc(200 * 2**20)
print(library.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
@pytest.mark.parametrize(("how", "mappings"), [("as it is", "1"), ("kept", "0")])
def test_what_is_large_is_no_mapping_of_its_own(how, mappings):
    command = [sys.executable, "-c", COUNT, how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "mallinfo2" in done.stderr:
        pytest.skip("a C library without mallinfo2")
    assert done.stdout.strip() == mappings, done.stderr
