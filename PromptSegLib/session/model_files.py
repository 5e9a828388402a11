"""Downloading and deleting models while the user goes on working."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Union

from ..errors import PromptSegError, Sentence
from ..models import catalogue, own
from ..models.download import delete, download
from ..progress import Cancelled, Job, Report
from .running import Task
from .view import Notice


class ModelFiles:
    """One download at a time, in a thread. Call :meth:`poll` some times a second while :attr:`running`.

    :ivar notice: how the last download or deletion ended.
    """

    def __init__(self) -> None:
        self.notice = Notice()
        self._task: Optional[Task] = None
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
        job = Job(self._take, lambda: self._cancelled)
        self._task = Task(lambda: download(catalogue.find_name(name), job))

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
            self.notice = Notice(str(error), "error")

    def give_away(self, name: str, path: Union[str, Path]) -> None:
        """Write a model that the user made as one file."""
        try:
            written = own.share(catalogue.find_name(name), Path(path))
            self.notice = Notice(
                Sentence("Wrote {name}; its card names the volumes that it learned from.", name=written.name)
            )
        except PromptSegError as error:
            self.notice = Notice(str(error), "error")

    def take(self, path: Union[str, Path]) -> None:
        """Add a model that somebody shared."""
        try:
            entry = own.add(Path(path))
            self.notice = Notice(Sentence("Added {title}; choose it in the list of models.", title=entry.title))
        except PromptSegError as error:
            self.notice = Notice(str(error), "error")

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
                self.notice = Notice(str(error), "error")
        return self.running

    def _take(self, report: Report) -> None:
        self._last = report
