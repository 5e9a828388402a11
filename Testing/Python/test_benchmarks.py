"""The benchmarks count what they say, and nothing else."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from harness.tiny_model import phantom, tiny_backbone
from PromptSegLib.inference.segmenting import segment
from PromptSegLib.prompts.store import Prompts

pytestmark = pytest.mark.training


@pytest.fixture
def shipped(benchmark_module, tmp_path, monkeypatch):
    """The bench of shipped prompts, of which a tiny backbone knows two sources and was told of two cases each."""
    module = benchmark_module("shipped")
    places = {}
    for source, cases in (("BTCV", ("one", "two", "taught")), ("OpenKBP", ("three", "misplaced", "taught"))):
        folder = tmp_path / "data" / source.lower()
        folder.mkdir(parents=True)
        for seed, case in enumerate(cases):
            image, reference = phantom(seed=seed)
            sitk.WriteImage(image, str(folder / f"{case}_ct.nii.gz"))
            if case == "two":
                reference = sitk.ChangeLabel(reference, {9: 0})  # without a rod
            sitk.WriteImage(reference, str(folder / f"{case}_label.nii.gz"))
        places[source] = {
            "name": source,
            "folder": f"elsewhere/{source.lower()}",
            "image": "{case}_ct.nii.gz",
            "label": "{case}_label.nii.gz",
            "modality": "CT",
            "licence": "none",
            "classes": {"liver": 5, "spleen": 9} if source == "BTCV" else {"aorta": 5},
        }
    recipe = {"name": "tiny0", "title": "Tiny", "card": "A phantom.", "steps": 1, "sources": list(places.values())}
    (tmp_path / "tiny0.json").write_text(json.dumps(recipe))
    monkeypatch.setattr(module, "RECIPES", tmp_path)
    monkeypatch.setattr(module, "CASES", {"BTCV": ("one", "two", "absent"), "OpenKBP": ("three", "misplaced")})
    monkeypatch.setattr(module, "MISPLACED", ("misplaced",))
    return module


def rows(text: str) -> list[list[str]]:
    """The cells of tables in Markdown, without their rules."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def dice(backbone, folder, case: str, name: str, value: int) -> float:
    image, reference = (sitk.ReadImage(str(folder / f"{case}_{kind}.nii.gz")) for kind in ("ct", "label"))
    guess = sitk.GetArrayFromImage(segment(backbone.shipped.only([name]), image, backbone).labels)
    guess, truth = guess == backbone.shipped.values[name], sitk.GetArrayFromImage(reference) == value
    return 2 * float((guess & truth).sum()) / max(float(guess.sum() + truth.sum()), 1.0)


def test_the_bench_of_shipped_prompts(shipped, tmp_path, monkeypatch, capsys):
    backbone = tiny_backbone(tmp_path, shipped=True)
    assert isinstance(backbone.shipped, Prompts)
    given = ["--data", str(tmp_path / "data"), "--model", str(tmp_path / "tiny0.safetensors"), "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["shipped", *given])
    assert shipped.main() == 0

    titles, abdomen, heads, all_heads, fewer = rows(capsys.readouterr().out)
    folder = tmp_path / "data" / "btcv"
    liver = np.mean([dice(backbone, folder, case, "liver", 5) for case in ("one", "two")])
    spleen = dice(backbone, folder, "one", "spleen", 9)  # counts where it is labeled
    assert titles[:-1] == ["BTCV", "cases", "liver", "spleen", "mean"]
    assert abdomen[:-1] == ["tiny0", "2", f"{liver:.3f}", f"{spleen:.3f}", f"**{(liver + spleen) / 2:.3f}**"]
    folder = tmp_path / "data" / "openkbp"

    aorta, other = (dice(backbone, folder, case, "aorta", 5) for case in ("three", "misplaced"))
    assert heads[:3] == ["OpenKBP", "cases", "aorta"]
    assert all_heads[:3] == ["tiny0", "2", f"{(aorta + other) / 2:.3f}"]
    assert fewer[:3] == ["tiny0, without misplaced", "1", f"{aorta:.3f}"]


def test_the_bench_of_shipped_prompts_without_data(shipped, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["shipped", "--data", str(tmp_path / "nothing")])
    assert shipped.main() == 2
    assert "shared/data/README.md" in capsys.readouterr().out


def test_training_speed(benchmark_module, monkeypatch):
    """What is measured is a whole training step of the network that is named."""
    throughput = benchmark_module("throughput")
    monkeypatch.setattr(throughput, "peak", partial(throughput.peak, extent=8))
    options = argparse.Namespace(device="cpu", threads=0, patch=[32, 32, 32], batch=1, classes=2, steps=1, clock="wall")
    threads = torch.get_num_threads()
    found = throughput.measure("PUNet", options)
    net = throughput.network("PUNet", 2, (32, 32, 32))
    assert torch.get_num_threads() == threads
    assert found["parameters"] == sum(each.numel() for each in net.parameters())
    assert found["seconds"] > 0 and found["peak"] > 0 and found["flop"] > 0
    with throughput.FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 1, 32, 32, 32))
    assert found["flop"] > 2 * counter.get_total_flops()  # forward and backward
    assert found["inference"] > 0 and found["flop"] > 2 * found["inference flop"] >= 2 * counter.get_total_flops()
