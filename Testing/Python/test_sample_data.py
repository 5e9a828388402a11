"""What PromptSeg registers in Slicer's Sample Data module."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

from PromptSegLib.gui import sample_data

ROOT = Path(__file__).resolve().parents[2]


def test_samples_are_registered_with_their_checksums(monkeypatch):
    """The argument names are those of Slicer 5.8 to 5.12; Sample Data itself is no part of slicer-core."""
    registered = []
    logic = SimpleNamespace(registerCustomSampleDataSource=lambda **source: registered.append(source))
    monkeypatch.setitem(sys.modules, "SampleData", SimpleNamespace(SampleDataLogic=logic))
    sample_data.register()
    tutorial, demo = registered
    assert tutorial == {
        "category": "PromptSeg",
        "sampleName": "PromptSegCTLiver",
        "uris": sample_data.TUTORIAL.url,
        "fileNames": "CTLiver.nrrd",
        "nodeNames": "CTLiver",
        "loadFileTypes": "VolumeFile",
        "checksums": "SHA256:e16eae0ae6fefa858c5c11e58f0f1bb81834d81b7102e021571056324ef6f37e",
    }
    assert set(demo) == set(tutorial)
    assert demo["category"] == "PromptSeg"


def test_samples_cannot_change_unnoticed():
    for sample in sample_data.SAMPLES:
        url = urlsplit(sample.url)
        assert url.scheme == "https"
        assert url.hostname in ("github.com", "raw.githubusercontent.com")
        assert re.fullmatch("[0-9a-f]{64}", sample.sha256)
        # The address holds the hash, or the commit: never a branch.
        assert sample.sha256 in sample.url or re.search("/[0-9a-f]{40}/", sample.url)
    assert len({sample.name for sample in sample_data.SAMPLES}) == len(sample_data.SAMPLES)


def test_the_demo_sample_is_the_demo_s():
    spec = importlib.util.spec_from_file_location("fetch", ROOT / "Testing" / "Demo" / "fetch.py")
    fetch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fetch)
    assert sample_data.DEMO.sha256 == fetch.SHA256[fetch.CT]
    assert Path(urlsplit(sample_data.DEMO.url).path).name == fetch.CT
