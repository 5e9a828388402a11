"""The growing network: any spacing, no dependence on the extent, small enough to ship."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from PromptSegLib.errors import PromptSegError
from PromptSegLib.growing.inputs import CHANNELS
from PromptSegLib.growing.model import WEIGHTS, ask, load_growing, save_growing
from PromptSegLib.growing.network import GrowingNet, multiples, strides


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = GrowingNet().eval()
    torch.nn.init.normal_(net.answer.weight)
    return net


@pytest.mark.parametrize(
    ("spacing", "first", "whole"),
    [((1, 1, 1), (2, 2, 2), (16, 16, 16)), ((8, 1, 1), (1, 2, 2), (2, 16, 16)), ((1, 1, 4), (2, 2, 1), (16, 16, 4))],
)
def test_coarse_axes_are_halved_later(spacing, first, whole):
    steps = strides(spacing)
    assert steps[0] == first and multiples(steps) == whole


@pytest.mark.parametrize("shape", [(1, 5, 7), (9, 16, 33), (16, 16, 16)])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 1, 1)])
def test_answers_have_the_extent_of_the_question(net, shape, spacing):
    asked = np.random.default_rng(0).normal(size=(2, CHANNELS, *shape)).astype(np.float32)
    assert ask(net, asked, spacing).shape == (2, *shape)


def test_an_answer_does_not_depend_on_what_is_far_away(net):
    asked = np.random.default_rng(0).normal(size=(1, CHANNELS, 16, 16, 160)).astype(np.float32)
    other = asked.copy()
    other[..., 112:] = 0
    assert np.allclose(ask(net, asked, (1, 1, 1))[..., :16], ask(net, other, (1, 1, 1))[..., :16], atol=1e-3)


def test_a_file_gives_the_network_back(net, tmp_path):
    path = tmp_path / "net.safetensors"
    save_growing(path, dict(net.state_dict()), {"title": "x"})
    asked = np.random.default_rng(0).normal(size=(1, CHANNELS, 8, 8, 8)).astype(np.float32)
    again = load_growing(path)
    assert np.abs(ask(again, asked, (1, 1, 1)) - ask(net, asked, (1, 1, 1))).max() < 0.1
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_weights_that_are_standardized_once_answer_as_those_that_are_each_time(net):
    """At every precision that it is asked in, and again."""
    frozen = copy.deepcopy(net).frozen()
    maps = torch.randn(1, CHANNELS, 16, 16, 16)
    steps = strides((1, 1, 1))
    for _ in range(2):
        for dtype in (torch.float32, torch.bfloat16):
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
                assert torch.equal(frozen(maps.to(dtype), steps), net(maps.to(dtype), steps))
    again = GrowingNet()
    again.load_state_dict(frozen.state_dict())  # what is written and trained on are the weights themselves
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), net.parameters()))


@pytest.mark.parametrize("content", [b"", b"no network", None])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "net.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PromptSegError, match="not a growing network"):
        load_growing(path)


def test_the_shipped_network_is_small_and_has_a_card():
    assert WEIGHTS.stat().st_size <= 3_000_000
    load_growing()
    assert WEIGHTS.with_suffix(".md").is_file()
