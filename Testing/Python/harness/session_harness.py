"""A desk to work at: a scene with a volume on it, a session, a real worker and a tiny backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import SimpleITK as sitk

from harness.mrml_fixtures import (
    Sent,
    Workers,
    add_volume,
    content,
    mask_of,
    new_session,
    nodes_of,
    paint,
    paint_strokes,
    run,
)
from harness.mrml_volumes import rotation
from harness.scene_files import new_scene
from harness.scene_nodes import segments_by_name
from harness.tiny_model import painted
from PromptSegLib.prompts.store import Prompts
from PromptSegLib.scene import node_references, prompt_nodes
from PromptSegLib.session.session import Session

BRIEF, LONG = 0.1, 600.0  # seconds of tuning; nobody waits for the end of a long one
TURNED = np.eye(4)
TURNED[:3, :3], TURNED[:3, 3] = rotation(-10, 5, 80), (30, -20, 11)
SHIFTED = np.array([[0.0, -1, 0, 12], [1, 0, 0, -40], [0, 0, 1, 7], [0, 0, 0, 1]])


class Desk:
    """A scene with a painted volume, and a session on it."""

    def __init__(self, models: Path, workers: Workers, **volume: Any):
        self.scene, self.models, self.workers = new_scene(), models, workers
        self._sessions: list[Session] = []
        self.volume, self.reference = add_volume(self.scene, **volume)
        self.session = self.new_session(self.scene)
        self.session.inputs.choose_volume(self.volume)
        self.segmentation = self.session.inputs.ensure_segmentation()
        self.strokes = sitk.GetArrayFromImage(painted(self.reference))

    def new_session(self, scene: Any, make_worker: Optional[Callable] = None, **choices: Any) -> Session:
        others = {"make_worker": make_worker or self.workers}
        self._sessions.append(
            new_session(scene, self.models / "tiny0.safetensors", others, **{"seconds": BRIEF, **choices})
        )
        return self._sessions[-1]

    def close(self) -> None:
        """An open session and its scene must not be left to the garbage collector: it crashes."""
        for session in self._sessions:
            session.close()

    @property
    def notice(self) -> str:
        return self.session.view().notice.text

    @property
    def level(self) -> str:
        return self.session.view().notice.level

    @property
    def last_job(self) -> Sent:
        return self.workers.jobs[-1]

    def state(self) -> tuple[dict, list]:
        """Everything a job must not change before Apply."""
        return content(self.segmentation), nodes_of(self.scene)

    def tune(self) -> None:
        self.session.tune()
        run(self.session)
        assert self.level == "info", self.notice
        assert self.session.view().preview == "Result"

    def apply(self) -> None:
        self.session.apply()
        run(self.session)
        assert self.level == "info", self.notice

    def tuned(self) -> Desk:
        self.tune()
        self.apply()
        return self

    def begin_long(self, until: Callable[[Session], bool] = lambda session: shows_tuned(session)) -> None:
        """Start a tuning that will not end by itself, and let it come to some point: it has shown tuned prompts."""
        self.session.parameters.seconds = LONG
        self.session.tune()
        run(self.session, until=until)
        self.session.parameters.seconds = BRIEF

    def mask(self, name: str) -> np.ndarray:
        return mask_of(self.segmentation, self.volume, name)

    def paint(self, name: str, mask: np.ndarray, mode: str = "add") -> None:
        paint(self.segmentation, self.volume, mask.astype(np.uint8), {name: 1}, mode)

    def id_of(self, name: str) -> str:
        return segments_by_name(self.segmentation)[name]

    def segment(self, name: str) -> Any:
        return self.segmentation.GetSegmentation().GetSegment(self.id_of(name))

    def own_key(self) -> str:
        return next(row.key for row in self.session.view().prompts if row.current)

    def own_prompts(self) -> Prompts:
        return prompt_nodes.prompts_of(prompt_nodes.linked(self.segmentation))

    def another_volume(self, name: str = "Other", seed: int = 5, paint_it: bool = True) -> Any:
        """A further volume, with painted segments of its own when wanted."""
        volume, reference = add_volume(self.scene, name, seed=seed)
        if paint_it:
            segmentation = node_references.new_segmentation(self.scene, volume, f"{name} strokes")
            node_references.remember(volume, segmentation)
            paint_strokes(segmentation, volume, reference)
        return volume


def reported(session: Session) -> bool:
    return session.view().share > 0


def shows_tuned(session: Session) -> bool:
    """Whether a preview of tuned prompts has come, not only the first look."""
    result = session.results.result
    return result is not None and result.prompts is not None


def group_of(prompts: Prompts, name: str) -> bytes:
    """All that a class's output depends on."""
    members = list(prompts.only([name]).classes)
    return b"".join(each.tensors[key].tobytes() for each in members for key in sorted(each.tensors))


# When something happens to a job that runs.
MOMENTS = {
    "at once": lambda session: True,
    "sent": lambda session: bool(session.view().stage) and session.view().stage != "preparing",
    "first report": reported,
    "preview": lambda session: session.view().preview != "",
    "tuning": lambda session: len(session.view().curve) > 3,
}


def rename(desk: Desk, old: str, new: str, segmentation=None) -> None:
    node = segmentation or desk.segmentation
    node.GetSegmentation().GetSegment(segments_by_name(node)[old]).SetName(new)
