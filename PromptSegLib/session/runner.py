"""Jobs that the user asks for, one after the other: put together in a thread, done by the worker, shown or applied."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Mapping, Optional, Sequence

from ..errors import PromptSegError, Sentence
from ..prompts.store import Prompts
from ..scene import node_references, scene_nodes, segment_snapshot
from ..scene.roles import Role
from ..scene.segmentations import check_writable, segments
from .actions import Actions, Level, Notice, unexpected
from .applied import current_tag
from .applying import Result, repainted
from .engine import Engine, model_and_device
from .growing import Growing
from .inputs import Inputs, Plan, image_of
from .job import ActiveJob, Future, Job, JobKind, State, StateMachine
from .job_requests import Request, request_of
from .results import Results

CANCELLED = "Cancelled; nothing was changed."


class JobRunner:
    """At most one job at a time, and others that wait.

    :param on_begun: hears of the segmentation and the volume of each job.
    :ivar active: the job; None without one.
    :ivar curve: (share, loss, agreement) of the last tuning.
    """

    def __init__(
        self,
        scene: Any,
        parameters: Any,
        actions: Actions,
        inputs: Inputs,
        machine: StateMachine,
        engine: Engine,
        growing: Growing,
        results: Results,
        on_begun: Callable[[Any, Any], None],
    ):
        self._scene, self._parameters, self._actions, self._inputs = scene, parameters, actions, inputs
        self._machine, self._engine, self._growing, self._results = machine, engine, growing, results
        self._on_begun = on_begun
        self._queue: list[Callable[[], None]] = []
        self._strokes_left = False  # whether something was painted meanwhile that is to be grown once the job is over
        self._batch: list[ActiveJob] = []  # what was begun of the last batch, of so many volumes
        self._of = 0
        self.active: Optional[ActiveJob] = None
        self.curve: tuple[tuple[float, float, float], ...] = ()

    @property
    def busy(self) -> bool:
        return self.active is not None or bool(self._queue)

    def begin(self, job: Job, ask: Callable[[Mapping[str, Any]], Request], grown: Optional[Result] = None) -> None:
        """Begin a job on a volume; it ends what is growing.

        :param ask: makes the request from the model and the device, in a thread.
        :param grown: what is shown, grown from strokes; it is again where nothing comes of the job.
        """
        self._growing.stop()
        active = ActiveJob(job, Future(partial(ask, model_and_device(self._parameters))), grown)
        self._machine.to(State.PREPARING)
        self.active, self._actions.notice = active, Notice()
        self._on_begun(job.segmentation, job.volume)

    def segment(self, key: str, prompts: Prompts, volumes: Sequence[Any]) -> None:
        """Segment volumes one after the other: the current one as a preview, the others directly.

        :param key: of the prompts' row in the list.
        """
        self._queue = [partial(self._segment_one, key, prompts, each) for each in volumes]
        self._batch, self._of = [], len(volumes)
        self._actions.notice = Notice()
        self.next()

    def next(self) -> None:
        """Begin the next job that waits, if any."""
        while self.active is None and self._queue:
            begin, before = self._queue.pop(0), self._actions.notice
            try:
                begin()
            except PromptSegError as error:
                self._actions.notice = Notice(str(error), Level.ERROR)
            if before.level == Level.ERROR:  # a volume was left out
                self._actions.notice = with_more(before, self._actions.notice)
            self._batch += [self.active] if self.active is not None else []

    def step(self) -> None:
        """Send the job when it is put together and the worker is free."""
        active = self.active
        if active is None or self._machine.state is not State.PREPARING:
            return
        if not active.assembly.done or self._engine.stopping:
            return
        try:
            self._engine.hurry()
            active.send(active.assembly.result(), self._engine.get(self._parameters))
            self._machine.to(active.job.kind.state)
            if active.request is not None and active.request.notes:
                self._actions.notice = Notice(" ".join(active.request.notes), Level.WARNING)
        except PromptSegError as error:
            self.fail(str(error))
        except Exception as error:
            self.fail(unexpected(error).text)

    def _segment_one(self, key: str, prompts: Prompts, volume: Any) -> None:
        """Begin to segment one volume."""
        if not scene_nodes.alive(self._scene, volume):
            raise PromptSegError("A volume to segment is no longer in the scene; it was left out.")
        here, made = volume is self._inputs.volume, None
        image_of(volume)  # one that cannot be used is refused before anything is made or dropped
        segmentation = self._inputs.segmentation if here else node_references.remembered(volume)
        if segmentation is not None:
            check_writable(segmentation, volume)
        if here:
            self._results.drop()
            segmentation = self._inputs.segmentation  # one that was made for what is dropped went with it
        if segmentation is None and here:  # a preview needs a place
            made = node_references.new_segmentation(self._scene, volume, f"{volume.GetName()} segmentation")
            node_references.remember(volume, made)
            self._parameters.segmentation = segmentation = made
        result = self._results.before(segmentation) if segmentation is not None else None
        plan = Plan.for_prompts(volume, segmentation, result, prompts)
        more = {"direct": not here, "prompts": prompts, "prompts_key": key, "made": made}
        job = Job.of(JobKind.SEGMENT, volume, segmentation, plan.parts[0], **more)
        self.begin(job, partial(request_of, plan))

    # Ending

    def stop(self, notice: Notice) -> None:
        """Stop the job and all that wait; what it has shown stays."""
        self._queue.clear()
        if self.active is not None:
            self._engine.cancel(self.active)
            self.forget_made(self.active.job)
            self.end(notice)

    def cancel(self, said: str) -> None:
        """As :meth:`stop`, and what it has shown goes; where volumes of a batch have their results, that is said."""
        active = self.active
        if active is None:
            return
        self.stop(Notice(self.stopped() or said))
        self._strokes_left |= active.missed
        self._take_back(active)

    def stopped(self) -> str:
        """What is to be said where volumes of a batch have their results already; "" where nothing was changed."""
        written = sum(each.written for each in self._batch)
        if not written or self.active is None or self.active.job.kind is not JobKind.SEGMENT:
            return ""
        return Sentence(
            "Stopped after {written} of {count} volumes; those have their results.",
            written=written,
            count=self._of,
        )

    def _take_back(self, active: ActiveJob) -> None:
        """Nothing comes of a job: what it has shown goes, and what was there before it is shown again."""
        self._results.drop_of(active)
        if active.grown is not None and not (active.missed or active.regrows):
            self._results.show_again(active.grown)
        self._strokes_left |= active.regrows

    def closing(self) -> None:
        """The scene is about to be closed."""
        self.stop(Notice())
        self.curve = ()

    def abandon(self) -> None:
        """Forget the job and all that wait; the worker is about to be ended."""
        self._queue.clear()
        self.active = None
        if self._machine.state is not State.GROWING:
            self._machine.to(State.IDLE)

    def removed(self, node: Any) -> None:
        """A node is no longer in the scene."""
        if self.active is not None and self.active.job.is_about(node):
            text = Sentence("'{node}' was removed, so the job was stopped.", node=node.GetName())
            self.stop(Notice(text, Level.WARNING))
        elif self.active is None and self._results.waiting is not None and self._results.waiting.job.is_about(node):
            self._actions.notice = Notice()  # it was about what is gone

    def result_turned(self, segmentation: Any) -> None:
        """Another result is in force in a segmentation: what is there to improve the one before has come to nothing."""
        tag = current_tag(segmentation)
        waiting = self._results.waiting
        if waiting is not None and waiting.job.kind is JobKind.GROW and waiting.job.tag != tag:
            self._growing.drop()  # the next comes by itself
            waiting = None
        job = self.active.job if self.active is not None else waiting.job if waiting is not None else None
        if job is None or job.segmentation is not segmentation or job.tag == tag:
            return
        if job.kind is JobKind.SPECIALIZE:  # it has all that it learns from
            return
        # What was painted since the click can no longer be told from what was undone.
        self.stop(Notice())
        self._results.drop()
        gone = "The preview went with the result that it was to improve; tune again."
        stopped = "What prompts for other volumes were learning from is no longer there, so that was stopped."
        self._actions.notice = Notice(stopped if job.kind is JobKind.LEARN else gone)

    def fail(self, message: str, keep: bool = False) -> None:
        """The job has come to nothing: the scene is as it was before it.

        :param keep: leave the preview, which is as good as it was: what went wrong has nothing to do with it.
        """
        self._queue.clear()
        if self.active is not None:
            self._strokes_left |= self.active.missed
            if not keep:
                self._take_back(self.active)
            self.forget_made(self.active.job)
        self.end(Notice(message, Level.ERROR))

    def end(self, notice: Notice) -> None:
        if self.active is not None:
            self._machine.to(State.IDLE)
            if self.active.job.kind is JobKind.TUNE:
                self.curve = tuple(self.active.curve)
        self.active, self._actions.notice = None, notice
        self._actions.changed()

    def forget_made(self, job: Job) -> None:
        """A segmentation that was made for a job goes when nothing has come of it."""
        if self._results.waiting is None and scene_nodes.alive(self._scene, job.made) and not segments(job.made):
            scene_nodes.remove(job.made)

    # What is painted meanwhile

    def has_left_strokes(self) -> bool:
        """Whether something that was painted during a job is to be grown now; True once."""
        if self.busy or not self._strokes_left:
            return False
        self._strokes_left = False
        return True

    def note_missed(self, tune_text: str) -> bool:
        """Note that something was painted that a tuning, or its preview, does not know of.

        False where there is neither a job nor a preview of one, so that it can be grown.

        :param tune_text: what the button says that tunes.
        """
        waiting = self._results.waiting
        active = self.active
        if active is None and waiting is not None and waiting.job.kind is not JobKind.GROW:
            active = waiting.active
        if active is None:
            return False
        segmentation, job = self._inputs.segmentation, active.job
        if job.kind is not JobKind.TUNE or job.segmentation is not segmentation:
            self._strokes_left |= self.active is not None
        else:
            roles = (Role.TUNE, Role.BACKGROUND)
            # Also those that are empty now: something may have been there.
            ids = [each.id for each in segments(segmentation) if each.role in roles]
            active.missed = bool(repainted(job.painting, segment_snapshot.look(segmentation, job.volume, ids)))
            active.regrows = any(each not in ids and not job.painting.empty(each) for each in job.painting.segments)
            if active.missed and self.active is None:
                self._actions.notice = with_missed(active.said, tune_text)
        return True


def with_missed(said: Notice, tune_text: str) -> Notice:
    """What is said of a result, once something was painted that it does not know of."""
    return with_more(said, Notice(Sentence("{tune} to include the new strokes.", tune=tune_text)))


def with_more(notice: Notice, more: Notice) -> Notice:
    """Both sentences, with the level of the first."""
    if not (notice.text and more.text):
        return notice if notice.text else more
    return Notice(f"{notice.text} {more.text}", notice.level)
