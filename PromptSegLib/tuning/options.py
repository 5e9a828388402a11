"""What a tuning is given besides examples, and how to tune."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable, Mapping, Optional, Sequence

from ..annotation.classes import ClassInfo

if TYPE_CHECKING:
    from ..models.feature_cache import FeatureCache
    from ..prompts.store import Prompts


@dataclass(frozen=True)
class TuningOptions:
    """What a caller of :func:`~.pipeline.tune` may want beyond prompts; how to tune is :class:`~.settings.Settings`.

    :param others: values of further classes in the annotations, which are not tuned now: what is painted of them is
        known not to be the classes that are, and stays what prompts of them carry.
    :param keep_strokes: let the prompts carry sparse annotations, so that the same images are grown from the same
        strokes when they are segmented; if not, those of the prompts to go on from are left out as well.
    :param appearance: name of a class -> its color and terminology, where the user has chosen them.
    :param device: where a model that is given by name is loaded.
    :param on_preview: called with prompts worth a look: after the warm start, after the output tokens, and then
        whenever three times as long as its last call took has passed. Its time counts towards the budget.
    :param looked: seconds of a first look that the caller has shown already, see :class:`~.optimization.Previews`.
    :param feature_cache: what is kept from one call to the next on the same images.
    """

    others: Sequence[int] = ()
    keep_strokes: bool = True
    appearance: Mapping[str, ClassInfo] = field(default_factory=dict)
    device: str = "auto"
    on_preview: Optional[Callable[[Prompts], None]] = None
    looked: Optional[float] = None
    feature_cache: Optional[FeatureCache] = None
