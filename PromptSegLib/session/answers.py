"""What the worker says of a job that a user asked for: previews and results to show, prompts and models to keep."""

from __future__ import annotations

import time
from typing import Any, Sequence

from ..errors import PromptSegError, Sentence
from ..worker.carrier import Carrier
from ..worker.client import GONE, Event
from . import prompts as prompts_list
from .actions import Actions, Level, Notice, unexpected
from .applied import current_tag, take_learned, take_model
from .engine import Engine, map_of, prompts_of, reply_of
from .inputs import Inputs, image_of
from .job import FOR_OTHERS, ActiveJob, Job, JobKind
from .results import Results
from .runner import CANCELLED, JobRunner, with_missed, with_more
from .uncertainty import UncertaintyNavigator


class Answers:
    """Takes what the worker says of the runner's job."""

    def __init__(
        self,
        scene: Any,
        actions: Actions,
        inputs: Inputs,
        engine: Engine,
        results: Results,
        uncertainty: UncertaintyNavigator,
        runner: JobRunner,
    ):
        self._scene, self._actions, self._inputs, self._engine = scene, actions, inputs, engine
        self._results, self._uncertainty, self._runner = results, uncertainty, runner
        self._stale = False  # whether something was reported since the listeners were told

    def take(self, worker: Carrier, event: Event) -> None:
        """What the worker said, where it is of the job."""
        active = self._runner.active
        if active is None or active.worker is not worker:
            return
        try:
            self._take(active, event)
        except Exception as error:  # whatever it was, the job has ended
            if self._runner.active is not active:
                raise
            self._engine.cancel(active)
            self._runner.fail(str(error) if isinstance(error, PromptSegError) else unexpected(error).text)

    def _take(self, active: ActiveJob, event: Event) -> None:
        if event.kind == GONE:
            self._runner.fail(event.message or "The worker ended; nothing is lost, click again.", keep=True)
        elif active.number != event.job:
            return
        elif event.kind == "report":
            active.report(event.values)
            self._stale = True
        elif event.kind == "done" and active.job.kind in FOR_OTHERS:
            self._keep(active, event)
        elif event.kind in ("preview", "done"):
            self._engine.device = str(event.values.get("device", self._engine.device))
            self._show(active, event)
        elif event.kind in ("refused", "failed") and active.job.direct:  # the next volume may be better
            self._runner.forget_made(active.job)
            left_out = Notice(f"'{active.job.volume.GetName()}' was left out: {event.message}", Level.ERROR)
            self._runner.end(with_more(self._of_batch(), left_out))
        elif event.kind in ("refused", "failed"):
            self._runner.fail(event.message, keep=event.kind == "failed")
        elif event.kind == "cancelled":
            self._runner.end(Notice(CANCELLED))

    def tell_reports(self) -> None:
        """Tell the listeners of what was reported, once, however much it was."""
        if self._stale:
            self._stale = False
            self._actions.changed()

    def _of_batch(self) -> Notice:
        """What there is to say of volumes of a batch that were left out so far."""
        told = self._actions.notice
        return told if told.level == Level.ERROR else Notice()

    def _keep(self, active: ActiveJob, event: Event) -> None:
        """Prompts for other volumes came, or a model of its own."""
        active.note = str(event.values.get("note", ""))
        try:
            if active.job.kind is JobKind.LEARN:
                told = take_learned(self._scene, active.job.segmentation, active.job.tag, event)
            else:
                told = take_model(event)
        except PromptSegError as error:
            self._runner.fail(str(error), keep=True)
            return
        self._runner.end(active.told(" ".join(told)))

    def _show(self, active: ActiveJob, event: Event) -> None:
        """A preview or the result came."""
        job = active.job
        if not _same_voxels(job):
            self._engine.cancel(active)
            if not job.direct:
                self._results.drop()  # what was grown is of the old voxels, too
            active.grown, name = None, job.volume.GetName()
            self._runner.fail(
                Sentence("The voxels of '{volume}' changed meanwhile; click again for the new ones.", volume=name)
            )
            return
        prompts = prompts_of(event) if "prompts" in event.arrays else job.prompts
        reply, final = reply_of(event), event.kind == "done"
        raw = reply.result
        active.note = str(event.values.get("note", ""))
        if final:
            if job.volume is self._inputs.volume:
                called = _called_as_now(active, raw.place_classes)
                ids = active.request.segment_ids if active.request is not None else {}
                about = tuple(ids.get(name, "") for name in raw.place_classes)
                self._uncertainty.remember(job.volume, raw.places, map_of(event), called, about)
            text = _done(job, time.monotonic() - active.began)
            active.said = active.told(" ".join([text, *raw.notes]))
            said = active.said
            if active.missed:
                said = with_missed(said, "Retune" if current_tag(job.segmentation) else "Tune prompts")
            self._runner.end(self._of_batch() if job.direct else said)
        arrived = self._results.arrive(active, reply, prompts, final)
        if arrived is not None:
            self._actions.notice = with_more(self._of_batch(), arrived)
        self._actions.changed()


def _done(job: Job, seconds: float) -> str:
    """What is said of a result that waits."""
    if job.kind is JobKind.SEGMENT:
        return Sentence(
            "Segmented '{volume}' in {seconds:.0f} s. Apply takes the preview, Discard forgets it.",
            volume=job.volume.GetName(),
            seconds=seconds,
        )
    return Sentence(
        "Done in {seconds:.0f} s. Apply takes the preview into the segmentation, Discard forgets it.", seconds=seconds
    )


def _same_voxels(job: Job) -> bool:
    """Whether the volume has the voxels that it had at the click."""
    try:
        return image_of(job.volume).key == job.image_key
    except PromptSegError:
        return False


def _called_as_now(active: ActiveJob, classes: Sequence[str]) -> tuple[str, ...]:
    """The names of classes, of those whose segments were renamed while the job ran the new ones."""
    request = active.request
    if request is None:
        return tuple(classes)
    new = prompts_list.renamed_since(active.job.segmentation, request.segment_ids, request.numbers)
    return tuple(new.get(name, name) for name in classes)
