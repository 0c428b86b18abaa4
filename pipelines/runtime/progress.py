"""How far a loop is: a bar with rate and remaining time on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_EVERY_S = 15.0
LINE_SHARE = 0.1
LINE_AT_LEAST_S = 2.0


class RateColumn(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        """The rate as text, empty while unknown."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="dim")


def values_text(values: Mapping[str, float]) -> str:
    """Values in one line: "loss 0.31  val 9.2"."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def duration_text(seconds: float) -> str:
    """Seconds as "42 s", "3 min 20 s" or "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Meter:
    """Shows one loop at a time on a console; `update` is called by the loop's LogFn."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.name = ""
        self.values: dict[str, float] = {}
        self.start_step, self.start_s, self.line_step, self.line_s = 0, 0.0, 0, 0.0

    def update(self, name: str, step: int, values: Mapping[str, float], total: int) -> None:
        """Loop `name` has done `step` of `total` steps."""
        if name != self.name:
            self._begin(name, step, total)
        self.values |= values
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=step, total=total, values=values_text(self.values))
        else:
            self._line(step, total)
        if step >= total:
            self.stop()

    def stop(self) -> None:
        """Leave the bar as it stands; a later update starts a new one."""
        if self.bar is not None:
            self.bar.stop()
        self.bar, self.task, self.name, self.values = None, None, "", {}

    def _begin(self, name: str, step: int, total: int) -> None:
        self.stop()
        self.name = name
        self.start_step = self.line_step = step
        self.start_s = self.line_s = time.monotonic()
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                RateColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[values]}", style="dim"),
                console=self.console,
            )
            self.bar.start()
            self.task = self.bar.add_task(name, total=total, completed=step, values="")

    def _line(self, step: int, total: int) -> None:
        now = time.monotonic()
        quiet = now - self.line_s
        moved = (step - self.line_step) / max(1, total)
        due = quiet >= LINE_EVERY_S or (moved >= LINE_SHARE and quiet >= LINE_AT_LEAST_S)
        if not (due or step >= total):
            return
        passed = now - self.start_s
        rate = (step - self.start_step) / passed if passed > 0 else 0.0
        left = f", {duration_text((total - step) / rate)} left" if rate > 0 and step < total else ""
        speed = f", {rate:.3g}/s" if rate > 0 else ""
        numbers = f": {values_text(self.values)}" if self.values else ""
        self.console.print(
            f"{self.name} {step}/{total}{speed}{left}{numbers}", markup=False, highlight=False, soft_wrap=True
        )
        self.line_step, self.line_s = step, now
