"""How long jobs report and stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Optional


class Cancelled(Exception):
    """The user cancelled; nothing was changed."""


@dataclass(frozen=True)
class Report:
    """One message of a running job.

    :param stage: what is being done, a few words.
    :param share: how much of the job is done, 0..1.
    :param figures: numbers worth showing: ``loss``, ``agreement`` (on slices that were held back; nan where none
        were), ``step``, ``left`` (seconds until the job's result).
    """

    stage: str
    share: float
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ProgressHandle:
    """What a caller hands to a long job: where reports go and when to stop. Both may be None."""

    on_report: Optional[Callable[[Report], None]] = None
    is_cancelled: Optional[Callable[[], bool]] = None

    def report(self, stage: str, share: float, **figures: float) -> None:
        """Send a report, then raise :class:`Cancelled` if the caller wants the job to end."""
        if self.on_report:
            self.on_report(Report(stage, min(max(share, 0.0), 1.0), figures))
        self.check()

    def check(self) -> None:
        if self.is_cancelled and self.is_cancelled():
            raise Cancelled

    def part(self, start: float, stop: float) -> ProgressHandle:
        """The same job, seen by a stage that spans ``start``..``stop`` of it."""
        if not self.on_report:
            return self
        send = self.on_report

        def scaled(report: Report) -> None:
            send(Report(report.stage, start + (stop - start) * report.share, report.figures))

        return ProgressHandle(scaled, self.is_cancelled)
