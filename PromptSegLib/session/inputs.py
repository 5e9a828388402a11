"""What is worked on: the user's choices, volumes and segmentations; and what a job needs of them.

That is taken off the nodes at a click, at once and on the main thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from ..annotation.classes import ClassInfo, check_names, is_name, matching_name
from ..annotation.partial_labels import PartialLabels, Unpainted, compose
from ..errors import PromptSegError, Sentence
from ..prompts.store import Prompts
from ..scene import node_references, scene_nodes, segment_snapshot
from ..scene.roles import Role
from ..scene.segment_list import add_background
from ..scene.segmentations import Segment, segments
from ..scene.volumes import modality_of_volume, voxels_of_volume
from ..worker.client import Sent
from ..worker.packing import grid_of, grid_values
from .actions import Actions
from .applied import AppliedResult, current_tag, next_number, numbers
from .prompts import called_as_now, sha256_of_model

AUTO = "auto"  # the method that fits what is annotated
LEARNING_TAKES = 2.0  # times as long as a tuning on strokes, which somebody waits for


@dataclass
class Parameters:
    """What the user chose in the panel; the module's parameter node has the same names, types and defaults.

    Node fields hold MRML nodes or None.

    :param model: name in the catalogue; "" is its first.
    :param host: for the device ``ssh``, as one writes it for ssh.
    :param seconds: budget of the first tuning; a retuning takes a third.
    :param threads: of the worker on this machine; 0 is one per core.
    :param examples: further volumes, whose own segmentations teach, too.
    :param smoothing: mm, standard deviation; 0 is off.
    :param live: grow what is painted after each stroke.
    """

    volume: Optional[Any] = None
    segmentation: Optional[Any] = None
    model: str = ""
    device: str = "auto"
    host: str = ""
    unpainted: str = "unknown"
    method: str = "auto"
    mode: str = "decoder"
    seconds: float = 30.0
    threads: int = 0
    overlap: str = "keep"
    largestComponent: bool = False
    fillHoles: bool = False
    smoothing: float = 0.0
    opacity: float = 0.5
    show3D: bool = False
    live: bool = True
    examples: list = field(default_factory=list)


class Inputs:
    """Chosen by the user, kept in the parameters; None stands for a node that is not chosen or has left the scene.

    :param leave: called before another volume (True) or segmentation (False) is turned to; ``arrive`` afterwards.
    """

    def __init__(
        self, scene: Any, parameters: Any, actions: Actions, leave: Callable[[bool], None], arrive: Callable[[], None]
    ):
        self._scene, self._parameters, self._actions = scene, parameters, actions
        self._leave, self._arrive = leave, arrive

    @property
    def volume(self) -> Any:
        volume = self._parameters.volume
        return volume if scene_nodes.alive(self._scene, volume) else None

    @property
    def segmentation(self) -> Any:
        segmentation = self._parameters.segmentation
        return segmentation if scene_nodes.alive(self._scene, segmentation) else None

    @property
    def examples(self) -> list[tuple[Any, Any]]:
        """Further volumes that teach, with their segmentations."""
        pairs = [
            (volume, node_references.remembered(volume)) for volume in self._parameters.examples if volume is not None
        ]
        return [(one, other) for one, other in pairs if other is not None and one is not self.volume]

    def choose_volume(self, volume: Any) -> None:
        """Another volume: its own segmentation comes with it."""
        with self._actions.doing():
            self._leave(True)
            before = self.volume
            self._parameters.volume = volume
            if volume is not None:
                own = node_references.remembered(volume)
                # What belongs to the volume before is not for this one.
                foreign = before is not None and node_references.remembered(before) is self.segmentation
                if own is not None or (foreign and before is not volume):
                    self._parameters.segmentation = own
            self._arrive()

    def choose_segmentation(self, segmentation: Any) -> None:
        """Another segmentation, remembered for the volume."""
        with self._actions.doing():
            self._leave(False)
            self._parameters.segmentation = segmentation
            if self.volume is not None and segmentation is not None:
                node_references.remember(self.volume, segmentation)
            self._arrive()

    def ensure_segmentation(self) -> Any:
        """The segmentation to paint in; a new one on the volume where there is none."""
        with self._actions.doing():
            if self.segmentation is None and self.volume is not None:
                made = node_references.new_segmentation(
                    self._scene, self.volume, f"{self.volume.GetName()} segmentation"
                )
                add_background(made)
                self.choose_segmentation(made)
        return self.segmentation

    def add_example(self, volume: Any) -> None:
        """Let another volume with a segmentation of its own (same segment names) teach, too."""
        with self._actions.doing():
            if volume is None or node_references.remembered(volume) is None:
                raise PromptSegError("That volume has no segmentation of its own yet; choose it above and paint first.")
            if volume is self.volume:
                raise PromptSegError("The current volume is an example already; choose another one.")
            others = [each for each in self._parameters.examples if each is not volume]
            self._parameters.examples = [*others, volume]

    def remove_example(self, volume: Any) -> None:
        """Let a volume no longer teach; nothing in the scene changes."""
        with self._actions.doing():
            self._parameters.examples = [each for each in self._parameters.examples if each is not volume]


@dataclass(frozen=True)
class Part:
    """One volume with what is painted on it, taken at the click.

    :param classes: segment ID -> number of the class in this segmentation.
    :param names: number -> name of the class.
    """

    name: str
    image: Sent
    painted: segment_snapshot.SegmentSnapshot
    classes: dict[str, int]
    names: dict[int, str]
    background: list[str]
    result: Optional[AppliedResult]

    def taught(self, known: PartialLabels) -> list[str]:
        """Names of the classes that are known somewhere."""
        return [self.names[number] for number in known.painted]

    def any(self, segment_ids) -> bool:
        """Whether anything is painted in some segments."""
        return any(not self.painted.empty(each) for each in segment_ids)

    def compose(self, unpainted: str) -> PartialLabels:
        applied, strokes = (self.result.applied, self.result.strokes) if self.result else (None, None)
        beneath = self.result.beneath if self.result else ()
        grid = grid_of(self.image.values["grid"])
        return compose(self.painted, self.classes, self.background, grid, unpainted, applied, strokes, beneath)


@dataclass(frozen=True)
class Plan:
    """Everything a job needs, off the nodes.

    :param start: prompts to go on from, their classes called as the segments are now; None to begin anew.
    :param prompts: to segment with, instead of tuning.
    :param notes: sentences for the user: what further examples do not teach.
    :param grown: whether what is painted is seen grown already.
    """

    parts: list[Part]
    settings: dict[str, Any]
    unpainted: str = Unpainted.UNKNOWN
    start: Optional[Prompts] = None
    prompts: Optional[Prompts] = None
    infos: dict[str, ClassInfo] = field(default_factory=dict)
    segment_ids: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    grown: bool = False

    @classmethod
    def for_prompts(cls, volume, segmentation, result: Optional[AppliedResult], prompts: Prompts) -> Plan:
        """To segment one volume with prompts; what is painted in segments of the same names is grown and kept."""
        tuned = _tuned(segmentation) if segmentation is not None else []
        known = {each.name: each.id for each in tuned}
        called = {name: matching_name(name, known) for name in prompts.names}
        ids = {name: known[each] for name, each in called.items() if each is not None}
        part = _part(volume, segmentation, result, {each.id: each for each in tuned if each.id in ids.values()})
        return cls([part], {}, prompts=prompts, segment_ids=ids)


def plan_tuning(
    parameters, volume, segmentation, result: Optional[AppliedResult], examples: Sequence[tuple[Any, Any]]
) -> Plan:
    """Take all that a tuning needs off the nodes: quick, on the main thread.

    Raises :class:`PromptSegError` for segments that cannot be told apart, or volumes that cannot be used.
    """
    tuned = {each.id: each for each in _tuned(segmentation)}
    names = [each.name for each in tuned.values()]
    check_names(names, "segments")
    for name in names:
        if not is_name(name):
            raise PromptSegError(
                "The name of a segment ({name}) is empty, very long or has several lines or invisible "
                "letters; give it another.",
                name=ascii(name[:40]),
            )
    start = result.prompts if result else None
    settings = {"mode": parameters.mode, "method": parameters.method, "seconds": float(parameters.seconds)}
    if start is not None:
        sha256 = sha256_of_model(parameters.model)
        method = start.method if parameters.method == AUTO else parameters.method
        fits = (start.sha256, start.mode, start.method) == (sha256, parameters.mode, method)
        start = called_as_now(start, segmentation, tuned.values()) if fits else None
    parts = [_part(volume, segmentation, result, tuned)]
    notes: list[str] = []
    for other_volume, other in examples:
        alike, untaught = _alike(other_volume, other, names)
        notes += untaught
        if alike:
            parts.append(_part(other_volume, other, None, alike))
    infos = {each.name: ClassInfo(each.name, 1, each.color, each.terminology) for each in tuned.values()}
    ids = {each.name: each.id for each in tuned.values()}
    return Plan(parts, settings, parameters.unpainted, start, None, infos, ids, tuple(notes))


def plan_learning(
    parameters, volume, segmentation, result: Optional[AppliedResult], examples: Sequence[tuple[Any, Any]]
) -> Plan:
    """As :func:`plan_tuning`, for prompts for other volumes, which are tuned on whole segmentations that were applied,
    corrected and accepted; further examples teach where a result was applied to them, too."""
    applied = [(one, other) for one, other in examples if current_tag(other)]
    plan = plan_tuning(parameters, volume, segmentation, result, applied)
    return replace(plan, settings={**plan.settings, "seconds": LEARNING_TAKES * plan.settings["seconds"]})


def _alike(volume, segmentation, names: Sequence[str]) -> tuple[dict[str, Segment], list[str]]:
    """The segments of a further example that teach, called as the class; and what is said of those that do not.

    Raises :class:`PromptSegError` where two of them look the same.
    """
    painted = [each for each in _tuned(segmentation) if not each.is_empty]
    called = {each.id: matching_name(each.name, names) for each in painted}
    here = volume.GetName() or "volume"
    check_names([each.name for each in painted if called[each.id]], f"segments of {here}")
    alike = {each.id: replace(each, name=called[each.id] or "") for each in painted if called[each.id]}
    others = [each.name.strip() or "a segment without a name" for each in painted if not called[each.id]]
    if not others:
        return alike, []
    untaught = ", ".join(others)
    return alike, [
        Sentence(
            "{here} does not teach {untaught}: no segment here has {names}.",
            here=here,
            untaught=untaught,
            names="that name" if len(others) == 1 else "these names",
        )
    ]


def _tuned(segmentation) -> list[Segment]:
    """The segments with the role ``tune``."""
    return [each for each in segments(segmentation) if each.role == Role.TUNE]


def _part(volume, segmentation, result: Optional[AppliedResult], tuned: Mapping[str, Segment]) -> Part:
    image = image_of(volume)
    if segmentation is None:
        nothing = segment_snapshot.SegmentSnapshot("", np.eye(4), {})
        return Part(volume.GetName() or "volume", image, nothing, {}, {}, [], None)
    known = numbers(segmentation)
    free = next_number(segmentation)
    classes: dict[str, int] = {}
    for segment_id in tuned:
        if segment_id in known:
            classes[segment_id] = known[segment_id]
        else:
            classes[segment_id], free = free, free + 1
    background = [each.id for each in segments(segmentation) if each.role == Role.BACKGROUND]
    painted = segment_snapshot.snapshot(segmentation, volume, [*tuned, *background])
    names = {number: tuned[each].name for each, number in classes.items()}
    return Part(volume.GetName() or "volume", image, painted, classes, names, background, result)


def image_of(volume_node) -> Sent:
    """A volume for the worker; its voxels are read when they are sent, by another thread."""
    voxels = voxels_of_volume(volume_node)
    modality = modality_of_volume(volume_node)
    values = {"grid": grid_values(voxels.grid), "modality": modality}
    return Sent(repr((voxels.state, modality)), values, voxels.array)
