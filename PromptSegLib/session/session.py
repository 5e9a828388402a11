"""A session: the scene, the user's choices, one worker, and what may be done when."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from functools import partial
from typing import Any, Callable, Optional, Sequence, Union

from ..errors import PromptSegError, Sentence
from ..scene import node_references, prompt_nodes, scene_nodes, slice_views, stored_results
from ..scene.history import History
from ..worker.carrier import Carrier
from . import prompts as prompts_list
from .actions import GROWN_FROM_CORRECTIONS, WORDS, ActionContext, Actions, Notice, Shows, View
from .answers import Answers
from .applied import SPECIALIZING_STOPPED, AppliedResults, check_model_name, current_tag, is_learned, model_offer
from .applying import with_spoilers
from .editing import SegmentEdits, UndoHistory
from .engine import Engine, start_worker
from .growing import Growing
from .inputs import Inputs, Parameters, image_of, plan_learning, plan_tuning
from .job import FOR_OTHERS, Job, JobKind, State, StateMachine
from .job_requests import learning_of, model_of, request_of
from .recovery import Recovery, Rescue
from .results import Results
from .runner import CANCELLED, JobRunner
from .uncertainty import UncertaintyNavigator

_YIELD = 0.002  # seconds given to other threads at each poll: the application's own loop may hold Python's lock


class Session:
    """All that the panel does, on the main thread; nothing here waits. Call :meth:`poll` some times a second.

    No method raises, here and in what the session owns: what went wrong is a sentence in ``view().notice``, and the
    scene is as it was.

    :param scene: vtkMRMLScene.
    :param parameters: the user's choices; read whenever they are needed.
    :param history: keeps states to undo of a segmentation node, see :class:`~.scene.history.OneOrder`; the application
        gives the Segment Editor's.
    :param make_worker: starts a worker; by default as the parameters say.
    :param recovery: where what is not saved is kept for the case that the application is killed.

    :ivar actions: what may be done, and who hears of changes.
    :ivar inputs: volume, segmentation, further examples.
    :ivar segments: names and colors of segments.
    :ivar prompts: the list of prompts, and files.
    :ivar results: the preview.
    :ivar uncertainty: where to look next.
    :ivar history: undo and redo.
    :ivar rescue: what a killed application has left.
    :ivar growing: what happens by itself while the user paints.
    :ivar jobs: what the user asked for.
    :ivar answers: what the worker says of it.
    """

    def __init__(
        self,
        scene,
        parameters: Union[Parameters, Any],
        history: Callable[[Any], Any] = History,
        make_worker: Callable[[Any], Carrier] = start_worker,
        recovery: Optional[Recovery] = None,
    ):
        self.scene, self.parameters = scene, parameters
        self._machine, self.engine, applied = StateMachine(), Engine(make_worker), AppliedResults()
        self.actions = Actions(self._context)
        self.inputs = Inputs(scene, parameters, self.actions, self._leave, self._arrive)
        self.rescue = Rescue(scene, recovery, self.actions)
        self.uncertainty = UncertaintyNavigator(scene, self.actions)
        self.prompts = prompts_list.PromptsList(scene, parameters, self.actions)
        self.history = UndoHistory(
            scene,
            self.inputs,
            self.actions,
            applied,
            history,
            on_turned=lambda segmentation: self.jobs.result_turned(segmentation),
            on_changed=lambda segmentation: self.rescue.note_strokes(segmentation, self.inputs.volume),
        )
        self.segments = SegmentEdits(self.inputs, self.history, self.actions)

        def remembered(segmentation: Any, volume: Any) -> None:
            self.rescue.note(segmentation, volume)
            self.uncertainty.settle(volume)

        self.results = Results(scene, parameters, self.actions, self.history, applied, remembered)
        own = (parameters, self.actions, self.inputs, self._machine, self.engine)
        self.growing = Growing(*own, self.results)
        self.jobs = JobRunner(scene, *own, self.growing, self.results, self.rescue.note)
        shown = (self.results, self.uncertainty)
        self.answers = Answers(scene, self.actions, self.inputs, self.engine, *shown, self.jobs)
        self._watch = SceneWatch(
            scene,
            (self.growing, self.jobs, self.results, self.rescue, self.uncertainty, self.history),
            self.actions,
        )

    @property
    def state(self) -> State:
        """What it is at."""
        return self._machine.state

    @property
    def busy(self) -> bool:
        """Whether :meth:`poll` has something to wait for."""
        threads = self.results.background.working or self.results.cleaning.working
        return bool(self.jobs.busy or self.growing.busy or self.engine.stopping or threads)

    def view(self) -> View:
        """What the panel shows now."""
        self.rescue.look_whether_saved()
        active, segmentation, volume = self.jobs.active, self.inputs.segmentation, self.inputs.volume
        tuned = segmentation is not None and current_tag(segmentation) and prompt_nodes.linked(segmentation) is not None
        tuning = active is not None and active.job.kind is JobKind.TUNE
        result, shows = self.results.waiting, self.results.shows
        return View(
            busy=active is not None,
            tune_text="Cancel" if active is not None else "Retune" if tuned else "Tune prompts",
            stage=active.stage if active else "",
            share=active.share if active else 0.0,
            seconds_left=active.seconds_left if active else None,
            curve=tuple(active.curve) if active and tuning else self.jobs.curve,
            notice=self.actions.notice,
            preview=GROWN_FROM_CORRECTIONS if shows is Shows.GROWN and tuned else WORDS[shows],
            remarks=self.results.remarks,
            shows=shows,
            doing=active.doing if active else "",
            frame=slice_views.sequence_frame_name(self.parameters.volume) if volume is not None else "",
            device=self.engine.device,
            look=self.uncertainty.text(volume, segmentation),
            map_shown=self.uncertainty.shown,
            keeps=result is None or result.keeps,
            recovery=self.rescue.text,
            specialize="" if self.actions.reason("specialize") else model_offer(segmentation),
            reasons=self.actions.reasons(),
            prompts=prompts_list.rows(self.scene, self.parameters.model, segmentation),
            examples=tuple((one.GetName(), other.GetName()) for one, other in self.inputs.examples),
        )

    # Jobs

    def painted(self) -> None:
        """A stroke has ended: grow what is painted, unless a tuning or its result has to do with it."""
        with self.actions.doing(quiet=True):
            if self.jobs.note_missed(self.view().tune_text):
                return
            if self.actions.reason("grow"):
                self.growing.drop()
            else:
                self.growing.begin()

    def live_changed(self) -> None:
        """*Update while painting* was chosen, or not."""
        if not self.parameters.live:
            with self.actions.doing():
                self.growing.drop()
        else:
            self.painted()

    def tune(self) -> None:
        """Tune, or retune, the segments whose role is ``tune``: the button's click."""
        with self.actions.doing():
            self.actions.require("tune")
            volume, segmentation = self.inputs.volume, self.inputs.segmentation
            result = self.results.before(segmentation)
            plan = plan_tuning(self.parameters, volume, segmentation, result, self.inputs.examples)
            self.growing.stop()
            grown = self.results.result if self.results.shows is Shows.GROWN else None
            if grown is None:
                self.results.drop()  # what was grown is looked at until there is something better
            plan = replace(plan, grown=grown is not None)
            job = Job.of(JobKind.TUNE, volume, segmentation, plan.parts[0])
            self.jobs.begin(job, partial(request_of, plan), grown)

    def learn(self) -> None:
        """Tune prompts for other volumes on what was applied; they are a row of their own in the list."""
        with self.actions.doing():
            self.actions.require("learn")
            volume, segmentation = self.inputs.volume, self.inputs.segmentation
            result = self.results.before(segmentation)
            plan = plan_learning(self.parameters, volume, segmentation, result, self.inputs.examples)
            self.jobs.begin(Job.of(JobKind.LEARN, volume, segmentation, plan.parts[0]), partial(learning_of, plan))

    def specialize(self, called: str) -> None:
        """Make a model of its own, called so, of what was applied to this volume and to further examples."""
        with self.actions.doing():
            self.actions.require("specialize")
            called = check_model_name(called)
            volume, segmentation = self.inputs.volume, self.inputs.segmentation
            result = self.results.before(segmentation)
            plan = plan_learning(self.parameters, volume, segmentation, result, self.inputs.examples)
            job = Job.of(JobKind.SPECIALIZE, volume, segmentation, plan.parts[0])
            self.jobs.begin(job, partial(model_of, plan, called))

    def other_volumes(self) -> None:
        """The user turned to other volumes: let prompts learn from what was applied, where they have not yet."""
        segmentation = self.inputs.segmentation
        if segmentation is None or self.actions.reason("learn") or is_learned(segmentation):
            return
        self.learn()

    def segment(self, key: str, volumes: Optional[Sequence[Any]] = None) -> None:
        """Segment volumes (by default the current one) with prompts of the list.

        The current volume gets a preview; each other volume gets its result directly, in its own segmentation.
        """
        with self.actions.doing():
            self.actions.require("segment")
            prompts = self.prompts.fitting(key)
            self.jobs.segment(key, prompts, list(volumes) if volumes is not None else [self.inputs.volume])

    def cancel(self) -> None:
        """Stop the job; the scene is as it was before it. Takes effect at once."""
        with self.actions.doing():
            self.jobs.cancel(SPECIALIZING_STOPPED if self.state is State.SPECIALIZING else CANCELLED)
            waiting = self.results.waiting
            if waiting is None or waiting.job.kind is JobKind.GROW:
                self.uncertainty.take_back(self.inputs.volume)

    # The result

    def apply(self) -> None:
        """Take what the preview shows into the segmentation; while it is still improving, that ends the tuning."""
        with self.actions.doing():
            self.actions.require("apply")
            self.growing.stop()
            self._stop_what_is_shown()
            job = self.results.result.job if self.results.result is not None else None
            if job is not None and image_of(job.volume).key != job.image_key:
                self.results.drop()
                raise PromptSegError("The voxels of the volume changed since; this result was dropped, tune again.")
            applied = self.results.apply()
            self.actions.notice = with_spoilers(applied, (self.inputs.volume, self.inputs.segmentation))
            self.history.follow()

    def discard(self) -> None:
        """Forget what the preview shows."""
        with self.actions.doing():
            self.actions.require("discard")
            self._stop_what_is_shown()
            self.growing.discard()
            dropped = self.results.waiting
            self.results.drop()
            if dropped is not None and dropped.job.kind is not JobKind.GROW:  # what is grown has no places
                self.uncertainty.take_back(self.inputs.volume)
            self.actions.notice = Notice("Discarded; nothing was changed.")

    # The worker

    def poll(self) -> bool:
        """Take what threads and the worker have for us; gives whether anything is still on its way."""
        if self.busy:
            time.sleep(_YIELD)
        with self.actions.doing(quiet=True):
            self.actions.notice = self.results.background.poll() or self.results.cleaning.poll() or self.actions.notice
            self.jobs.step()
            self.growing.step()
            for worker, event in self.engine.poll():
                with self.actions.doing(quiet=True):  # the others are still to be taken
                    self.growing.take(worker, event)
                    self.answers.take(worker, event)
            self.jobs.next()
        if self.jobs.has_left_strokes():
            self.painted()
        self.answers.tell_reports()
        self.rescue.step()
        return self.busy

    def close(self) -> None:
        """End the worker and leave the scene alone."""
        self._watch.end()
        self.jobs.abandon()
        self.growing.stop()
        with contextlib.suppress(PromptSegError):
            self.results.cleaning.finish()
            self.results.background.finish()  # what was applied is remembered in the scene
        self.results.closing()
        with contextlib.suppress(PromptSegError):
            self.uncertainty.show(False)
        self.engine.end()
        self.rescue.close()

    # Inside

    def _context(self) -> ActionContext:
        segmentation, result = self.inputs.segmentation, self.results.waiting
        return ActionContext(
            self.parameters,
            self.inputs.volume,
            segmentation,
            self.jobs.active is not None,
            result is not None,
            result is not None and result.other is not None,
            self.results.cleaning.wanted is not None,
            bool(self.results.cleaning.direct),
            self.uncertainty,
            self.history.of(segmentation) if segmentation is not None else None,
        )

    def _stop_what_is_shown(self) -> None:
        """End the job whose preview is shown; one that has to do with other volumes goes on."""
        active, result = self.jobs.active, self.results.waiting
        if active is not None and result is not None and (result.active is active or active.job.kind is JobKind.TUNE):
            self.jobs.stop(Notice())

    def _leave(self, other_volume: bool) -> None:
        """Stop and forget what belongs to the present volume and segmentation.

        :param other_volume: whether another volume is turned to, not only another segmentation.
        """
        self.growing.stop()
        volume, segmentation, active = self.inputs.volume, self.inputs.segmentation, self.jobs.active
        if other_volume or segmentation is not None:
            self.actions.notice = Notice()  # it was about what was shown
        self.history.leave()
        # What has to do with other volumes goes on while the user turns to them.
        running = active is not None and active.job.kind not in FOR_OTHERS and not active.job.direct
        if running:
            self.jobs.stop(Notice(self.jobs.stopped() or CANCELLED))
        left = volume if other_volume else segmentation
        if self.results.park() and left is not None:
            text = Sentence(
                "{stopped}The preview waits with '{node}'; choose that again to apply it.",
                stopped="The job was stopped. " if running else "",
                node=left.GetName(),
            )
            self.actions.notice = Notice(text)
        if self.uncertainty.shown:
            self.uncertainty.show(False)

    def _arrive(self) -> None:
        """Another volume or segmentation was chosen: what waits with it is shown."""
        self.history.follow()
        notice = self.results.unpark(self.inputs.volume, self.inputs.segmentation)
        self.actions.notice = notice or self.actions.notice


class SceneWatch:
    """Tells what a session owns of nodes that go, and of a scene that is closed.

    :param owned: objects with ``removed(node)`` and ``closing()``, told in this order.
    """

    def __init__(self, scene: Any, owned: Sequence[Any], actions: Actions):
        self._scene, self._owned, self._actions = scene, owned, actions
        self.end = scene_nodes.watch(scene, self._removed, self._closing, actions.changed, self._renew)
        self._renew()

    def _removed(self, node: Any) -> None:
        for each in self._owned:
            each.removed(node)
        self._actions.changed()

    def _closing(self) -> None:
        for each in self._owned:
            each.closing()
        self._actions.notice = Notice()

    def _renew(self) -> None:
        """What an earlier version kept in the scene, as this one does: hidden nodes can spoil a saved scene."""
        with self._actions.doing(quiet=True):
            node_references.renew(self._scene)
            stored_results.renew(self._scene)
            prompt_nodes.renew(self._scene)
