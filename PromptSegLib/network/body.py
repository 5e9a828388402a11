"""The parameters of a body, by name and shape; needs no torch."""

from __future__ import annotations

from .config import NetworkConfig

Shapes = dict[str, tuple[int, ...]]


def body_shapes(config: NetworkConfig) -> Shapes:
    """Name -> shape of every parameter of ``PUNet(config)``."""
    shapes: Shapes = {"scale": (), **_norm("norm", config.channels[0])}
    kernel = tuple(4 if stride == 2 else 3 for stride in config.stem_stride)
    shapes.update({"stem.weight": (config.channels[0], 1, *kernel), "stem.bias": (config.channels[0],)})
    for level in range(config.levels):
        shapes.update(_encoder(f"encoder.{level}", level, config))
    for place, level in enumerate(range(config.levels - 2, -1, -1)):
        shapes.update(_decoder(f"decoder.{place}", level, config))
    return shapes


def steerable(config: NetworkConfig, mode: str) -> Shapes:
    """Those of the levels that hold prompts under an injection mode, and of the norm of the last map.

    In the encoder, levels with attention; in the decoder, all.
    """
    parts = {block.part for block in config.blocks(mode)}
    levels = {f"encoder.{block.level}." for block in config.blocks(mode) if block.part == "encoder"}
    starts = tuple(levels) + (("decoder.", "norm.") if "decoder" in parts else ())
    if mode == "end":
        starts = (
            f"decoder.{config.levels - 2}.",
            f"decoder.{config.levels - 2 - config.attention_from_level}.",
            "norm.",
        )
    return {name: shape for name, shape in body_shapes(config).items() if name.startswith(starts)}


def _encoder(name: str, level: int, config: NetworkConfig) -> Shapes:
    channels, place = config.channels[level], 0
    shapes: Shapes = {}
    if level:
        narrow = config.channels[level - 1]
        shapes.update(_norm(f"{name}.convolutions.0", narrow))
        shapes.update(_convolution(f"{name}.convolutions.2", narrow, channels, 2))
        place = 3
    if level <= config.convolutions_to_level:
        shapes.update(_residual(f"{name}.convolutions.{place}", channels))
    return {**shapes, **_attention(name, level, config)}


def _decoder(name: str, level: int, config: NetworkConfig) -> Shapes:
    channels = config.channels[level]
    return {
        **_convolution(f"{name}.narrow", config.channels[level + 1], channels, 1),
        **_residual(f"{name}.convolution", channels),
        **_attention(name, level, config),
    }


def _attention(name: str, level: int, config: NetworkConfig) -> Shapes:
    if level < config.attention_from_level:
        return {}
    channels = config.channels[level]
    shapes: Shapes = {}
    positions = (2 * config.window - 1) ** 3
    for index in range(2):
        block = f"{name}.attention.blocks.{index}"
        shapes.update({f"{block}.gamma1": (channels,), f"{block}.gamma2": (channels,)})
        shapes[f"{block}.relative_bias"] = (positions, channels // config.head_channels)
        shapes.update({**_norm(f"{block}.norm1", channels), **_norm(f"{block}.norm2", channels)})
        shapes[f"{block}.qkv.weight"] = (3 * channels, channels)
        for layer in ("project", "mlp.0", "mlp.2"):
            shapes[f"{block}.{layer}.weight"] = (channels, channels)
            shapes[f"{block}.{layer}.bias"] = (channels,)
    return shapes


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _convolution(name: str, narrow: int, channels: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (channels, narrow, kernel, kernel, kernel), f"{name}.bias": (channels,)}


def _residual(name: str, channels: int) -> Shapes:
    return {**_norm(f"{name}.0", channels), f"{name}.2.weight": (channels, channels, 3, 3, 3)}
