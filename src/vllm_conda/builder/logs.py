"""One log file a package, and the stage that a line of it announces."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import TracebackType

from vllm_conda.paths import disk_errors
from vllm_conda.progress import Mode, Task

_NINJA = re.compile(r"^\[(\d+)/(\d+)\]")
_STAGES = (
    (re.compile(r"^Restoring staging cache"), "restore the staging build"),
    (re.compile(r"^Building new staging cache"), "set up the environments"),
    (re.compile(r"^Successfully updated the host environment|^✔ .*host environment"), "configure"),
    (re.compile(r"^Restored \d+ files from staging"), "package"),
    (re.compile(r"^Copying done"), "check linking"),
    (re.compile(r"^Compressing archive"), "compress"),
    (re.compile(r"^Running test|^Running tests"), "test"),
)
_PLAIN_STEPS = 10


class JobLog:
    """Writes every line of a worker to a file and shows the stage it is in."""

    def __init__(self, path: Path, task: Task) -> None:
        self.path, self.task = path, task
        self.lines: list[str] = []
        self._seen: set[str] = set()
        self._shown = -1

    def __enter__(self) -> JobLog:
        with disk_errors("the log", self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def event(self, event: dict[str, object]) -> None:
        """Take one worker event."""
        stamp = time.strftime("%H:%M:%S")
        for line in str(event.get("message", "")).splitlines():
            self.lines.append(line)
            with disk_errors("the log", self.path):
                self._stream.write(f"{stamp} {line}\n")
                self._stream.flush()
            self._show(line)

    def _show(self, line: str) -> None:
        ninja = _NINJA.match(line)
        if ninja:
            done, total = int(ninja[1]), int(ninja[2])
            # Plain output gets a tenth of the steps a line, a bar all of them.
            step = done * _PLAIN_STEPS // max(total, 1)
            if self.task.reporter.mode is Mode.BARS or step != self._shown:
                self._shown = step
                self.task.status(f"compile {done}/{total}")
            return
        for pattern, stage in _STAGES:
            if pattern.match(line.strip()) and stage not in self._seen:
                self._seen.add(stage)
                self.task.status(stage)
