"""Adaptations train what they say and nothing else; the bench does not repeat what is done."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from torch import nn

from harness.tiny_model import phantom, tiny_backbone
from PromptSegLib.network.config import FURTHER_TOKENS, OUTPUTS
from PromptSegLib.specializing.training import LOWEST, WARM_UP, rate_at

pytestmark = pytest.mark.training

CLASSES = 2
SIZE = (8, 16, 16)
FROZEN = ("prompts", "decoder prompts", "linear head", "linear head on all maps", "LoRA")
BODIES = (*FROZEN, "full fine-tuning", "decoder fine-tuning", "bias")


@pytest.fixture(scope="module")
def adaptations():
    return importlib.import_module("PromptSegLib.specializing.adaptations")


@pytest.fixture(scope="module")
def protocol(benchmark_module):
    return benchmark_module("protocol")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


def make(adaptations, name, backbone, classes=CLASSES, outputs="last"):
    return adaptations.adaptation(name, backbone, classes, torch.Generator().manual_seed(0), outputs=outputs)


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    # A parametrized weight is the same weight under another name.
    return {
        name.replace("parametrizations.weight.original", "weight"): each.detach().clone()
        for name, each in module.named_parameters()
    }


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", BODIES)
def test_only_what_is_named_is_trained(adaptations, protocol, backbone, name, outputs):
    given = snapshot(backbone.net)
    made = make(adaptations, name, backbone, outputs=outputs)
    for each in made.prompts.values() if name in adaptations.PROMPTED else ():
        each.data[each == 0] = 0.1  # tokens of further maps are silent until they are given prototypes
    trained = [each for group, _ in made.trained for each in group]
    assert {id(each) for each in trained} == {id(each) for each in made.parameters() if each.requires_grad}
    before, names = snapshot(made), [key for key, each in made.named_parameters() if not each.requires_grad]
    batch = {
        "large": torch.randn(1, 1, *SIZE),
        "large_label": torch.randint(0, 1 + CLASSES, (1, *SIZE)),
        "known": torch.ones(1, CLASSES, dtype=torch.bool),
    }
    assert made(batch["large"]).shape == (1, 1 + CLASSES, *SIZE)
    optimizer = torch.optim.AdamW([{"params": group, "lr": rate} for group, rate in made.trained], weight_decay=0.0)
    for _ in range(2):
        protocol.one_step(made, optimizer, trained, batch)
    after = snapshot(made)
    frozen = {key.replace("parametrizations.weight.original", "weight") for key in names}
    for key, value in after.items():
        assert torch.equal(value, before[key]) == (key in frozen), key
    if name in FROZEN:
        assert all(torch.equal(value, after[f"net.{key}"]) for key, value in given.items())
    assert all(torch.equal(value, given[key]) for key, value in snapshot(backbone.net).items())
    assert not any(each.requires_grad for each in backbone.net.parameters())


def test_frozen_parts(adaptations, backbone):
    made = make(adaptations, "decoder fine-tuning", backbone)
    trained = {name.split(".")[0] for name, each in made.net.named_parameters() if each.requires_grad}
    assert trained == {"decoder", "norm", "scale"}
    made = make(adaptations, "full fine-tuning", backbone)
    assert all(each.requires_grad for each in made.parameters())
    made = make(adaptations, "bias", backbone)
    trained = {name for name, each in made.net.named_parameters() if each.requires_grad}
    assert {"stem.bias", "norm.weight", "decoder.0.attention.blocks.0.norm1.weight"} <= trained
    assert not any("gamma" in name or "relative_bias" in name for name in trained)


@pytest.mark.parametrize("name", ["bias", "LoRA"])
def test_what_sits_inside_the_body_changes_nothing_at_first(adaptations, backbone, name):
    x = torch.randn(1, 1, *SIZE)
    with torch.no_grad():
        plain = make(adaptations, "linear head", backbone)(x)
        assert torch.equal(make(adaptations, name, backbone)(x), plain)


def test_trained_counts(adaptations, protocol, backbone):
    config = backbone.config
    counts = {name: protocol.trained_parameters(make(adaptations, name, backbone)) for name in BODIES}
    body, width = sum(each.numel() for each in backbone.net.parameters()), config.channels[0]
    head = 2 * width + (width + 1) * (1 + CLASSES)
    assert counts["prompts"] == CLASSES * config.prompt_parameters("full")
    assert counts["decoder prompts"] == CLASSES * config.prompt_parameters("decoder")
    assert counts["full fine-tuning"] == counts["prompts"] + body
    assert counts["linear head"] == head
    everywhere = sum(each.channels + 1 for each in config.output_maps) * (1 + CLASSES)
    assert counts["linear head on all maps"] == everywhere
    # A: rank x C, B: 3 C x rank
    assert counts["LoRA"] == head + sum(adaptations.RANK * 4 * block.channels for block in config.blocks())
    share = protocol.trained_share(make(adaptations, "prompts", backbone))
    assert share == pytest.approx(config.prompt_parameters("full") / body)
    wide = protocol.trained_parameters(make(adaptations, "prompts", backbone, outputs="all"))
    fewer = replace(config, tokens=adaptations.TOKENS_IN_LAST)
    assert wide == CLASSES * fewer.prompt_parameters("full", outputs="all")


@pytest.mark.parametrize("name, size", [("DynUNet", (16, 32, 32)), ("SwinUNETR", (64, 32, 32))])
def test_networks_from_scratch(adaptations, protocol, name, size):
    if name == "SwinUNETR":
        pytest.importorskip("einops", reason="MONAI's SwinUNETR needs einops")
    made = make(adaptations, name, None)
    with torch.no_grad():
        assert made(torch.randn(1, 1, *size)).shape == (1, 1 + CLASSES, *size)
    assert protocol.trained_parameters(made) == made.body == sum(each.numel() for each in made.parameters())


def test_what_cannot_be_made_is_named(adaptations, backbone):
    with pytest.raises(ValueError, match="no adaptation 'prompt'; choose one of prompts, "):
        make(adaptations, "prompt", backbone)
    with pytest.raises(ValueError, match="'bias' needs a backbone"):
        make(adaptations, "bias", None)


def test_the_same_seed_makes_the_same(adaptations, backbone):
    for name in ("prompts", "LoRA", "DynUNet"):
        one, other = (snapshot(make(adaptations, name, backbone)) for _ in range(2))
        assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_output_tokens_begin_as_prototypes(adaptations, protocol, backbone, outputs):
    label = torch.zeros(SIZE, dtype=torch.long)
    label[2:6, 4:12, 4:12] = 1  # class 2 is in no view
    views = [{"large": torch.randn(1, *SIZE) + 3 * label, "large_label": label} for _ in range(2)]
    made = make(adaptations, "decoder prompts", backbone, outputs=outputs)
    fresh = {name: tensor.detach().clone() for name, tensor in made.stacked().items()}
    protocol.warm_output(made, views, torch.Generator().manual_seed(1))
    warm = made.stacked()
    for name, tensor in warm.items():
        assert torch.equal(tensor, fresh[name]) == (not name.startswith("output")), name
    assert torch.equal(warm["output.foreground"][1], fresh["output.foreground"][1])
    assert torch.allclose(warm["output.foreground"][0].norm(dim=1), torch.ones(made.config.tokens))
    if outputs == "all":
        assert torch.allclose(warm["output.encoder1.background"][1].norm(dim=1), torch.ones(FURTHER_TOKENS))
    protocol.warm_output(make(adaptations, "LoRA", backbone), [], torch.Generator())


@pytest.fixture
def data(tmp_path) -> Path:
    """Two phantoms named as BTCV's cases, whose label values are among the new classes'."""
    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(2):
        image, reference = phantom(seed=index)
        sitk.WriteImage(image, str(folder / f"case{index:02d}_ct.nii.gz"))
        sitk.WriteImage(reference, str(folder / f"case{index:02d}_label.nii.gz"))
    return folder


@pytest.fixture
def arguments(data, tmp_path):
    threads = torch.get_num_threads()
    tiny_backbone(tmp_path)
    yield [
        f"--backbone=tiny={tmp_path / 'tiny0.safetensors'}",
        f"--data={data}",
        f"--out={tmp_path / 'results.json'}",
        "--training=case00",
        "--test=case01",
        "--seconds=1",
    ]
    torch.set_num_threads(threads)


def test_the_whole_bench(protocol, arguments, tmp_path, capsys):
    assert protocol.main([*arguments, "--methods", "prompts", "linear head"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["method"] for row in rows] == ["prompts", "linear head"]
    for row in rows:
        dice = row["dice"]["case01"]
        assert row["spent"] >= 1
        assert list(dice) == list(protocol.CLASSES)
        assert 0 <= dice["esophagus"] <= 1 and dice["pancreas"] in (None, 0.0)  # the phantom has no pancreas
    capsys.readouterr()
    assert protocol.main([*arguments, "--table"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| tiny | prompts | ")


def test_what_is_done_is_not_done_again(protocol, arguments, tmp_path, monkeypatch):
    trained = []

    def train(made, views, seconds, *_):
        trained.append((type(made).__name__, seconds))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return {"steps": 1, "spent": seconds, "wall": seconds, "loss": 0.0}

    monkeypatch.setattr(protocol, "train", train)
    monkeypatch.setattr(protocol, "test", lambda *_: {"case01": dict.fromkeys(protocol.CLASSES, 0.5)})
    arguments = [*arguments, "--methods", "prompts", "bias", "DynUNet"]
    with pytest.raises(KeyboardInterrupt):
        protocol.main(arguments)
    assert protocol.main(arguments) == 0
    assert [name for name, _ in trained] == ["Prompted", "Headed", "Headed", "Adaptation"]
    assert protocol.main(arguments) == 0
    assert len(trained) == 4
    assert protocol.main([*arguments, "--seed=1"]) == 0  # another seed is another entry
    assert len(trained) == 7
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["backbone"] for row in rows] == ["tiny", "tiny", "none"] * 2
    assert protocol.table(rows).splitlines()[2].endswith("| 2 |")


def test_the_time_is_the_clocks(adaptations, protocol, backbone):
    """Bounded by the clock, with a learning rate that rises and falls with it, and the average in the end."""
    made = make(adaptations, "linear head", backbone)
    label = torch.randint(0, 1 + CLASSES, SIZE)
    known = torch.ones(CLASSES, dtype=torch.bool)
    sample = {"active": torch.arange(CLASSES), "known": known, "encoder": True}
    sample.update(large=torch.randn(1, *SIZE), large_label=label)
    now = iter(range(100))

    class Same:
        def __getitem__(self, index):
            return sample

    told = protocol.train(made, Same(), 10.0, 1.0, torch.Generator(), clock=lambda: float(next(now)))
    assert told["steps"] == 9
    rates = [rate_at(share) for share in (0.0, WARM_UP, 0.5, 1.0)]
    assert rates[0] == rates[3] == LOWEST
    assert rates[1] > 0.99 and rates[1] > rates[2] > rates[3]
