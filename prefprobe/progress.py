"""What a person sees of a run, and how a run is asked to stop: bars on a terminal, plain lines anywhere else.

In a pod of Argo the count also goes to the file that Argo names, and from there to its interface.
"""

import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from prefprobe.errors import TemporaryFailure

if TYPE_CHECKING:  # rich is loaded on a terminal alone
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_LINE_EVERY = 10.0  # seconds between plain lines of one step
_FILE_EVERY = 1.0  # and between counts for Argo, which looks every three seconds


class Stopped(TemporaryFailure):
    """Asked to stop by a signal; everything finished so far is saved."""


class Progress:
    """Shows steps and counts within them; `advance` is also where a requested stop takes effect."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._console = _terminal(self._out)
        self._stop = 0
        self._bars: Bars | None = None
        self._bar: TaskID | None = None
        self._prefix = ""
        self._unit = ""
        self._total = self._done = self._resumed = 0
        self._started = self._shown = self._written = 0.0
        self._file = os.environ.get("ARGO_PROGRESS_FILE")

    @classmethod
    def silent(cls) -> "Progress":
        """Shows nothing."""
        return cls(io.StringIO())

    @contextmanager
    def catching_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the run after the part in work; a second Ctrl-C ends it at once."""

        def ask(number: int, _frame: FrameType | None) -> None:
            if self._stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = number
            self.line("stopping after the part in work …")

        before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check_stop(self) -> None:
        """Raise Stopped if a signal asked for it; call it where everything done so far is saved."""
        if self._stop:
            name = signal.Signals(self._stop).name
            raise Stopped(f"stopped by {name}; what is finished is saved, and the same command goes on from there.")

    def line(self, text: str) -> None:
        """One plain line, above the bars where there are any."""
        if self._console is None:
            self._out.write(f"{text}\n")
            self._out.flush()
        else:
            self._console.print(text, markup=False)

    @contextmanager
    def step(self, prefix: str) -> Iterator[None]:
        """Everything counted inside belongs to this step."""
        self._prefix, self._total = prefix, 0
        try:
            yield
        finally:
            if self._bars is not None:
                self._bars.stop()
            self._bars = self._bar = None

    def start(self, total: int, unit: str, resumed: int = 0) -> None:
        """Count `total` of something, `resumed` of which were done by an earlier process."""
        self._total, self._unit, self._done, self._resumed = total, unit, resumed, resumed
        self._started = self._shown = time.monotonic()
        if self._console is not None:
            if self._bars is None:
                from rich.progress import BarColumn, TextColumn
                from rich.progress import Progress as Bars

                columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[rate]}"))
                self._bars = Bars(*columns, console=self._console, transient=True)
                self._bars.start()
            if self._bar is not None:
                self._bars.remove_task(self._bar)
            self._bar = self._bars.add_task(self._prefix, total=total, completed=resumed, rate=self._rate())
        self._write_count()
        if resumed:
            self.line(f"{self._prefix}  {resumed} of {total} {unit} were already saved")

    def advance(self, n: int) -> None:
        """`n` more are done and saved."""
        self._done += n
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, completed=self._done, rate=self._rate())
        elif time.monotonic() - self._shown > _LINE_EVERY:
            self._shown = time.monotonic()
            self.line(f"{self._prefix}  {self._rate()}")
        if self._done == self._total or time.monotonic() - self._written > _FILE_EVERY:
            self._write_count()
        self.check_stop()

    def _write_count(self) -> None:
        if self._file and self._total:
            self._written = time.monotonic()
            Path(self._file).write_text(f"{self._done}/{self._total}\n")

    def _rate(self) -> str:
        seconds = time.monotonic() - self._started
        count = f"{self._done}/{self._total} {self._unit}"
        if self._done <= self._resumed or seconds <= 0:
            return count
        rate = (self._done - self._resumed) / seconds
        left = int((self._total - self._done) / rate)
        return f"{count}  {rate:.1f}/s  {left // 60}:{left % 60:02d} left"


def _terminal(out: TextIO) -> "Console | None":
    """A console for bars; None where nobody watches."""
    if not out.isatty():
        return None
    from rich.console import Console

    return Console(file=out, highlight=False, soft_wrap=True)
