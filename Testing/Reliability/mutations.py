"""Seeded mutations of bytes, of JSON and of texts."""

from __future__ import annotations

import copy
import random
from typing import Any, Callable

TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "../../etc/passwd",
    "/dev/null",
    "liver",
    "ä\N{COMBINING DIAERESIS}",
    "\N{RIGHT-TO-LEFT OVERRIDE}abc",
    "\ud800",
    "%s%n",
    "{0}",
    "$(touch x)",
    "`touch x`",
    "__import__('os').system('touch x')",
    "csubprocess\nPopen\n",
    "x" * 5000,
    "9" * 5000,
    "-1",
    "1e999",
    "NaN",
    "\N{ARABIC-INDIC DIGIT NINE}",
    "0x10",
    "True",
    "1",
    "\n\n",
    "<a/>",
    "nan,nan",
    ";",
    "=",
)
NUMBERS = (
    0,
    -1,
    1,
    2,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32,
    2**63,
    2**64,
    10**30,
    -(2**63),
    0.5,
    -0.0,
    1e308,
)


def value(rng: random.Random, depth: int = 0) -> Any:
    """Anything that JSON can hold, and more that Python's reader takes (NaN)."""
    kind = rng.randrange(8 if depth < 4 else 5)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice((float("nan"), float("inf"), float("-inf"), 1e-320))
    if kind <= 4:
        return rng.choice(TEXTS)
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(5))]
    if kind == 6:
        return {str(rng.choice(TEXTS)): value(rng, depth + 1) for _ in range(rng.randrange(4))}
    deep: Any = []
    for _ in range(rng.choice((10, 100, 2000))):
        deep = [deep]
    return deep


def _places(content: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if len(path) > 8:
        return found
    if isinstance(content, dict):
        for key in content:
            found += _places(content[key], (*path, key))
    elif isinstance(content, list):
        for index in range(min(len(content), 12)):
            found += _places(content[index], (*path, index))
    return found


def changed(content: Any, rng: random.Random) -> Any:
    """A JSON object with one to three of its places changed."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = _places(content)
        if not places:
            return value(rng)
        *path, last = rng.choice(places)
        parent: Any = content
        for key in path:
            parent = parent[key]
        action = rng.randrange(10)
        if action == 0 and isinstance(parent, dict):
            parent.pop(last)
        elif action == 1 and isinstance(parent, dict):
            parent[str(rng.choice(TEXTS))] = parent.pop(last)
        elif action == 2 and isinstance(parent, list):
            parent.append(parent[last])
        elif action == 3 and isinstance(parent, list):
            parent.pop(last)
        elif action == 4 and type(parent[last]) in (int, float):
            parent[last] = parent[last] * rng.choice((-1, 2, 0.5, 1000, 1e-3)) + rng.choice((0, 1, -1))
        else:
            parent[last] = value(rng)
    return content


def _flipped(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    at, size = rng.randrange(len(data)), rng.choice((1, 2, 4, 8))
    data[at : at + size] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _removed(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 16, 256))]


def _inserted(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.choice((1, 4, 64)))


def _repeated(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.choice((4, 64, 1024))]


_BYTES: tuple[Callable[[bytearray, random.Random], None], ...] = (_flipped, _set, _cut, _removed, _inserted, _repeated)


def bytes_of(data: bytes, rng: random.Random, head: int = 0) -> bytes:
    """Bytes with one to three mutations; half of the time only in the first ``head`` of them."""
    first, rest = (data[:head], data[head:]) if head and rng.random() < 0.5 else (data, b"")
    result = bytearray(first)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if result:
            rng.choice(_BYTES)(result, rng)
    return bytes(result) + rest
