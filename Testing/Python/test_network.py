"""The network: locality, masks, prompts as extra keys and values, parameter counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import profile

from harness.network_fixtures import SMALL
from PromptSegLib.network.attention import PromptedWindowAttention, merge, partition, relative_index, window_mask
from PromptSegLib.network.config import FURTHER_TOKENS, MODES, OUTPUTS, NetworkConfig, outputs_of
from PromptSegLib.network.methods.registry import acting, known
from PromptSegLib.network.punet import Convolution, PUNet, ResidualConvolution
from PromptSegLib.network.tokens import new_prompts, select, stack, touches_encoder, unstack, without_encoder

pytest_plugins = ["harness.network_fixtures"]


def prompts_of(
    classes: int = 2,
    mode: str = "full",
    method: str = "punet",
    outputs: str = "last",
    config: NetworkConfig = SMALL,
):
    return new_prompts(config, classes, mode, method, torch.Generator().manual_seed(2), outputs)


def attention(shifted: bool = False, window: int = 4) -> PromptedWindowAttention:
    torch.manual_seed(0)
    block = PromptedWindowAttention("encoder1.0", 16, 2, window, shifted).eval().requires_grad_(False)
    block.gamma1.fill_(1.0)
    return block


def attended(block: PromptedWindowAttention, normed: torch.Tensor, prompts: dict) -> torch.Tensor:
    return block._attend(normed, prompts, acting(prompts))


def test_the_default_network_has_the_published_size():
    config = NetworkConfig()
    with torch.device("meta"):
        body = sum(parameter.numel() for parameter in PUNet(config).parameters())
    assert 6e6 < body < 8e6
    assert config.channels == (32, 64, 128, 256, 384)
    assert len(config.blocks()) == 14
    for mode in MODES:
        for method in known():
            for outputs in OUTPUTS:
                # PUNet's own share; earlier dynamic prompts with output tokens for all maps keep below 1 %.
                most = 0.01 if (method, outputs) == ("dvpt-format1", "all") else 0.0085
                assert config.prompt_parameters(mode, method, outputs) <= most * body


def test_parameter_formula_counts_what_is_there():
    for mode in MODES:
        for method in known():
            for outputs in OUTPUTS:
                numbers = sum(tensor.numel() for tensor in prompts_of(3, mode, method, outputs).values())
                assert numbers == 3 * SMALL.prompt_parameters(mode, method, outputs)
    full = NetworkConfig()
    # 16 tokens of every block's width and 16 scores per head, plus 2 x 16 output tokens of 32 (docs/methods.md#punet).
    widths = [64, 128, 256, 384, 256, 128, 64]
    assert full.prompt_parameters() == sum(2 * 16 * (w + w // 32) for w in widths) + 2 * 16 * 32
    assert full.prompt_parameters("full", "ept-format1") == sum(2 * (w // 32) for w in widths) + 2 * 16 * 32


def test_windows_are_local_and_partition_is_undone_by_merge():
    x = torch.arange(8 * 8 * 4.0).view(1, 8, 8, 4, 1)
    windows = partition(x, (4, 4, 4))
    assert torch.equal(windows[0, 0, :, 0], x[0, :4, :4, :4, 0].flatten())
    assert torch.equal(merge(windows, (4, 4, 4), (8, 8, 4)), x)


def influence(block: PromptedWindowAttention, size: tuple[int, int, int], source: tuple[int, int, int]) -> torch.Tensor:
    """Where the output changes when one voxel of the input changes."""
    x = torch.randn(1, *size, 16, generator=torch.Generator().manual_seed(3))
    changed = x.clone()
    changed[(0, *source)] *= -1.0
    return (block(x) - block(changed)).abs().amax(-1)[0] > 0


def test_a_voxel_reaches_its_own_window_only():
    reached = influence(attention(), (8, 8, 8), (1, 5, 2))
    assert reached[:4, 4:, :4].all()
    reached[:4, 4:, :4] = False
    assert not reached.any()


def test_the_shifted_window_does_not_wrap_around_the_border():
    reached = influence(attention(shifted=True), (8, 8, 8), (0, 3, 3))
    assert reached[:2, 2:6, 2:6].all()
    reached[:2, 2:6, 2:6] = False
    assert not reached.any()


@pytest.mark.parametrize("size", [(7, 5, 9), (3, 8, 6), (2, 2, 2), (1, 4, 11)])
@pytest.mark.parametrize("shifted", [False, True])
def test_padding_neither_moves_nor_feeds_the_content(size, shifted):
    block = attention(shifted)
    x = torch.randn(1, *size, 16, generator=torch.Generator().manual_seed(4))
    out = block(x)
    assert out.shape == x.shape and torch.isfinite(out).all()
    block.gamma1.zero_()
    block.gamma2.zero_()
    assert torch.equal(block(x), x)
    window, padded, shift = block._geometry(size)
    mask = window_mask(size, padded, window, shift)
    if padded != size:
        real = torch.zeros(padded, dtype=torch.bool)
        real[: size[0], : size[1], : size[2]] = True
        real = partition(torch.roll(real, [-s for s in shift], (0, 1, 2))[None, ..., None], window)[0, :, :, 0]
        assert torch.isinf(mask[real[:, :, None] & ~real[:, None, :]]).all()


def test_a_prompt_is_one_more_key_and_value_for_every_voxel(net):
    block = attention()
    x = torch.randn(1, 4, 4, 4, 16, generator=torch.Generator().manual_seed(5))
    tokens = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(6))
    scores = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(7))
    got = attended(block, block.norm1(x), {"encoder1.0.tokens": tokens, "encoder1.0.scores": scores})
    # The concatenated path: content and prompt tokens as one sequence, rows of the prompts thrown away.
    normed = block.norm1(x).view(64, 16)
    every = torch.cat([normed, block.norm1(tokens[0])])
    q, k, v = (part.view(-1, 2, 8).transpose(0, 1) for part in block.qkv(every).chunk(3, -1))
    logits = q[:, :64] @ k.transpose(1, 2) * (block.qkv.weight.shape[1] // block.heads) ** -0.5
    logits[:, :, :64] += block.relative_bias[relative_index((4, 4, 4), 4)].permute(2, 0, 1)
    logits[:, :, 64:] += scores[0][:, None]
    want = block.project((logits.softmax(-1) @ v).transpose(0, 1).reshape(64, 16))
    assert torch.allclose(got.reshape(64, 16), want, atol=1e-5)


def test_a_sink_only_attenuates_attention():
    block = attention()
    x = torch.randn(1, 4, 4, 4, 16, generator=torch.Generator().manual_seed(8))
    normed = block.norm1(x)
    strong = attended(block, normed, {"encoder1.0.sinks": torch.full((1, 2), 50.0)})
    assert torch.allclose(strong, block.project.bias.expand_as(strong), atol=1e-5)


def test_cached_encoder_maps_give_the_full_path(net, image):
    prompts = prompts_of(mode="decoder")
    assert not touches_encoder(prompts)
    maps = net.encode(image)
    features = net.decode(maps, prompts)
    cached = net.upsample(net.similarity(features, prompts), image.shape[2:])
    assert torch.equal(cached, net(image, prompts))
    full = prompts_of()
    assert torch.equal(net.encode(image, without_encoder(full))[-1], maps[-1])


@pytest.mark.parametrize("mode", MODES)
def test_injection_modes_hold_tokens_where_they_say(mode):
    names = {name.split(".")[0] for name in prompts_of(mode=mode) if not name.startswith("output")}
    expected = {
        "full": {"encoder1", "encoder2", "decoder1"},
        "encoder": {"encoder1", "encoder2"},
        "decoder": {"decoder1"},
        "start": {"encoder1"},
        "end": {"decoder1"},
    }
    assert names == expected[mode]


@pytest.mark.parametrize("stem", [(1, 2, 2), (2, 2, 2), (1, 1, 1)])
@pytest.mark.parametrize("size", [(16, 16, 16), (9, 31, 17), (1, 20, 20)])
def test_any_size_and_anisotropy(stem, size):
    config = NetworkConfig(channels=(8, 16, 32), head_channels=8, tokens=4, stem_stride=stem)
    net = PUNet(config).eval()
    with torch.no_grad():
        logits = net(torch.randn(2, 1, *size), prompts_of(3, config=config))
    assert logits.shape == (2, 4, *size) and torch.isfinite(logits).all()


def test_stacking_is_undone_and_selection_keeps_order():
    prompts = prompts_of(3)
    again = stack(unstack(prompts))
    assert all(torch.equal(again[name], prompts[name]) for name in prompts)
    swapped = select(prompts, [2, 0])
    assert torch.equal(swapped["output.foreground"][0], prompts["output.foreground"][2])


def test_gradients_reach_the_prompts_alone(net, image):
    prompts = {name: tensor.requires_grad_() for name, tensor in prompts_of().items()}
    net(image, prompts).square().mean().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in prompts.values())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("extents", [(2, 4, 4), (4, 2, 4), (4, 4, 4)])
def test_weight_gradients_in_mixed_precision_are_the_same_each_time(extents):
    torch.manual_seed(0)
    layer = ResidualConvolution(16)
    x = torch.randn(2, 16, *extents)
    found = []
    for _ in range(8):
        # What oneDNN's kernel reads by mistake is whatever was freed last.
        junk = [torch.full((16, 16, 3, 3, 3), float("nan")) for _ in range(4)]
        del junk
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        y.float().square().sum().backward()
        found.append(layer[2].weight.grad.clone())
    assert all(torch.equal(found[0], each) for each in found)


@pytest.mark.parametrize("depth", [1, 2, 5, 6])
@pytest.mark.parametrize("bias", [True, False])
def test_a_small_image_is_convolved_as_any_other(depth, bias):
    torch.manual_seed(0)
    layer = Convolution(8, 4, 3, padding=1, bias=bias)
    x = torch.randn(1, 8, depth, 5, 7, requires_grad=True)
    found = layer(x)
    found.square().sum().backward()
    gradients = [x.grad.clone(), layer.weight.grad.clone()]
    x.grad = layer.weight.grad = None
    expected = F.conv3d(x, layer.weight, layer.bias, padding=1)
    expected.square().sum().backward()
    assert torch.allclose(found, expected, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(gradients, (x.grad, layer.weight.grad)))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN has no faster way")
def test_no_small_image_is_convolved_the_slow_way():
    layer, x = Convolution(8, 8, 3, padding=1), torch.randn(1, 8, 6, 6, 6)

    def kernels(convolve):
        with profile() as seen:
            convolve(x).sum().backward()
        return {event.key for event in seen.key_averages()}

    if "aten::slow_conv3d" not in kernels(lambda x: F.conv3d(x, layer.weight, padding=1)):
        pytest.skip("this torch has no slow way")
    assert "aten::slow_conv3d" not in kernels(layer)


def test_a_body_can_be_trained_after_it_was_used(image):
    relative_index.cache_clear()
    window_mask.cache_clear()
    net = PUNet(SMALL)
    with torch.inference_mode():
        net(image, prompts_of())
    net(image, prompts_of()).sum().backward()
    assert net.stem.weight.grad is not None


def spoken(prompts):
    """With tokens in the further maps, where fresh prompts have zeros."""
    places = [name for each in SMALL.output_maps[1:] for name in (each.foreground, each.background)]
    generator = torch.Generator().manual_seed(3)
    return {**prompts, **{name: torch.randn(prompts[name].shape, generator=generator) for name in places}}


def test_output_tokens_of_every_map(net, image):
    prompts = spoken(prompts_of(outputs="all"))
    names = [each.name for each in SMALL.output_maps]
    assert names == ["output", "output.decoder1", "output.encoder0", "output.encoder1", "output.encoder2"]
    features = net.decode(net.encode(image, prompts), prompts)
    assert [each.shape[1] for each in features] == [8, 16, 8, 16, 32]
    logits = net.similarity(features, prompts)
    assert logits.shape == (1, 3, *features[0].shape[2:])
    for each in SMALL.output_maps:  # each map has its say, and a token is compared with its own map only
        changed = {**prompts, each.foreground: prompts[each.foreground].roll(1, 0)}
        assert not torch.allclose(net.similarity(features, changed), logits, atol=1e-3)
    extra = 2 * FURTHER_TOKENS * (16 + 8 + 16 + 32)
    assert SMALL.prompt_parameters(outputs="all") == SMALL.prompt_parameters() + extra


def test_further_maps_are_made_for_those_who_ask(net, image):
    maps, last, everywhere = net.encode(image), prompts_of(), prompts_of(outputs="all")
    assert (outputs_of(last), outputs_of(everywhere), outputs_of({})) == ("last", "all", "last")
    assert len(net.decode(maps)) == len(net.decode(maps, last)) == 1
    assert len(net.decode(maps, everywhere)) == len(net.decode(maps, outputs="all")) == 5


def test_a_class_without_tokens_in_further_maps_stays_as_it_was(net, image):
    prompts = spoken(prompts_of(outputs="all"))
    places = [name for each in SMALL.output_maps[1:] for name in (each.foreground, each.background)]
    for name in places:
        prompts[name][0] = 0  # the first class has none
        prompts[name].requires_grad_()
    maps = net.encode(image)
    alone = {name: tensor[:1] for name, tensor in prompts.items() if name not in places}
    silent = select(prompts, [0])
    found = [net.similarity(net.decode(maps, each), each) for each in (alone, silent)]
    assert torch.allclose(*found)
    net.similarity(net.decode(maps, prompts), prompts).square().sum().backward()
    for name in places:
        gradient = prompts[name].grad
        assert not gradient[0].any() and gradient[1].any() and torch.isfinite(gradient).all()
    assert all(not tensor.any() for name, tensor in prompts_of(outputs="all").items() if name in places)


def test_the_maps_agree_on_where_things_are(net):
    """A token of the coarsest map answers where its feature is, not half a cell beside it."""
    features = [torch.zeros(1, each.channels, *shape) for each, shape in zip(SMALL.output_maps, [(8,) * 3] * 5)]
    coarse = torch.zeros(1, 32, 2, 2, 2)
    coarse[:, 0] = -1
    coarse[0, 0, 1, 0, 1] = 1
    features[-1] = coarse
    prompts = prompts_of(1, outputs="all")
    for tensor in prompts.values():
        tensor.zero_()
    prompts["output.encoder2.foreground"][..., 0] = 1
    found = net.similarity(features, prompts)[0, 1]
    assert torch.nonzero(found > 0).min(0).values.tolist() == [4, 0, 4]
    assert torch.nonzero(found > 0).max(0).values.tolist() == [7, 3, 7]
