"""Progress of long work: bars on a terminal, one plain line a step elsewhere, JSON on request."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)


class Mode(Enum):
    BARS = "bars"
    PLAIN = "plain"
    JSON = "json"


class Task:
    """One unit of work. ``advance`` moves it by bytes, ``status`` names its stage."""

    def __init__(self, reporter: Reporter, name: str, total: float | None) -> None:
        self.reporter, self.name, self.total = reporter, name, total
        self.done = 0.0
        self.started = time.monotonic()
        self.bar: TaskID | None = None

    def advance(self, amount: float) -> None:
        self.done += amount
        self.reporter._update(self)

    def status(self, stage: str) -> None:
        self.reporter._stage(self, stage)


class Reporter:
    """Where progress goes. Thread-safe as far as rich and one ``write`` per line are.

    With ``Mode.JSON`` every event is one JSON object a line on standard error, so that
    standard output holds only the command's JSON result.
    """

    def __init__(self, mode: Mode | None = None, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.console = Console(file=self.stream)
        self.mode = mode or (Mode.BARS if self.console.is_terminal else Mode.PLAIN)
        self._progress: Progress | None = None

    def __enter__(self) -> Reporter:
        if self.mode is Mode.BARS:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[amount]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[stage]}"),
                console=self.console,
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def line(self, text: str, **fields: Any) -> None:
        """Print one line (or one JSON event with ``fields``)."""
        if self.mode is Mode.JSON:
            self._write(json.dumps({"event": "line", "text": text, **fields}))
        elif self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            self._write(text)

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:
        """Context of one task; prints start and end in plain mode."""
        task = Task(self, name, total)
        if self._progress is not None:
            task.bar = self._progress.add_task(name, total=total, stage="", amount="")
        try:
            yield task
        finally:
            seconds = time.monotonic() - task.started
            failed = sys.exc_info()[0] is not None
            if self._progress is not None and task.bar is not None:
                self._progress.remove_task(task.bar)
            if self.mode is Mode.JSON:
                event = {"event": "end", "task": name, "seconds": round(seconds, 3)}
                self._write(json.dumps({**event, "ok": not failed}))
            else:
                self.line(f"{'FAILED' if failed else 'done':>6}  {name}  {seconds:.1f}s")

    def _update(self, task: Task) -> None:
        if self._progress is not None and task.bar is not None:
            # Only downloads and packages count something, and they count bytes.
            total = f"/{decimal(int(task.total))}" if task.total else ""
            amount = f"{decimal(int(task.done))}{total}"
            self._progress.update(task.bar, completed=task.done, amount=amount)

    def _stage(self, task: Task, stage: str) -> None:
        if self._progress is not None and task.bar is not None:
            self._progress.update(task.bar, stage=stage)
        elif self.mode is Mode.JSON:
            self._write(json.dumps({"event": "stage", "task": task.name, "stage": stage}))
        else:
            self._write(f"        {task.name}: {stage}")

    def _write(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()
