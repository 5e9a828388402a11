"""What to do when memory runs out: the same job again, in smaller and smaller steps, and at last on the CPU."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional, Sequence, TypeVar

from ..annotation.example import Example
from ..errors import is_out_of_memory
from ..progress import ProgressHandle

if TYPE_CHECKING:
    from ..prompts.store import Prompts
    from ..tuning.options import TuningOptions
    from ..tuning.settings import Settings

Result = TypeVar("Result")

_SMALL_SLAB = 64 * 2**20  # bytes


@dataclass(frozen=True)
class Thrift:
    """How sparing an attempt at a job is.

    :param words: how it is computed, for a sentence.
    :param caches: keep what may serve the next job.
    :param parts: into how many a tile is cut along z, y, x.
    :param crops: how many crops a tuning looks at, at most; None for as many as usual.
    :param at_once: how many classes are tuned together; None for all.
    :param coarse: grow strokes on every second voxel.
    :param cpu: compute on the CPU, whatever was asked for.
    """

    words: str = ""
    caches: bool = True
    parts: tuple[int, int, int] = (1, 1, 1)
    crops: Optional[int] = None
    at_once: Optional[int] = None
    coarse: bool = False
    cpu: bool = False

    @property
    def note(self) -> str:
        """One sentence for the user; "" for the first attempt."""
        if not self.words:
            return ""
        differs = ", so borders may differ slightly" if self.parts != (1, 1, 1) else ""
        where = " on the CPU" if self.cpu else ""
        return f"Memory ran short: this was computed{where} {self.words}{differs}."

    def backbone(self, backbone: Any) -> Any:
        """The backbone, applied to tiles and slabs as small as that."""
        if self.caches:
            return backbone
        stride = backbone.config.stride
        tile = tuple(smaller(size, part, step) for size, part, step in zip(backbone.tile, self.parts, stride))
        return replace(backbone, tile=tile, slab_bytes=min(backbone.slab_bytes, _SMALL_SLAB))

    def parts_of(self, classes: Mapping[str, int]) -> list[dict[str, int]]:
        """Classes (name -> value) in the groups that are tuned together."""
        size, items = self.at_once or max(len(classes), 1), list(classes.items())
        return [dict(items[first : first + size]) for first in range(0, len(items), size)]

    def tune(
        self,
        examples: Sequence[Example],
        classes: Mapping[str, int],
        backbone: Any,
        *,
        start: Optional[Prompts],
        settings: Settings,
        options: TuningOptions,
        job: ProgressHandle,
    ) -> Prompts:
        """:func:`~PromptSegLib.tuning.pipeline.tune`, with as many crops and classes at once as memory should hold."""
        from ..tuning.parts import tune_in_parts
        from ..tuning.pipeline import tune

        if self.crops is not None:
            settings = replace(settings, crops=min(settings.crops, self.crops))
        parts = self.parts_of(classes)
        if len(parts) > 1:
            return tune_in_parts(examples, parts, backbone, start=start, settings=settings, options=options, job=job)
        return tune(examples, classes, backbone, start=start, settings=settings, options=options, job=job)


STEPS = (
    Thrift(),
    Thrift("with nothing kept for the next job", caches=False),
    Thrift("in smaller tiles", caches=False, parts=(1, 2, 2), crops=16),
    Thrift(
        "in the smallest tiles, few classes at once", caches=False, parts=(2, 2, 2), crops=8, at_once=2, coarse=True
    ),
)


def smaller(size: int, part: int, step: int) -> int:
    """An extent cut into parts, in whole voxels of the network's coarsest level (``step``) and two of them at least."""
    return min(size, max(-(-size // (part * step)), 2) * step) if part > 1 else size


def sparingly(
    attempt: Callable[[Thrift], Result],
    job: ProgressHandle,
    on_gpu: Callable[[], bool],
    release: Callable[[], None] = lambda: None,
) -> tuple[Result, Thrift]:
    """The first attempt that memory is enough for, and how sparing it was.

    :param on_gpu: whether attempts are made on a GPU; the CPU is then tried when nothing else has helped.
    :param release: lets go of what was kept from job to job.
    :raises: what the last attempt raises, or whatever else goes wrong in any.
    """
    steps = list(STEPS)
    for number, thrift in enumerate(steps):
        if number:
            release()
            _collect()
            job.report(f"memory ran short: again {thrift.words}{' on the CPU' if thrift.cpu else ''}", 0.0)
        try:
            return attempt(thrift), thrift
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if number == len(STEPS) - 1 and on_gpu():  # another memory, so from the larger steps on
                steps += [replace(each, cpu=True) for each in STEPS[1:]]
            if number == len(steps) - 1:
                raise
            print(f"Memory ran out ({error}).", file=sys.stderr, flush=True)
        # Outside of the clause: until its end, the exception holds the frames, and these hold the tensors.
    raise AssertionError("there is always a last attempt")


def _collect() -> None:
    """Free what nobody refers to, on the GPU as well."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_available():
        torch.cuda.empty_cache()
