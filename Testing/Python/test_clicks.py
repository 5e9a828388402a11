"""How many clicks and notches of the wheel the panel asks for, by the script that also counts in the application."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6")
pytest.importorskip("slicer")


def test_few_clicks_and_no_scrolling(models, workers, monkeypatch):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "Demo")
    import clicks

    rows = clicks.on_stand_ins(str(models / "tiny0.safetensors"), seconds=0.1, make_worker=workers)
    found = {task: (pressed, keys, notches) for task, pressed, keys, notches in rows}
    assert not clicks.missed(rows), clicks.told(rows)
    assert 3 <= found["one structure and background"][0] <= 8
    assert found["one correction"][0] <= 5 and found["one correction"][2] == 0
    assert found["naming three segments"] == (1, 3, 0)
    assert clicks.missed([("one correction", 3, 0, 1)]) == ["one correction"]
    assert clicks.missed([("one structure and background", 9, 0, 0)]) == ["one structure and background"]
    sys.modules.pop("clicks")
