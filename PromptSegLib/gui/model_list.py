"""The models to choose from, with what a user wants to know before choosing; downloading and deleting them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Union

from ..errors import PromptSegError, Sentence
from ..models import catalogue, own
from ..models.download import delete, download
from ..progress import Cancelled, ProgressHandle, Report
from ..session.actions import Level, Notice
from ..session.job import Future


@dataclass(frozen=True)
class ModelRow:
    """A model of the catalogue, or a file of the user's, of which little is known.

    :param key: as in the parameters.
    :param expected: seconds to segment a large CT, by ``cpu`` and ``gpu``, where that was measured.
    :param megabytes: of its weights; 0 where it is not known.
    :param bundled: part of PromptSeg, or a file that the user put there: it is not deleted from the panel.
    :param own: made by a user, with PromptSeg.
    """

    key: str
    title: str
    modality: str
    classes: tuple[str, ...]
    licence: str
    expected: Mapping[str, float]
    megabytes: float
    installed: bool
    bundled: bool
    own: bool = False


def rows(model: str = "") -> tuple[ModelRow, ...]:
    """The catalogue in its order, the first is the default; then the chosen model where it is a file."""
    found = [_row(entry.name, entry) for entry in catalogue.entries()]
    if model and all(row.key != model for row in found):
        path = Path(model)
        known = catalogue.Entry(path.stem, path, title=path.stem)
        found.append(_row(model, known))
    return tuple(found)


def chosen(found: tuple[ModelRow, ...], model: str) -> ModelRow:
    """The row of a model as it is in the parameters; "" is the first."""
    return next((row for row in found if row.key == model), found[0])


def _row(key: str, entry: catalogue.Entry) -> ModelRow:
    return ModelRow(
        key,
        entry.title or entry.name,
        entry.modality,
        entry.classes,
        entry.licence,
        entry.expected,
        entry.size / 1e6,
        entry.installed,
        entry.bundled and not own.is_own(entry),
        own.is_own(entry),
    )


class ModelFiles:
    """One download at a time, in a thread. Call :meth:`poll` some times a second while :attr:`running`.

    :ivar notice: how the last download or deletion ended.
    """

    def __init__(self) -> None:
        self.notice = Notice()
        self._task: Optional[Future] = None
        self._last = Report("", 0.0)
        self._cancelled = False

    @property
    def running(self) -> bool:
        return self._task is not None

    @property
    def share(self) -> float:
        """How much has arrived, 0..1."""
        return self._last.share

    @property
    def stage(self) -> str:
        """What is going on, a few words with megabytes; "" when nothing is."""
        figures = self._last.figures
        if self._task is None:
            return ""
        return f"{figures['megabytes']:.0f} of {figures['of']:.0f} MB" if "of" in figures else self._last.stage

    def download(self, name: str) -> None:
        """Begin to download the catalogue's model of that name; does nothing while another is on its way."""
        if self.running:
            return
        self._cancelled, self._last, self.notice = False, Report("", 0.0), Notice()
        job = ProgressHandle(self._take, lambda: self._cancelled)
        self._task = Future(lambda: download(catalogue.find_name(name), job))

    def cancel(self) -> None:
        """Stop the download; what has come is kept, and the next one goes on there."""
        self._cancelled = True

    def delete(self, name: str) -> None:
        """Delete what was downloaded of a model, or a model that the user made."""
        try:
            if own.finished(name) is not None:
                own.delete(name)
            else:
                delete(catalogue.find_name(name))
            self.notice = Notice("Deleted the model's files.")
        except PromptSegError as error:
            self.notice = Notice(str(error), Level.ERROR)

    def give_away(self, name: str, path: Union[str, Path]) -> None:
        """Write a model that the user made as one file."""
        try:
            written = own.share(catalogue.find_name(name), Path(path))
            text = Sentence("Wrote {name}; its card names the volumes that it learned from.", name=written.name)
            self.notice = Notice(text)
        except PromptSegError as error:
            self.notice = Notice(str(error), Level.ERROR)

    def take(self, path: Union[str, Path]) -> None:
        """Add a model that somebody shared."""
        try:
            entry = own.add(Path(path))
            self.notice = Notice(Sentence("Added {title}; choose it in the list of models.", title=entry.title))
        except PromptSegError as error:
            self.notice = Notice(str(error), Level.ERROR)

    def poll(self) -> bool:
        """Whether a download is still on its way."""
        if self._task is not None and self._task.done:
            task, self._task = self._task, None
            try:
                entry = task.result()
                self.notice = Notice(Sentence("Downloaded {title}.", title=entry.title or entry.name))
            except Cancelled:
                self.notice = Notice("The download was cancelled; click Download to go on where it stopped.")
            except PromptSegError as error:
                self.notice = Notice(str(error), Level.ERROR)
        return self.running

    def _take(self, report: Report) -> None:
        self._last = report
