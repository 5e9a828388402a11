"""The methods: found where they lie, nothing at first, never in each other's way; earlier prompts as they were."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import PromptSegLib as ps
from harness.network_fixtures import SMALL
from harness.tiny_model import CLASSES, LITTLE, example, phantom, tiny_backbone
from PromptSegLib.imaging.volume import Volume
from PromptSegLib.inference.class_margins import class_margins
from PromptSegLib.models.backbone import load_model
from PromptSegLib.network import methods
from PromptSegLib.network.attention import PromptedWindowAttention, relative_index
from PromptSegLib.network.body import body_shapes
from PromptSegLib.network.config import MODES, NetworkConfig
from PromptSegLib.network.methods import ept
from PromptSegLib.network.methods.registry import acting, known, method, offered, stored_as
from PromptSegLib.network.punet import PUNet, leaves_features
from PromptSegLib.network.tokens import new_prompts, select, touches_encoder

pytestmark = pytest.mark.usefixtures("brisk_growing")

EARLIER = Path(__file__).parent / "data" / "format1"
BRIEF = ps.Settings(steps=4, token_steps=5, seed=3)

pytest_plugins = ["harness.network_fixtures"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("tiny"), shipped=True)


def fresh(name: str, classes: int = 2, mode: str = "full", config: NetworkConfig = SMALL):
    return new_prompts(config, classes, mode, name, torch.Generator().manual_seed(2))


def tuned(name: str, classes: int = 2, mode: str = "full", config: NetworkConfig = SMALL):
    """Fresh prompts, each tensor of them moved."""
    generator, own, moved = torch.Generator().manual_seed(5), method(name), {}
    for key, tensor in fresh(name, classes, mode, config).items():
        tokens = own.output_tokens and key.startswith("output")
        size = (0.0 if tokens else own.size(key)) or float(tensor.square().mean().sqrt())
        moved[key] = tensor + 0.3 * min(size, 3.0) * torch.randn(tensor.shape, generator=generator)
    return moved


def switched_off(prompts: dict, name: str) -> dict:
    off = method(name).off
    tokens = method(name).output_tokens
    return {key: tensor if tokens and key.startswith("output") else off(key, tensor) for key, tensor in prompts.items()}


def logits_of(net: PUNet, image: torch.Tensor, prompts: dict) -> torch.Tensor:
    return net.logits(image, net.encode(image, prompts), prompts)


def decoded(net: PUNet, image: torch.Tensor, prompts=None) -> torch.Tensor:
    return net.decode(net.encode(image, prompts), prompts, "last")[0]


# The registry


def test_every_file_with_a_method_is_found():
    modules = [each.name for each in pkgutil.iter_modules(methods.__path__)]
    assert {"punet", "dvpt", "ept"} <= set(modules)
    found = [importlib.import_module(f"{methods.__name__}.{name}") for name in modules]
    assert {module.METHOD.name for module in found if hasattr(module, "METHOD")} >= set(offered())
    assert offered() == ("punet", "dvpt", "ept", "scale", "lowrank", "linear", "side", "combined")


def test_methods_can_be_told_apart():
    storable = [each for each in known().values() if each.stored[1]]
    assert len({each.stored for each in storable}) == len(storable) == len(known()) - 1
    assert len({each.kinds[0] for each in known().values() if each.kinds}) == len([*known()]) - 2
    for each in known().values():
        assert not each.stored[1] or (each.title and each.tip and stored_as(*each.stored) is each)
        names = each.shapes(SMALL, "full")
        parts = getattr(each, "parts", (each,))
        assert {name.rpartition(".")[2] for name in names} == {kind for part in parts for kind in part.kinds}
        assert {part.kinds for part in acting(names)} == {part.kinds for part in parts}
        assert all(name.startswith(("encoder", "decoder", "level", "norm", "output", "side")) for name in names)
    with pytest.raises(ValueError, match="unknown method 'other'; choose one of punet, dvpt, ept"):
        method("other")


# What all of them promise


STORED = [name for name, each in known().items() if each.stored[1]]


@pytest.mark.parametrize("name", STORED)
def test_prompts_switched_off_reproduce_the_frozen_body(net, image, name):
    """Its features where the method steers them; where it has the last word, nothing but zeros."""
    prompts, plain = tuned(name), decoded(net, image)
    assert not torch.allclose(logits_of(net, image, prompts), logits_of(net, image, fresh(name)), atol=1e-3)
    off = switched_off(prompts, name)
    assert torch.allclose(decoded(net, image, off), plain, atol=1e-6)
    own = method(name)
    if own.output_tokens:
        outputs = {key: tensor for key, tensor in prompts.items() if key.startswith("output")}
        assert torch.allclose(logits_of(net, image, off), logits_of(net, image, outputs), atol=1e-5)
    else:
        assert not logits_of(net, image, off).any()


@pytest.mark.parametrize("name", [*known()])
@pytest.mark.parametrize("mode", MODES)
def test_prompts_stay_out_of_the_encoder_where_the_mode_says_so(net, image, name, mode):
    prompts = tuned(name, mode=mode)
    inside = any(not key.startswith(("output", "side")) for key in prompts)
    inside &= (name, mode) != ("combined", "full")  # both would be too many numbers
    assert touches_encoder(prompts) == (inside and mode in ("full", "encoder", "start"))
    maps = net.encode(image)
    if mode in ("decoder", "end"):
        steered = net.encode(image, prompts)
        assert all(torch.equal(one, two) for one, two in zip(maps, steered))


@pytest.mark.parametrize("name", offered())
@pytest.mark.parametrize("passes", ["joint", "each"])
def test_a_new_class_leaves_the_old_ones_bit_identical(backbone, name, passes):
    shown, settings = example(shape=LITTLE), replace(BRIEF, method=name, passes=passes)
    first = ps.tune([shown], {"ball": 5}, backbone, settings=settings)
    second = ps.tune([shown], {"rod": 9}, backbone, start=first, settings=settings)
    array = Volume.of(shown.image, backbone.preprocessing).array
    reopened = ps.Prompts.from_bytes(second.to_bytes())
    assert reopened.method == name
    assert np.array_equal(class_margins(backbone, first, array)[0], class_margins(backbone, reopened, array)[0])


@pytest.mark.parametrize("name", offered())
def test_tuning_moves_every_tensor_of_the_method(backbone, name):
    start = ps.tune([example(shape=LITTLE)], CLASSES, backbone, settings=replace(BRIEF, method=name, steps=0))
    prompts = ps.tune(
        [example(shape=LITTLE)], CLASSES, backbone, start=start, settings=replace(BRIEF, method=name, trust=1.0)
    )
    own = method(name)
    for key, tensor in prompts.find("ball").tensors.items():
        if own.output_tokens and key.startswith("output"):
            continue
        before = start.find("ball").tensors[key]
        size = own.size(key) or float(np.sqrt((before**2).mean()))
        # Four steps of at most 2 % of the size that matters, and their moving average.
        assert np.abs(tensor - before).max() > 0.005 * size, key


@pytest.mark.parametrize("name", offered())
def test_the_default_network_keeps_to_the_published_share(name):
    config = NetworkConfig()
    with torch.device("meta"):
        body = sum(parameter.numel() for parameter in PUNet(config).parameters())
    for mode in MODES:
        numbers = config.prompt_parameters(mode, name, "all")
        assert numbers <= 0.0085 * body and 4 * numbers <= 256 * 1024


@pytest.mark.parametrize("name", offered())
def test_tiles_meet_as_they_do_without_prompts(net, name):
    """Two tiles that overlap say nearly the same where they do: what a method adds depends little on the tile."""
    volume = torch.randn(1, 1, 16, 48, 32, generator=torch.Generator().manual_seed(7))
    volume = torch.nn.functional.avg_pool3d(volume, 5, 1, 2) * 4

    def seam(prompts) -> float:
        one, two = decoded(net, volume[..., :32, :], prompts), decoded(net, volume[..., 16:, :], prompts)
        # The middle half of what both have seen.
        a, b = one[..., 10:14, :], two[..., 2:6, :]
        return float((a - b).square().mean() / a.var())

    assert seam(tuned(name)) < 2 * seam(None) + 1e-3


# Deep prompts as published


def test_columns_are_a_sink_for_every_query_position():
    """EPT: the published form, columns beside the logits that are dropped after the softmax, against one sink logit."""
    torch.manual_seed(0)
    block = PromptedWindowAttention("decoder1.0", 16, 2, 4, False).double().requires_grad_(False)
    columns = torch.randn(1, 64, 7, dtype=torch.float64)
    x = torch.randn(1, 4, 4, 4, 16, dtype=torch.float64)
    prompts = {"decoder1.0.columns": columns}
    normed = block.norm1(x)
    got = block._attend(normed, prompts, acting(prompts))

    q, k, v = (part.view(64, 2, 8).transpose(0, 1) for part in block.qkv(normed.view(64, 16)).chunk(3, -1))
    logits = q @ k.transpose(1, 2) * (block.qkv.weight.shape[1] // block.heads) ** -0.5
    logits += block.relative_bias[relative_index((4, 4, 4), 4)].permute(2, 0, 1)
    embedded = torch.cat([columns.expand(2, -1, -1), logits], -1).softmax(-1)[..., 7:]
    assert float(embedded.sum(-1).max()) < 0.98
    want = block.project((embedded @ v).transpose(0, 1).reshape(64, 16))
    # Logits of sinks are computed in single precision.
    assert torch.allclose(got.reshape(64, 16), want, atol=1e-6)
    exact = torch.cat([columns.logsumexp(-1, keepdim=True).expand(2, -1, -1), logits], -1).softmax(-1)[..., 1:]
    assert torch.allclose(exact, embedded, rtol=1e-12, atol=0)


def test_columns_differ_between_places_and_start_alike_for_any_number_of_classes():
    columns = torch.zeros(3, 64, 5)
    assert torch.allclose(ept.reduced(columns, (4, 4, 4), 4), torch.full((64,), math.log(5.0)))
    columns[:, 16 * 1 + 4 * 2 + 3] = 2.0  # at (z, y, x) = (1, 2, 3)
    sinks = ept.reduced(columns, (2, 4, 4), 4)
    assert sinks.shape == (32,) and int(sinks.argmax()) == 16 * 1 + 4 * 2 + 3
    assert float(sinks[0]) == pytest.approx(math.log(5.0))


def test_dynamic_prompts_begin_as_the_frozen_body_and_join_the_features(net, image):
    prompts, plain = fresh("dvpt"), decoded(net, image)
    assert torch.equal(decoded(net, image, prompts), plain)
    assert not any(name.endswith(("tokens", "scores")) for name in prompts)
    for name in prompts:
        if name.endswith("_gate"):
            prompts[name] = torch.full_like(prompts[name], 0.5)
    assert not torch.allclose(decoded(net, image, prompts), plain, atol=1e-2)
    # One module for both blocks of a level.
    assert {name.split(".")[0] for name in fresh("dvpt", mode="decoder") if "dynamic" in name} == {"decoder1"}
    assert sum(name.startswith("decoder1.") for name in prompts) == 4


def test_dynamic_prompts_depend_on_the_whole_patch(net):
    """A voxel far outside a window's reach changes what is added, as queries look at all of the map."""
    block = PromptedWindowAttention("decoder1.0", 16, 2, 4, False).requires_grad_(False)
    prompts = {key: value for key, value in tuned("dvpt").items() if key.startswith("decoder1")}
    x = torch.randn(1, 8, 8, 8, 16, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[0, 7, 7, 7] *= -3.0
    own = method("dvpt")
    one, two = own.beside_mlp(block, x, prompts), own.beside_mlp(block, changed, prompts)
    assert one.shape == x.shape and not torch.equal(one[0, 0, 0, 0], two[0, 0, 0, 0])
    # Nothing depends on where a voxel lies: rolled features give rolled additions.
    rolled = own.beside_mlp(block, x.roll((1, 2, 3), (1, 2, 3)), prompts)
    assert torch.allclose(rolled, one.roll((1, 2, 3), (1, 2, 3)), atol=1e-5)


def test_additions_of_classes_of_one_pass_add_up(net):
    block = PromptedWindowAttention("decoder1.0", 16, 2, 4, False).requires_grad_(False)
    prompts = {key: value for key, value in tuned("dvpt").items() if key.startswith("decoder1")}
    x = torch.randn(2, 4, 4, 4, 16, generator=torch.Generator().manual_seed(1))
    own = method("dvpt")
    both = own.beside_mlp(block, x, prompts)
    alone = [own.beside_mlp(block, x, select(prompts, [index])) for index in range(2)]
    assert torch.allclose(both, alone[0] + alone[1], atol=1e-5)


# One pass for every class


def test_a_pass_for_every_class_makes_groups_of_one(backbone):
    settings = replace(BRIEF, passes="each")
    prompts = ps.tune([example(shape=LITTLE)], CLASSES, backbone, settings=settings)
    assert [len(group) for group in prompts.groups()] == [1, 1]
    assert [record["passes"] for record in prompts.tuning.values()] == ["each", "each"]
    assert min(record["classes"][name]["agreement"] for name, record in zip(CLASSES, prompts.tuning.values())) > 0
    # One of them tuned again: the other stays, and nothing retired is left behind.
    again = ps.tune([example(shape=LITTLE)], {"rod": 9}, backbone, start=prompts, settings=settings)
    assert len(again.classes) == 2
    array = Volume.of(example(shape=LITTLE).image, backbone.preprocessing).array
    first, second = class_margins(backbone, prompts, array), class_margins(backbone, again, array)
    assert np.array_equal(first[prompts.names.index("ball")], second[again.names.index("ball")])
    with pytest.raises(ps.PromptSegError, match="no passes 'some'; choose one of joint, each"):
        ps.tune([example(shape=LITTLE)], CLASSES, backbone, settings=ps.Settings(passes="some"))


# Prompts of earlier versions


@pytest.mark.parametrize("file", ["punet-full", "dvpt-full", "ept-full", "dvpt-decoder"])
def test_prompts_of_an_earlier_format_segment_as_they_did(file):
    """Made by the code before methods were objects, with gates at .7 and sinks well above their start."""
    backbone, wanted = load_model(str(EARLIER / "body.safetensors"), "cpu"), np.load(EARLIER / "expected.npz")
    prompts = ps.Prompts.load(EARLIER / f"{file}.safetensors")
    shown, _ = phantom(shape=(14, 34, 40))
    found = class_margins(backbone, prompts, Volume.of(shown, backbone.preprocessing).array)
    # Made in bfloat16 with logits up to 30, by kernels that rounded in other places.
    apart = np.abs(found[:, ::3, ::4, ::4].astype(float) - wanted[file])
    assert apart.max() < 0.4 and apart.mean() < 0.08
    labels = sitk.GetArrayFromImage(ps.segment(prompts, shown, backbone).labels)
    assert (labels != wanted[f"{file}-labels"]).mean() < 1e-2  # .006 where there is no bfloat16
    again = ps.Prompts.from_bytes(prompts.to_bytes())  # an older version reads it, too: the format stays the earliest
    assert b'"format": 1' in prompts.to_bytes()[:4000] or b'\\"format\\": 1' in prompts.to_bytes()[:4000]
    for one, other in zip(prompts.classes, again.classes):
        assert all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    assert again.method == prompts.method


@pytest.mark.parametrize("file", ["dvpt-decoder", "ept-full"])
def test_prompts_of_an_earlier_format_are_tuned_on_or_say_why_not(file):
    backbone = load_model(str(EARLIER / "body.safetensors"), "cpu")
    prompts = ps.Prompts.load(EARLIER / f"{file}.safetensors")
    settings = replace(BRIEF, mode=prompts.mode, method=prompts.method)
    again = ps.tune([example()], {"rod": 9}, backbone, start=prompts, settings=settings)
    assert again.method == prompts.method
    with pytest.raises(ps.PromptSegError, match="tune with the same, or start anew"):
        ps.tune(
            [example()], {"rod": 9}, backbone, start=prompts, settings=replace(settings, method=file.partition("-")[0])
        )


def test_a_format_says_which_method_is_meant():
    content = (EARLIER / "dvpt-decoder.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    inner = json.loads(header["__metadata__"]["promptseg"])
    assert (inner["format"], inner["method"]) == (1, "dvpt")
    assert ps.Prompts.from_bytes(content).method == "dvpt-format1"
    header["__metadata__"]["promptseg"] = json.dumps({**inner, "format": 2})
    text = json.dumps(header).encode()
    with pytest.raises(ps.PromptSegError, match="damaged"):  # its tensors are not those of DVPT as published
        ps.Prompts.from_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


# Methods that change the body's weights, and those with the last word


def test_the_body_is_listed_as_it_is(net):
    for config in (
        SMALL,
        NetworkConfig(),
        NetworkConfig(channels=(8, 16, 16), head_channels=8, convolutions_to_level=0),
    ):
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in PUNet(config).named_parameters()}
        assert body_shapes(config) == wanted


@pytest.mark.parametrize("name", ["scale", "lowrank", "combined"])
def test_changed_weights_are_the_bodys_own_with_the_change_merged(net, image, name):
    """As a body with other weights would answer; the body itself keeps its own."""
    prompts = tuned(name)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    got = decoded(net, image, prompts)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    merged, changed = PUNet(SMALL).eval().requires_grad_(False), {}
    for own in acting(prompts):
        changed.update(own.body_weights(net, prompts, [*before]))
    assert changed
    merged.load_state_dict({**before, **changed})
    assert torch.allclose(decoded(merged, image), got, atol=1e-5)


def test_a_delta_of_a_convolution_is_a_convolution_of_few_channels(net):
    prompts = select(tuned("lowrank", mode="decoder"), [0])
    name = "decoder.0.convolution.2.weight"
    weight = method("lowrank").body_weights(net, prompts, [name])[name] - net.get_parameter(name)
    assert weight.shape == (16, 16, 3, 3, 3)
    assert int(torch.linalg.matrix_rank(weight.flatten(1), rtol=1e-4)) == 2
    x = torch.randn(1, 16, 5, 5, 5, generator=torch.Generator().manual_seed(0))
    low = torch.nn.functional.conv3d(x, prompts[f"{name}.low_down"][0].view(2, 16, 3, 3, 3), padding=1)
    want = torch.nn.functional.conv3d(low, prompts[f"{name}.low_up"][0][:, :, None, None, None])
    assert torch.allclose(torch.nn.functional.conv3d(x, weight, padding=1), want, atol=1e-4)


def test_the_linear_fit_finds_what_is_linear():
    generator = torch.Generator().manual_seed(0)
    channels = [each.channels for each in SMALL.output_maps]
    raw = torch.randn(600, sum(channels), generator=generator)
    labels = torch.where(raw[:, 3] > 0.5, 1, torch.where(raw[:, 20] > 0.8, 2, 0))
    labels[:40] = -2  # anything but the first class: has no say here
    rows = torch.cat([torch.nn.functional.normalize(part, dim=1) for part in raw.split(channels, 1)], 1)
    prompts = fresh("linear")
    assert method("linear").fit(SMALL, prompts, rows, labels)
    net = PUNet(SMALL).eval()
    with torch.no_grad():
        logits = net.similarity(rows.t()[None, :, :, None, None].split(channels, 1), prompts)[0, :, :, 0, 0].t()
    assert logits.shape == (600, 3) and not logits[:, 0].any()
    assert (logits.argmax(1) == labels)[40:].float().mean() > 0.85


@pytest.mark.parametrize("name", ["linear", "side", "combined"])
def test_a_head_begins_as_the_linear_fit(backbone, name):
    prompts = ps.tune([example(shape=LITTLE)], CLASSES, backbone, settings=replace(BRIEF, method=name, steps=0))
    record = prompts.tuning["0"]["classes"]
    assert {each["start"] for each in record.values()} == {"a linear fit of the annotated voxels"}
    assert min(each["agreement"] for each in record.values()) > 0.7
    assert not any(key.endswith((".foreground", ".background")) for key in prompts.classes[0].tensors)


@pytest.mark.parametrize("name", ["scale", "lowrank", "linear", "side", "combined"])
def test_classes_of_one_pass_do_not_depend_on_their_order(net, image, name):
    prompts = tuned(name, 3)
    one, two = logits_of(net, image, prompts), logits_of(net, image, select(prompts, [2, 0, 1]))
    assert torch.allclose(one[:, [0, 3, 1, 2]], two, atol=1e-4)


def test_the_side_network_sees_the_image_and_the_maps(net, image):
    prompts = {key: tensor for key, tensor in tuned("side").items() if key.startswith("side")}
    features = net.decode(net.encode(image), prompts)
    own = method("side network")
    found = own.image_logits(net, image, features, prompts)
    assert found.shape == (1, 2, *image.shape[2:])
    assert not torch.allclose(own.image_logits(net, image.flip(2), features, prompts), found, atol=1e-3)
    for index in range(len(features)):
        others = [each.roll(1, 1) if place == index else each for place, each in enumerate(features)]
        assert not torch.allclose(own.image_logits(net, image, others, prompts), found, atol=1e-4)
    # Any extents, as all of the body.
    odd = torch.randn(1, 1, 9, 21, 17, generator=torch.Generator().manual_seed(2))
    assert own.image_logits(net, odd, net.decode(net.encode(odd), prompts), prompts).shape == (1, 2, 9, 21, 17)


def test_what_is_beside_the_body_leaves_its_features_and_what_they_give_is_the_same(net, image):
    left = {name for name in offered() if leaves_features(new_prompts(SMALL, 2, "full", name))}
    assert left == {"linear", "side"}
    for name in left:
        prompts = new_prompts(SMALL, 2, "full", name, torch.Generator().manual_seed(0))
        maps = net.encode(image)
        features = net.decode(net.encode(image, prompts), prompts)
        for one, two in zip(features, net.decode(maps, None, "all")):
            assert torch.equal(one, two)
        assert torch.equal(net.logits_from(image, features, prompts), net(image, prompts))
