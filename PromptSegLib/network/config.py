"""What a PUNet looks like, in numbers; needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Iterable

from ..choice import Choice


class Mode(Choice):
    """Blocks that hold tokens."""

    FULL = "full"
    ENCODER = "encoder"
    DECODER = "decoder"
    START = "start"
    END = "end"


class Outputs(Choice):
    """Maps that output tokens are for."""

    LAST = "last"
    ALL = "all"


class Passes(Choice):
    """Whether classes share a pass through the network."""

    JOINT = "joint"
    EACH = "each"


MODES, OUTPUTS, PASSES = tuple(Mode), tuple(Outputs), tuple(Passes)
FURTHER_TOKENS = 4  # output tokens of a class, and of its background, in every map but the last
_MAX_LEVELS = 8
_MAX_SIZE = 4096


@dataclass(frozen=True)
class Block:
    """One prompt-able attention sub-block: where it sits and how wide it is."""

    name: str
    part: str
    level: int
    channels: int
    heads: int


@dataclass(frozen=True)
class OutputMap:
    """A feature map with output tokens: the prefix of their names, where it is, its width, and how many they are."""

    name: str
    part: str
    level: int
    channels: int
    tokens: int

    @property
    def foreground(self) -> str:
        return f"{self.name}.foreground"

    @property
    def background(self) -> str:
        return f"{self.name}.background"


@dataclass(frozen=True)
class NetworkConfig:
    """Widths and strides of a PUNet. Axis order of every triple is (z, y, x).

    Stem strides bring an anisotropic grid close to isotropic (a 3 x 2 x 2 mm input
    takes (1, 2, 2)); every later level halves all three axes.
    """

    channels: tuple[int, ...] = (32, 64, 128, 256, 384)
    stem_stride: tuple[int, int, int] = (1, 2, 2)
    window: int = 4
    head_channels: int = 32
    tokens: int = 16
    attention_from_level: int = 1
    convolutions_to_level: int = 1
    dynamic_rank: int = 8

    @classmethod
    def from_dict(cls, values: dict) -> NetworkConfig:
        """Build from a JSON object; unknown keys and numbers that make no network raise ``ValueError``."""
        if not isinstance(values, dict):
            raise ValueError("the network is not described by an object")
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown network settings: {', '.join(sorted(unknown))}")
        settings: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        config = cls(**settings)
        config._check()
        return config

    def _check(self) -> None:
        def within(value: object, low: int, high: int) -> bool:
            return type(value) is int and low <= value <= high

        if not (isinstance(self.channels, tuple) and 1 <= len(self.channels) <= _MAX_LEVELS):
            raise ValueError("the network's channels are not a list of one number per level")
        if not (isinstance(self.stem_stride, tuple) and len(self.stem_stride) == 3):
            raise ValueError("the network's stem stride is not a list of three numbers")
        sizes = (self.window, self.head_channels, self.tokens, self.dynamic_rank)
        if not (
            all(within(step, 1, 4) for step in self.stem_stride)
            and all(within(size, 1, _MAX_SIZE) for size in (*self.channels, *sizes))
            and all(within(level, 0, _MAX_LEVELS) for level in (self.attention_from_level, self.convolutions_to_level))
        ):
            raise ValueError("the network's numbers are out of range")

    def to_dict(self) -> dict:
        return asdict(self)

    @property
    def levels(self) -> int:
        return len(self.channels)

    @property
    def stride(self) -> tuple[int, int, int]:
        """Input voxels per voxel of the coarsest level, (z, y, x)."""
        z, y, x = (stem * 2 ** (self.levels - 1) for stem in self.stem_stride)
        return z, y, x

    @property
    def output_maps(self) -> tuple[OutputMap, ...]:
        """The maps that output tokens can be compared with: the last one, as published, then the others.

        What the decoder's last channels do not carry of a structure that the body was not trained on can still be
        found in the others (docs/benchmarks.md#new-structures-on-a-frozen-body). Finest first, the decoder's before the
        encoder's.
        """
        last = OutputMap("output", "decoder", 0, self.channels[0], self.tokens)
        places = [("decoder", level) for level in range(1, self.levels - 1)]
        places += [("encoder", level) for level in range(self.levels)]
        return (
            last,
            *(
                OutputMap(f"output.{part}{level}", part, level, self.channels[level], FURTHER_TOKENS)
                for part, level in places
            ),
        )

    def blocks(self, mode: str = "full") -> list[Block]:
        """The attention sub-blocks that hold prompts under an injection mode, in forward order.

        Modes: docs/methods.md#attention.
        """
        if mode not in MODES:
            raise ValueError(f"unknown injection mode {mode!r}; choose one of {', '.join(MODES)}")
        encoder = [("encoder", level) for level in range(self.attention_from_level, self.levels)]
        decoder = [("decoder", level) for level in range(self.levels - 2, self.attention_from_level - 1, -1)]
        chosen = {
            "full": encoder + decoder,
            "encoder": encoder,
            "decoder": decoder,
            "start": encoder[:1],
            "end": decoder[-1:],
        }[mode]
        return [
            Block(
                f"{part}{level}.{index}", part, level, self.channels[level], self.channels[level] // self.head_channels
            )
            for part, level in chosen
            for index in range(2)
        ]

    def prompt_shapes(
        self, mode: str = "full", method: str = "punet", outputs: str = "last"
    ) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of one class's prompts: what the method says, and output tokens.

        These are for the ``last`` map, as published, or for ``all`` of :attr:`output_maps`.
        """
        from .methods.registry import method as method_called  # methods know of networks, too

        if outputs not in OUTPUTS:
            raise ValueError(f"unknown outputs {outputs!r}; choose one of {', '.join(OUTPUTS)}")
        own = method_called(method)
        shapes = own.shapes(self, mode)
        if not own.output_tokens:
            return shapes
        for each in self.output_maps[: 1 if outputs == "last" else None]:
            shapes[each.foreground] = shapes[each.background] = (each.tokens, each.channels)
        return shapes

    def prompt_parameters(self, mode: str = "full", method: str = "punet", outputs: str = "last") -> int:
        """How many numbers one class's prompts hold."""
        total = 0
        for shape in self.prompt_shapes(mode, method, outputs).values():
            size = 1
            for extent in shape:
                size *= extent
            total += size
        return total


def outputs_of(names: Iterable[str]) -> str:
    """Which of ``OUTPUTS`` prompts have, by the names of their tensors."""
    return "all" if any(name.startswith("output.") and name.count(".") == 2 for name in names) else "last"
