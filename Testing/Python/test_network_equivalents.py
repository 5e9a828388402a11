"""What is computed otherwise than it is written down, for speed, gives what is written down: values and gradients."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from PromptSegLib.network import softmax
from PromptSegLib.network.convolution import pointwise
from PromptSegLib.network.methods.method import ExtraKeys
from PromptSegLib.network.norm import GroupNorm
from PromptSegLib.network.punet import PUNet
from PromptSegLib.network.softmax import attended, plainly_attended
from PromptSegLib.pretraining.objective import segmentation_loss

pytestmark = pytest.mark.fast


def _alike(found: list[Tensor], wanted: list[Tensor], share: float) -> None:
    for a, b in zip(found, wanted):
        assert a.shape == b.shape
        a, b = a.detach().float(), b.detach().float()
        assert float((a - b).abs().max()) <= share * float(b.abs().max())


def _attention(way, dtype: torch.dtype, own_keys: int, keyed: int, sinks: int, masked: bool) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).requires_grad_()

    batch, windows, n, heads, width, m = 2, 6, 8, 3, 32, 40
    qkv, bias = leaf(batch, windows, n, 3, heads, width), leaf(heads, n, n)
    leaves, extra = [qkv, bias], []
    for _ in range(keyed):
        keys, scores, values = leaf(own_keys, heads, m, width), leaf(1, heads, 1, m), leaf(own_keys, heads, m, width)
        extra.append(ExtraKeys(keys.to(dtype), scores, values.to(dtype)))
        leaves += [keys, scores, values]
    for shape in [(1, 1, n, 1), (1, heads, 1, 2)][:sinks]:
        leaves.append(leaf(*shape))
        extra.append(ExtraKeys(None, leaves[-1], None))
    mask = None
    if masked:
        mask = torch.zeros(windows, n, n).masked_fill_(torch.rand(windows, n, n, generator=draw) < 0.3, float("-inf"))
        mask.diagonal(dim1=1, dim2=2).zero_()
    out = way(qkv.to(dtype), bias, mask, extra)
    return [out, *torch.autograd.grad(out, leaves, torch.randn(out.shape, generator=draw).to(out.dtype))]


@pytest.mark.parametrize("own_keys, keyed, sinks, masked", [(1, 1, 0, True), (2, 2, 1, True), (1, 0, 2, False)])
def test_attention_by_parts_of_a_sum_is_one_softmax(own_keys, keyed, sinks, masked):
    case = (own_keys, keyed, sinks, masked)
    _alike(_attention(attended, torch.float32, *case), _attention(plainly_attended, torch.float32, *case), 1e-5)
    _alike(_attention(attended, torch.bfloat16, *case), _attention(attended, torch.float32, *case), 0.03)


def test_a_torch_without_the_kernel_attends_as_it_is_written(monkeypatch):
    monkeypatch.setattr(softmax, "kernels", lambda: None)
    draw = torch.Generator().manual_seed(1)
    qkv, bias = torch.randn(1, 2, 8, 3, 2, 32, generator=draw), torch.randn(2, 8, 8, generator=draw)
    assert torch.equal(attended(qkv, bias, None, []), plainly_attended(qkv, bias, None, []))


def test_this_torch_has_the_kernel():
    assert softmax.kernels() is not None


def test_extra_keys_that_are_switched_off_have_no_say():
    draw = torch.Generator().manual_seed(1)
    qkv, bias = torch.randn(1, 2, 8, 3, 2, 32, generator=draw), torch.randn(2, 8, 8, generator=draw)
    keys = torch.randn(1, 2, 5, 32, generator=draw)
    off = torch.full((1, 2, 1, 5), float("-inf"))
    found = attended(qkv, bias, None, [ExtraKeys(keys, off, keys), ExtraKeys(None, off, None)])
    assert torch.equal(found, attended(qkv, bias, None, []))


def _as_written(logits: Tensor, label: Tensor, known: Tensor) -> Tensor:
    """The loss with MONAI's Dice and one logarithm of a sum for what an unlabeled voxel may be."""
    maybe = torch.cat([known.new_ones(len(known), 1), ~known], 1)
    unlabeled = torch.logsumexp(logits.masked_fill(~maybe[:, :, None, None, None], -1e4), 1)
    own = logits.gather(1, label[:, None])[:, 0]
    entropy = torch.logsumexp(logits, 1) - torch.where(label == 0, unlabeled, own)
    onehot = F.one_hot(label, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    present = onehot.flatten(2).any(2)[:, 1:] & known
    dice = DiceLoss(include_background=False, smooth_nr=1e-2, smooth_dr=1e-2, reduction="none")
    each = dice(logits.softmax(1), onehot).flatten(1)
    return entropy.flatten(1).mean(1) + (each * present).sum(1) / present.sum(1).clamp(min=1)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_loss_in_parts_is_cross_entropy_and_dice_of_monai(share):
    draw = torch.Generator().manual_seed(2)
    logits = (8 * torch.randn(2, 6, 5, 40, 44, generator=draw)).requires_grad_()  # more voxels than a part has
    label = torch.randint(0, 6, (2, 5, 40, 44), generator=draw)
    label[1][label[1] > 3] = 0
    known = torch.rand(2, 5, generator=draw) < share
    weights = torch.tensor([1.0, 2.0])
    found, wanted = (
        [loss, *torch.autograd.grad((loss * weights).sum(), logits)]
        for loss in (way(logits, label, known) for way in (segmentation_loss, _as_written))
    )
    _alike(found, wanted, 1e-5)


def test_group_norm_has_the_gradient_of_torch():
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(2, 16, 9, 17, 21, generator=draw).contiguous(memory_format=torch.channels_last_3d) * 2 + 1
    slope = torch.randn(2, 16, 9, 17, 21, generator=draw)
    results = []
    for kind, dtype in product((nn.GroupNorm, GroupNorm), (torch.float32, torch.bfloat16)):
        norm = kind(8, 16)
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(-1, 2, 16))
            norm.bias.copy_(torch.linspace(1, -1, 16))
        given = x.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = norm(given)
        results.append([out, *torch.autograd.grad(out, (given, norm.weight, norm.bias), slope.to(out.dtype))])
    _alike(results[2], results[0], 1e-5)
    _alike(results[3], results[0], 0.02)


def test_logits_are_interpolated_as_torch_does():
    logits = torch.randn(2, 3, 5, 6, 7, generator=torch.Generator().manual_seed(4))
    wanted = F.interpolate(logits, scale_factor=(1.0, 2.0, 2.0), mode="trilinear", align_corners=False)
    assert torch.allclose(PUNet().upsample(logits, (5, 12, 13)), wanted[..., :13], atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_matrix_at_every_voxel_is_a_convolution_of_one(layout):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 4, 5, 3, generator=draw).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(7, 6, generator=draw, requires_grad=True)
    slope = torch.randn(2, 7, 4, 5, 3, generator=draw)
    results = []
    for found in (pointwise(x, weight), F.conv3d(x, weight[:, :, None, None, None])):
        results.append((found, *torch.autograd.grad(found, (x, weight), slope)))
    for mine, theirs in zip(*results):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
