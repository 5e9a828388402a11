"""A session: the scene, the user's choices, one worker, and what may be done when."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Sequence, Union

from ..annotation.classes import matching_name
from ..errors import PromptSegError, Sentence
from ..inference.result import Segmentation
from ..models import catalogue
from ..prompts import beside
from ..prompts.store import Prompts
from ..prompts.teachers import taught_by
from ..scene import links, looking, memory, painting, prompt_nodes
from ..scene.history import History, OneOrder
from ..scene.placement import label_of
from ..scene.segmentations import check_writable, segments
from ..scene.storage import spoils_scene
from ..worker.carrier import Carrier
from ..worker.client import GONE, Event
from . import learning, live, prompts_list, requests
from .asking import Request, request_of
from .engine import Engine
from .memory import Version, current_tag
from .names import up_to_date
from .parameters import Parameters
from .places import Places
from .planning import Part, Plan, plan_tuning
from .reasons import Situation, why_not
from .recovery import Recovery
from .repainting import repainted
from .rescue import Rescue
from .results import Results
from .running import Run, Task
from .segment_edits import SegmentEdits, add_background
from .view import ACTIONS, Notice, View

_MISSED = "Retune to include the new strokes."
_YIELD = 0.002  # seconds given to other threads at each poll: the application's own loop may hold Python's lock


class Session:
    """All that the panel does, on the main thread; nothing here waits. Call :meth:`poll` some times a second.

    No method raises: what went wrong is a sentence in ``view().notice``, and the scene is as it was.

    :param scene: vtkMRMLScene.
    :param parameters: the user's choices; read whenever they are needed.
    :param history: keeps states to undo of a segmentation node, see :class:`~.scene.history.OneOrder`; the application
        gives the Segment Editor's.
    :param make_worker: starts a worker; by default as the parameters say.
    :param recovery: where what is not saved is kept for the case that the application is killed.
    """

    def __init__(
        self,
        scene,
        parameters: Union[Parameters, Any],
        history: Callable[[Any], Any] = History,
        make_worker: Callable[[Any], Carrier] = requests.start_worker,
        recovery: Optional[Recovery] = None,
    ):
        self.scene, self.parameters = scene, parameters
        self._make_history = history
        self._histories: dict[str, Any] = {}
        self._engine = Engine(make_worker)
        self._live = live.Live(self._engine)
        self._rescue = Rescue(scene, recovery)
        self._results = Results(scene, parameters, self._history_of, self._rescue.note)
        self._places = Places(scene)
        self.edits = SegmentEdits(self._history_of)
        self._run: Optional[Run] = None
        self._queue: list[Callable[[], None]] = []
        self._curve: tuple[tuple[float, float, float], ...] = ()
        self._notice = Notice()
        self._device, self._stale, self._followed = "", False, ""
        self._listeners: list[Callable[[], None]] = []
        self._unwatch = links.watch(scene, self._on_removed, self._on_closing, self._changed, self._renew)
        self._renew()

    # Looking

    def view(self) -> View:
        """What the panel shows now."""
        self._rescue.look_whether_saved()
        run, result = self._run, self._results.result
        segmentation = self._segmentation()
        tuned = segmentation is not None and current_tag(segmentation) and prompt_nodes.linked(segmentation) is not None
        return View(
            busy=run is not None,
            tune_text="Cancel" if run is not None else "Retune" if tuned else "Tune prompts",
            stage=run.stage if run else "",
            share=run.share if run else 0.0,
            seconds_left=run.seconds_left if run else None,
            curve=tuple(run.curve) if run and run.kind == "tune" else self._curve,
            notice=self._notice,
            **live.shown_by(result),
            doing=run.doing if run else "",
            frame=looking.sequence_frame_name(self.parameters.volume) if self._volume() is not None else "",
            device=self._device,
            look=self._places.text(self._volume()),
            map_shown=self._places.shown,
            keeps=result is None or result.keeps,
            recovery=self._rescue.text,
            reasons={action: self._reason(action) for action in ACTIONS},
            prompts=prompts_list.rows(self.scene, self.parameters.model, segmentation),
            examples=tuple((volume.GetName(), other.GetName()) for volume, other in self._examples()),
        )

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever :meth:`view` may have changed."""
        self._listeners.append(listener)

    @property
    def busy(self) -> bool:
        """Whether :meth:`poll` has something to wait for."""
        return bool(self._run or self._queue or self._live.busy or self._engine.stopping or self._results.working)

    @property
    def shown_result(self) -> Optional[Segmentation]:
        """What the preview shows; None without one."""
        result = self._results.result
        return result.shown if result is not None else None

    # Choosing

    def choose_volume(self, volume) -> None:
        """Another volume: its own segmentation comes with it."""
        with self._refusing():
            self._leave()
            before = self._volume()
            self.parameters.volume = volume
            if volume is not None:
                found = links.remembered(volume)
                # What belongs to the volume before is not for this one.
                foreign = before is not None and links.remembered(before) is self._segmentation()
                if found is not None or (foreign and before is not volume):
                    self.parameters.segmentation = found
            self._arrive()

    def choose_segmentation(self, segmentation) -> None:
        """Another segmentation, remembered for the volume."""
        with self._refusing():
            self._leave()
            self.parameters.segmentation = segmentation
            if self._volume() is not None and segmentation is not None:
                links.remember(self._volume(), segmentation)
            self._arrive()

    def ensure_segmentation(self):
        """The segmentation to paint in; a new one on the volume where there is none."""
        with self._refusing():
            if self._segmentation() is None and self._volume() is not None:
                volume = self._volume()
                made = links.new_segmentation(self.scene, volume, f"{volume.GetName()} segmentation")
                add_background(made)
                self.choose_segmentation(made)
        return self._segmentation()

    def add_example(self, volume) -> None:
        """Let another volume with a segmentation of its own (same segment names) teach, too."""
        with self._refusing():
            if volume is None or links.remembered(volume) is None:
                raise PromptSegError("That volume has no segmentation of its own yet; choose it above and paint first.")
            if volume is self._volume():
                raise PromptSegError("The current volume is an example already; choose another one.")
            others = [each for each in self.parameters.examples if each is not volume]
            self.parameters.examples = [*others, volume]

    def remove_example(self, volume) -> None:
        """Let a volume no longer teach; nothing in the scene changes."""
        with self._refusing():
            self.parameters.examples = [each for each in self.parameters.examples if each is not volume]

    # Segments

    def name_segment(self, typed: str) -> str:
        """The ID of the segment of that name in the segmentation, made where there is none; "" where that failed."""
        with self._refusing():
            self._require("name")
            self.ensure_segmentation()
            return self.edits.name(self._segmentation(), typed)
        return ""

    def edit_segment(self, edit: str, segment_id: str, *value: Any) -> None:
        """``rename``, ``color`` or ``remove`` a segment, see :class:`~.segment_edits.SegmentEdits`."""
        with self._refusing():
            getattr(self.edits, edit)(self._segmentation(), segment_id, *value)

    # Tuning

    def prepare(self) -> None:
        """Let the worker load the model and encode the volume while the user paints, once for each volume."""
        volume = self._volume()
        if self._run is not None or volume is None or self._reason("segment"):
            return
        if self._live.busy:
            self._live.prepares = True
            return
        with contextlib.suppress(PromptSegError):
            self._engine.prepare(self.parameters, requests.image_of(volume), self._common())

    def painted(self) -> None:
        """A stroke has ended: grow what is painted, unless a tuning or its result has to do with it."""
        with self._refusing(quiet=True):
            waiting = self._results.result
            run = self._run or (waiting.run if waiting is not None and waiting.run.kind != live.KIND else None)
            if run is not None:
                self._note_missed(run)
            elif why_not("grow", self._situation()):
                self._drop_grown()
            else:
                self._grow()

    def live_changed(self) -> None:
        """*Update while painting* was chosen, or not."""
        if not self.parameters.live:
            with self._refusing():
                self._drop_grown()
        else:
            self.painted()

    def tune(self) -> None:
        """Tune, or retune, the segments whose role is ``tune``: the button's click."""
        with self._refusing():
            self._require("tune")
            volume, segmentation = self._volume(), self._segmentation()
            self._live.stop()
            if self._results.result is None or self._results.result.run.kind != live.KIND:
                self._results.drop()  # what was grown is looked at until there is something better
            plan = plan_tuning(self.parameters, volume, segmentation, self._version(segmentation), self._examples())
            self._begin(Run("tune", volume, segmentation), plan.parts[0], partial(request_of, plan))

    def learn(self) -> None:
        """Tune prompts for other volumes on what was applied; they are a row of their own in the list."""
        with self._refusing():
            self._require("learn")
            volume, segmentation = self._volume(), self._segmentation()
            version, run = self._version(segmentation), Run(learning.KIND, volume, segmentation)
            lessons = learning.lessons_of(self.parameters, volume, segmentation, version, self._examples())
            self._begin(run, lessons.parts[0], partial(learning.request_of, lessons))

    def other_volumes(self) -> None:
        """The user turned to other volumes: let prompts learn from what was applied, where they have not yet."""
        segmentation = self._segmentation()
        if segmentation is not None and not self._reason("learn") and not learning.is_learned(segmentation):
            self.learn()

    def cancel(self) -> None:
        """Stop the job; the scene is as it was before it. Takes effect at once."""
        with self._refusing():
            if self._run is not None:
                self._stop(Notice("Cancelled; nothing was changed."))
                self._results.drop()

    # The result

    def apply(self) -> None:
        """Take what the preview shows into the segmentation; while it is still improving, that ends the tuning."""
        with self._refusing():
            self._require("apply")
            self._live.stop()
            if self._run is not None:
                self._stop(Notice())
            result = self._results.result
            if result is not None and requests.image_of(result.run.volume).key != result.run.key:
                self._results.drop()
                raise PromptSegError("The voxels of the volume changed since; this result was dropped, tune again.")
            self._notice = self._with_spoilers(self._results.apply())
            self._follow()

    def discard(self) -> None:
        """Forget what the preview shows."""
        with self._refusing():
            self._require("discard")
            if self._run is not None:
                self._stop(Notice())
            self._live.discard()
            self._results.drop()
            self._notice = Notice("Discarded; nothing was changed.")

    def undo(self) -> None:
        """Take back the last change of the segmentation: a result, or a stroke."""
        with self._refusing():
            self._require("undo")
            self._history_of(self._segmentation()).undo()
            self._notice = Notice()
            self._after_history()

    def redo(self) -> None:
        """Bring back what was undone."""
        with self._refusing():
            self._require("redo")
            self._history_of(self._segmentation()).redo()
            self._notice = Notice()
            self._after_history()

    def segmentation_changed(self) -> None:
        """Somebody else changed the segmentation, perhaps undid a result with the editor's own button: follow."""
        segmentation = self._segmentation()
        if segmentation is not None:
            self._rescue.note_strokes(segmentation, self._volume())
        if segmentation is not None and current_tag(segmentation) != self._followed:
            with self._refusing(quiet=True):
                self._notice = Notice()  # what it says of the result is no longer true
                self._after_history()

    def clean_up_changed(self) -> None:
        """The clean-up choices changed: show the result with them."""
        with self._refusing():
            self._results.clean_up()

    def keep_previous(self, keeps: bool) -> None:
        """Whether a retuning leaves what nobody corrected; else the preview shows what it adds and removes."""
        with self._refusing():
            self._require("keep")
            self._results.keep_previous(keeps)

    def show_opacity(self) -> None:
        """The preview's opacity or its surfaces were chosen."""
        with self._refusing():
            self._results.dress()

    # Looking at the result

    def look_next(self) -> None:
        """Move the slice views to the next place where the network is unsure."""
        with self._refusing():
            self._require("look")
            self._places.go()

    def look_back(self) -> None:
        """Move the slice views to the place before."""
        with self._refusing():
            self._require("look")
            self._places.go(-1)

    def show_map(self, shown: bool) -> None:
        """Show or hide the uncertainty over the volume."""
        with self._refusing():
            if shown:
                self._require("map")
            self._places.show(shown)

    # Prompts

    def load_prompts(self, path: Union[str, Path]) -> None:
        """Read a prompts file into the scene."""
        with self._refusing():
            node = prompts_list.load(self.scene, Path(path), self.parameters.model)
            self._notice = Notice(Sentence("Loaded '{node}'.", node=node.GetName()))

    def save_prompts(self, key: str, path: Union[str, Path]) -> None:
        """Write prompts of the list to a file."""
        with self._refusing():
            prompts = prompts_list.prompts_of(self.scene, key)
            prompts = up_to_date(prompts, prompts_list.owner(self.scene, key))
            path = Path(path)
            prompts.save(path)
            saved = Sentence("Saved {name} ({kilobytes:.0f} kB).", name=path.name, kilobytes=path.stat().st_size / 1024)
            if prompts.outside:
                saved = Sentence(
                    "{saved} What was painted has no room in it; keep {beside} beside it.",
                    saved=saved,
                    beside=beside.place(path).name,
                )
            self._notice = Notice(saved)

    def rename_prompts(self, key: str, name: str) -> None:
        with self._refusing():
            prompts_list.rename(self.scene, key, name)

    def delete_prompts(self, key: str) -> None:
        with self._refusing():
            prompts_list.delete(self.scene, key)
            self._notice = Notice("Deleted the prompts; segments that they made stay.")

    def segment(self, key: str, volumes: Optional[Sequence[Any]] = None) -> None:
        """Segment volumes (by default the current one) with prompts of the list.

        The current volume gets a preview; each other volume gets its result directly, in its own segmentation.
        """
        with self._refusing():
            self._require("segment")
            prompts = up_to_date(prompts_list.prompts_of(self.scene, key), prompts_list.owner(self.scene, key))
            reason = prompts_list.why_not(prompts, self.parameters.model)
            if reason:
                raise PromptSegError(reason)
            self._results.drop()
            wanted = list(volumes) if volumes is not None else [self._volume()]
            self._queue = [partial(self._segment_one, key, prompts, each) for each in wanted]
            self._next()

    # What a killed application has left

    def recover(self) -> None:
        """Put what a killed application has left into the scene, beside what is there."""
        with self._refusing():
            self._notice = self._rescue.take()

    def dismiss_recovery(self) -> None:
        """What a killed application has left is not wanted."""
        with self._refusing():
            self._rescue.dismiss()

    # The worker

    def poll(self) -> bool:
        """Take what threads and the worker have for us; gives whether anything is still on its way."""
        if self.busy:
            time.sleep(_YIELD)
        with self._refusing(quiet=True):
            self._notice = self._results.poll() or self._notice
            self._step()
            self._step_live()
            for worker, event in self._engine.poll():
                with self._refusing(quiet=True):  # the others are still to be taken
                    self._take(worker, event)
            self._next()
        if self._stale:  # once, however much was reported
            self._stale = False
            self._changed()
        return self.busy

    def close(self) -> None:
        """End the worker and leave the scene alone."""
        self._unwatch()
        self._queue.clear()
        self._run = None
        self._live.stop()
        with contextlib.suppress(PromptSegError):
            self._results.finish()  # what was applied is remembered in the scene
        self._results.forget()
        with contextlib.suppress(PromptSegError):
            self._places.show(False)
        self._engine.end()
        self._rescue.close()

    # Inside

    def _changed(self) -> None:
        for listener in list(self._listeners):
            listener()

    @contextlib.contextmanager
    def _refusing(self, quiet: bool = False) -> Iterator[None]:
        """Turn a refusal into a notice; tell the listeners."""
        before = self._notice
        try:
            yield
        except PromptSegError as error:
            self._notice = Notice(str(error), "error")
        except Exception as error:  # a bug of ours must not cost the user a window that answers
            logging.exception("PromptSeg could not do that")
            self._notice = Notice(
                Sentence("Something unexpected happened ({error}); nothing is lost, see the log.", error=repr(error)),
                "error",
            )
        if not quiet and self._notice is before and before.level == "error":
            self._notice = Notice()  # what was done now went well
        if not quiet or self._notice is not before:
            self._changed()

    def _require(self, action: str) -> None:
        reason = self._reason(action)
        if reason:
            raise PromptSegError(reason)

    def _reason(self, action: str) -> str:
        """Why an action is not possible now, one sentence; "" when it is."""
        return why_not(action, self._situation())

    def _situation(self) -> Situation:
        segmentation = self._segmentation()
        return Situation(
            self.parameters,
            self._volume(),
            segmentation,
            self._run is not None,
            self._results.result is not None,
            self._results.result is not None and self._results.result.other is not None,
            self._places,
            self._history_of(segmentation) if segmentation is not None else None,
        )

    def _volume(self):
        volume = self.parameters.volume
        return volume if links.alive(self.scene, volume) else None

    def _segmentation(self):
        segmentation = self.parameters.segmentation
        return segmentation if links.alive(self.scene, segmentation) else None

    def _examples(self) -> list[tuple[Any, Any]]:
        """Further volumes that teach, with their segmentations."""
        pairs = [(volume, links.remembered(volume)) for volume in self.parameters.examples if volume is not None]
        return [(one, other) for one, other in pairs if other is not None and one is not self._volume()]

    def _history_of(self, segmentation) -> Any:
        """One order over the Segment Editor's states and those of changes made while it showed another one."""
        key = segmentation.GetID()
        if key not in self._histories:
            self._histories[key] = OneOrder(segmentation, self._make_history(segmentation))
        return self._histories[key]

    def _version(self, segmentation) -> Optional[Version]:
        self._results.finish()
        version = self._results.memory.of(segmentation)
        if version is not None and version.prompts is None:
            version = replace(version, prompts=prompts_list.current(segmentation))
        return version

    def _with_spoilers(self, notice: Notice) -> Notice:
        """And what to do about names with which Slicer could not open the scene again."""
        nodes = [node for node in (self._volume(), self._segmentation()) if node is not None and spoils_scene(node)]
        if not nodes:
            return notice
        text = Sentence(
            '{said} Rename {names} before you save: Slicer cannot open a scene with "&" in a name without a file.',
            said=notice.text,
            names=", ".join(label_of(node) for node in nodes),
        )
        return replace(notice, text=text)

    def _follow(self) -> None:
        """What is applied to the segmentation now is known."""
        segmentation = self._segmentation()
        self._followed = current_tag(segmentation) if segmentation is not None else ""

    def _after_history(self) -> None:
        """What was undone or redone is a change of segments: bring prompts and memory to the same state."""
        segmentation = self._segmentation()
        version = self._results.memory.of(segmentation)
        if version is not None and version.prompts is not None:
            now = prompts_list.current(segmentation)
            if now is None or now.to_bytes(whole=True) != version.prompts.to_bytes(whole=True):
                prompts_list.keep(self.scene, segmentation, version.prompts)
        self._results.memory.write(segmentation)
        self._follow()
        waiting = self._results.result
        if waiting is not None and waiting.run.kind == live.KIND and waiting.run.tag != self._followed:
            self._drop_grown()  # the next comes by itself
            waiting = None
        run = self._run or (waiting.run if waiting is not None else None)
        if run is not None and run.segmentation is segmentation and run.tag != self._followed:
            # What was painted since the click can no longer be told from what was undone.
            self._stop(Notice())
            self._results.drop()
            gone = "The preview went with the result that it was to improve; tune again."
            learned = "What prompts for other volumes were learning from is no longer there, so that was stopped."
            self._notice = Notice(learned if run.kind == learning.KIND else gone)

    def _common(self) -> dict[str, Any]:
        model = self.parameters.model or catalogue.entries()[0].name
        return {"model": model, "device": requests.device_of(self.parameters)}

    def _begin(self, run: Run, part: Part, ask: Callable[[dict[str, Any]], Request]) -> None:
        """Begin a job on a volume: put together in a thread what is known, then send it."""
        self._live.stop()
        self._run, self._notice = run, Notice()
        self._describe(run, part)
        run.task = Task(partial(ask, self._common()))
        self._rescue.note(run.segmentation, run.volume)

    def _describe(self, run: Run, part: Part) -> None:
        run.key, run.painting = part.image.key, part.painted
        run.tag = current_tag(run.segmentation) if run.segmentation is not None else ""

    def _step(self) -> None:
        """Send the job when its thread is done and the worker is free."""
        run = self._run
        if run is None or run.task is None or not run.task.done or self._engine.stopping:
            return
        task, run.task = run.task, None
        try:
            self._engine.hurry()
            run.ask(task.result(), self._engine.get(self.parameters))
            if run.notes:
                self._notice = Notice(" ".join(run.notes), "warning")
        except PromptSegError as error:
            self._fail(str(error))
        except Exception as error:
            logging.exception("PromptSeg could not ask for that")
            self._fail(
                Sentence("Something unexpected happened ({error}); nothing is lost, see the log.", error=repr(error))
            )

    def _stop(self, notice: Notice) -> None:
        """Stop the running job and all that wait; what it has shown stays."""
        self._queue.clear()
        if self._run is not None:
            self._engine.cancel(self._run)
            self._forget_made(self._run)
            self._end_run(notice)

    def _forget_made(self, run: Run) -> None:
        """A segmentation that was made for a job goes when nothing has come of it."""
        if self._results.result is None and links.alive(self.scene, run.made) and not segments(run.made):
            links.remove(run.made)

    def _end_run(self, notice: Notice) -> None:
        if self._run is not None and self._run.kind == "tune":
            self._curve = tuple(self._run.curve)
        self._run, self._notice = None, notice
        self._changed()

    def _next(self) -> None:
        """Begin the next job that waits, if any."""
        while self._run is None and self._queue:
            begin = self._queue.pop(0)
            try:
                begin()
            except PromptSegError as error:
                self._notice = Notice(str(error), "error")

    def _segment_one(self, key: str, prompts: Prompts, volume) -> None:
        """Begin to segment one volume."""
        if not links.alive(self.scene, volume):
            raise PromptSegError("A volume to segment is no longer in the scene; it was left out.")
        here = volume is self._volume()
        segmentation = self._segmentation() if here else links.remembered(volume)
        if segmentation is not None:
            check_writable(segmentation, volume)
        run = Run("segment", volume, segmentation, direct=not here, prompts=prompts, prompts_key=key)
        if segmentation is None and here:  # a preview needs a place
            segmentation = links.new_segmentation(self.scene, volume, f"{volume.GetName()} segmentation")
            links.remember(volume, segmentation)
            run.segmentation = run.made = self.parameters.segmentation = segmentation
        if segmentation is not None:
            names = {each.name: each.id for each in segments(segmentation) if each.role == "tune"}
            called = {name: matching_name(name, names) for name in prompts.names}
            run.segment_ids = {name: names[each] for name, each in called.items() if each is not None}
        version = self._version(segmentation) if segmentation is not None else None
        plan = Plan.for_prompts(self.parameters, volume, segmentation, version, prompts, run.segment_ids)
        self._begin(run, plan.parts[0], partial(request_of, plan))

    def _take(self, worker: Carrier, event: Event) -> None:
        """One thing that a worker said."""
        grown = self._live.run
        if grown is not None and self._live.takes(worker, event):
            self._take_grown(grown, event)
            self._prepare_at_last()
        run = self._run
        if event.kind == GONE:
            if run is not None and run.worker is worker:
                self._fail(event.message or "The worker ended; nothing is lost, click again.", keep=True)
            return
        if run is None or run.worker is not worker or run.job != event.job:
            return
        if event.kind == "report":
            run.report(event.values)
            self._stale = True
        elif event.kind == "done" and run.kind == learning.KIND:
            self._keep_learned(run, event)
        elif event.kind in ("preview", "done"):
            self._device = str(event.values.get("device", self._device))
            self._show(run, event)
        elif event.kind in ("refused", "failed") and run.direct:  # the next volume may be better
            self._forget_made(run)
            self._end_run(Notice(f"'{run.volume.GetName()}' was left out: {event.message}", "error"))
        elif event.kind in ("refused", "failed"):
            self._fail(event.message, keep=event.kind == "failed")
        elif event.kind == "cancelled":
            self._end_run(Notice("Cancelled; nothing was changed."))

    def _keep_learned(self, run: Run, event: Event) -> None:
        """Prompts for other volumes came."""
        prompts = requests.prompts_of(event)
        run.note = str(event.values.get("note", ""))
        node = learning.keep(self.scene, run.segmentation, prompts, run.tag)
        text = Sentence(
            "'{node}' have learned from {examples}; segment other volumes with them.",
            node=node.GetName(),
            examples=taught_by(prompts),
        )
        self._end_run(run.told(" ".join([text, *event.values.get("notes", [])])))

    def _grow(self) -> None:
        """Begin to grow what is painted; prompts and further examples have nothing to do with it."""
        volume, segmentation = self._volume(), self._segmentation()
        self._results.finish()
        version = self._results.memory.of(segmentation)
        version = replace(version, prompts=None) if version is not None else None
        try:
            plan = plan_tuning(self.parameters, volume, segmentation, version, ())
        except PromptSegError as error:
            self._notice = Notice(str(error), "warning")
            return
        run = Run(live.KIND, volume, segmentation)
        self._describe(run, plan.parts[0])
        self._live.begin(run, plan)

    def _step_live(self) -> None:
        """Send what is to be grown; what goes wrong with it is one quiet sentence, as it is tried again and again."""
        try:
            if self._live.step(self.parameters):
                self._drop_grown()
        except PromptSegError as error:
            self._notice = Notice(str(error), "warning")
        self._prepare_at_last()

    def _prepare_at_last(self) -> None:
        if self._live.prepares and not self._live.busy:
            self._live.prepares = False
            self.prepare()

    def _take_grown(self, run: Run, event: Event) -> None:
        """What the worker said of what it grows."""
        if event.kind in ("preview", "done"):
            if requests.image_of(run.volume).key != run.key:
                self._live.stop()
                return
            self._device = str(event.values.get("device", self._device))
            arrived = self._results.arrive(run, requests.segmentation_of(event), None, event.kind == "done")
            self._notice = arrived or (
                self._notice if self._notice.level == "error" else Notice()
            )  # what it told is past
            self._changed()
        elif event.kind in ("refused", "failed", GONE) and event.message:
            self._notice = Notice(event.message, "warning")

    def _drop_grown(self) -> None:
        """Forget what was grown, and what is growing."""
        self._live.stop()
        if self._results.result is not None and self._results.result.run.kind == live.KIND:
            self._results.drop()
            self._changed()

    def _note_missed(self, run: Run) -> None:
        """Note that something was painted that a tuning does not know of."""
        segmentation = self._segmentation()
        if run.kind != "tune" or run.segmentation is not segmentation or run.painting is None or run.missed:
            return
        roles = ("tune", "background")
        ids = [each.id for each in segments(segmentation) if each.role in roles and not each.is_empty]
        run.missed = bool(repainted(run.painting, painting.look(segmentation, run.volume, ids)))
        if run.missed and self._run is None:
            self._notice = Notice(_MISSED)

    def _fail(self, message: str, keep: bool = False) -> None:
        """The job has come to nothing: the scene is as it was before it.

        :param keep: leave the preview, which is as good as it was: what went wrong has nothing to do with it.
        """
        self._queue.clear()
        if not keep:
            self._results.drop()
        if self._run is not None:
            self._forget_made(self._run)
        self._end_run(Notice(message, "error"))

    def _show(self, run: Run, event: Event) -> None:
        """A preview or the result came."""
        try:
            same = requests.image_of(run.volume).key == run.key
        except PromptSegError:
            same = False
        if not same:
            self._engine.cancel(run)
            self._fail(
                Sentence(
                    "The voxels of '{volume}' changed meanwhile; click again for the new ones.",
                    volume=run.volume.GetName(),
                )
            )
            return
        prompts = requests.prompts_of(event) if "prompts" in event.arrays else run.prompts
        raw, final = requests.segmentation_of(event), event.kind == "done"
        run.note = str(event.values.get("note", ""))
        if final:
            seconds = time.monotonic() - run.began
            if run.volume is self._volume():
                self._places.remember(run.volume, raw.places, requests.map_of(event), raw.place_classes)
            text: str = Sentence(
                "Done in {seconds:.0f} s. Apply takes the preview into the segmentation, Discard forgets it.",
                seconds=seconds,
            )
            if run.kind == "segment":
                text = Sentence(
                    "Segmented '{volume}' in {seconds:.0f} s. Apply takes the preview, Discard forgets it.",
                    volume=run.volume.GetName(),
                    seconds=seconds,
                )
            text += f" {_MISSED}" if run.missed else ""
            self._end_run(Notice() if run.direct else run.told(" ".join([text, *raw.notes])))
        other = requests.full_of(event)
        self._notice = self._results.arrive(run, raw, prompts, final, other) or self._notice
        self._changed()

    def _leave(self) -> None:
        """Stop and forget what belongs to the present volume."""
        self._live.stop()
        self._notice = Notice()  # it was about what was shown
        if self._segmentation() is not None:
            self._history_of(self._segmentation()).leave()
        # What is learned for other volumes goes on while the user turns to them.
        volume, running = self._volume(), self._run is not None and self._run.kind != learning.KIND
        if running:
            self._stop(Notice("Cancelled; nothing was changed."))
        if self._results.park() and volume is not None:
            stopped = "The job was stopped. " if running else ""
            self._notice = Notice(
                Sentence(
                    "{stopped}The preview waits with '{volume}'; choose that again to apply it.",
                    stopped=stopped,
                    volume=volume.GetName(),
                )
            )
        if self._places.shown:
            self._places.show(False)

    def _arrive(self) -> None:
        """Another volume or segmentation was chosen: what waits with it is shown."""
        self._follow()
        self._notice = self._results.unpark(self._volume(), self._segmentation()) or self._notice

    def _on_removed(self, node) -> None:
        self._live.removed(node)
        shown, run = self._results.result, self._run
        if run is not None and node in (run.volume, run.segmentation):
            self._stop(
                Notice(Sentence("'{node}' was removed, so the job was stopped.", node=node.GetName()), "warning")
            )
        self._results.removed(node)
        if shown is not None and self._results.result is None and run is None:
            self._notice = Notice()  # it was about what is gone
        self._rescue.removed(node)
        self._places.forget(node)
        self._histories.pop(node.GetID() or "", None)
        self._changed()

    def _renew(self) -> None:
        """What an earlier version kept in the scene, as this one does: hidden nodes can spoil a saved scene."""
        with self._refusing(quiet=True):
            memory.renew(self.scene)
            prompt_nodes.renew(self.scene)

    def _on_closing(self) -> None:
        self._live.stop()
        if self._run is not None:
            self._stop(Notice())
        self._queue.clear()
        self._results.forget()
        self._rescue.saved()
        self._histories.clear()
        self._places.forget()
        self._places.shown = False
        self._curve, self._notice = (), Notice()
