"""How to tune."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Optional

from ..errors import PromptSegError
from ..network.config import MODES, OUTPUTS, PASSES, Mode, Outputs, Passes
from ..network.methods import registry

DEFAULT_SECONDS = 60.0
AUTO = "auto"


@dataclass(frozen=True)
class Settings:
    """How to tune. ``seconds`` (from the call to the end) or ``steps`` bounds it; steps are reproducible.

    :param mode: which blocks hold tokens; ``decoder`` lets the encoder be computed once.
    :param method: one of :mod:`..network.methods`, or ``auto``: that of the start; else :mod:`.choosing` says.
    :param outputs: output tokens for the ``last`` map alone, as published, or for ``all`` where a class needs them:
        what the last does not carry of a structure that is new to the body is often found in the others.
    :param passes: ``joint``: the classes share a pass, in which they compete, and its cost; ``each``: one pass for
        every class, against all others as background, as PUNet was published.
    :param training: see a new, changed crop in every step, as where annotations are complete; by default where all are.
        Methods without output tokens then choose grid and intensities by the examples.
    :param trust: how far a class that starts from prompts, given or lent by a shipped class, moves from them towards
        what was tuned. A few strokes of one patient teach that patient: between the two, prompts are better on it
        and on the next (weight-space ensembling, Wortsman et al., CVPR 2022).
    :param token_steps: full-batch steps on the output tokens alone, before the decoder is run again.
    :param crops: of all examples together at most, but one more than there are classes of each.
    """

    mode: str = Mode.DECODER
    method: str = AUTO
    outputs: str = Outputs.ALL
    passes: str = Passes.JOINT
    training: Optional[bool] = None
    seconds: Optional[float] = None
    steps: Optional[int] = None
    token_steps: int = 60
    token_rate: float = 0.01
    rate: float = 2e-3
    average: float = 0.95
    trust: float = 0.5
    seed: int = 0
    crops: int = 24

    def checked(self) -> Settings:
        """Fill in the default budget; raises :class:`PromptSegError` for values that make no sense."""
        if self.mode not in MODES:
            raise PromptSegError(
                "There is no mode {mode}; choose one of {modes}.", mode=repr(self.mode), modes=", ".join(MODES)
            )
        if self.method not in (AUTO, *registry.known()):
            raise PromptSegError(
                "There is no method {method}; choose one of {offered}.",
                method=repr(self.method),
                offered=", ".join([AUTO, *registry.offered()]),
            )
        if self.outputs not in OUTPUTS:
            raise PromptSegError(
                "There are no outputs {outputs}; choose one of {known}.",
                outputs=repr(self.outputs),
                known=", ".join(OUTPUTS),
            )
        if self.passes not in PASSES:
            raise PromptSegError(
                "There are no passes {passes}; choose one of {known}.",
                passes=repr(self.passes),
                known=", ".join(PASSES),
            )
        if self.seconds is not None and self.steps is not None:
            raise PromptSegError("Give a budget in seconds or in steps, not both.")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise PromptSegError(
                "A budget of {seconds} seconds makes no sense; give more than 0.", seconds=self.seconds
            )
        if self.steps is not None and self.steps < 0:
            raise PromptSegError("A budget of {steps} steps makes no sense; give 0 or more.", steps=self.steps)
        if not 0 <= self.seed < 2**63:
            raise PromptSegError("The seed {seed} makes no sense; give 0 or more, below 2^63.", seed=self.seed)
        if self.seconds is None and self.steps is None:
            return replace(self, seconds=DEFAULT_SECONDS)
        return self
