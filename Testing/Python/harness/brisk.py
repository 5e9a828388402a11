"""Growing that is not thorough, and a worker of that kind: for tests of what is done with answers, whatever they are.

As a script it is that worker: a real process that speaks as the real one does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Optional

VOXELS = 6_000  # of a grid to grow on; of the phantom's 38,400
FEWER = 2_500  # in a worker: sessions grow again and again, and slices that become one are nothing to them
PLAINLY = "--plainly"
# MONAI loads these where they are installed, which takes a second or two; an application has none of them.
NEEDLESS = ("ignite", "matplotlib", "nibabel", "skimage", "sklearn", "tensorboard", "torchvision")


def spare(change: Callable[[Any, str, Any], None] = setattr, voxels: int = VOXELS) -> None:
    """Grow on few voxels, let no painted slices predict each other, and hold back one of them from a tuning, fitted to
    the others in few steps: the same code, a sixth of the time."""
    from PromptSegLib.growing import grow, guard
    from PromptSegLib.tuning import held_out

    for name in ("COARSE", "QUICK", "FINE", "GUARD", "_GUARDED"):
        change(grow, name, voxels)
    change(guard, "FOLDS", 0)
    change(held_out, "FOLDS", 1)
    change(held_out, "_STEPS", 3)


def answer_plainly() -> None:
    """The growing network reaches beyond the edges, so that every class is grown plainly, and that is said: sessions
    hand on what they get, whatever it is."""
    import torch

    from PromptSegLib.growing.inputs import REGION
    from PromptSegLib.inference import regions

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)  # what is asked is where it is

        def forward(self, questions: torch.Tensor, steps: Any) -> torch.Tensor:
            return 5 * torch.nn.functional.max_pool3d(questions[:, REGION : REGION + 1], (3, 5, 5), 1, (1, 2, 2))

    regions.growing_network = Plain  # type: ignore[assignment]


def no_compiler() -> ModuleType:
    """What torch's optimizers ask of its compiler, which nothing here uses and which takes two seconds to load."""
    module = ModuleType("torch._dynamo")
    module.disable = lambda function, *_args, **_options: function  # type: ignore[attr-defined]
    module.graph_break = lambda *_args: None  # type: ignore[attr-defined]
    return module


def command(folder: Optional[Path] = None) -> list[str]:
    """Such a worker, with the folder that arrays go through."""
    return [sys.executable, __file__, "worker", *(["--folder", str(folder)] if folder else [])]


def plain_command(folder: Optional[Path] = None) -> list[str]:
    """Such a worker that grows plainly."""
    return [*command(folder)[:2], PLAINLY, *command(folder)[2:]]


def serve() -> None:
    """Be such a worker. It neither waits for a window to be drawn nor steps back for one."""
    sys.modules.update(dict.fromkeys(NEEDLESS))
    sys.modules["torch._dynamo"] = no_compiler()
    from PromptSegLib.cli.main import main
    from PromptSegLib.worker import serving

    begun = serving._import_torch
    plainly = PLAINLY in sys.argv
    if plainly:
        sys.argv.remove(PLAINLY)

    def import_torch() -> None:
        begun()
        spare(voxels=FEWER)
        if plainly:
            answer_plainly()

    serving._BREATH, serving._NICE, serving._import_torch = 0.0, 0, import_torch
    sys.exit(main())


if __name__ == "__main__":
    serve()
