"""Running workers, and ending what a killed run left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vllm_conda.paths import write_atomic
from vllm_conda.processes import guarded, signal_name
from vllm_conda.structure import load_json

_GRACE_SECONDS = 3.0

Event = dict[str, Any]


def run_worker(
    request: Mapping[str, Any],
    folder: Path,
    environment: Mapping[str, str],
    on_event: Callable[[Event], None],
) -> Event:
    """Run one worker and return its ``result`` or ``error`` event.

    Args:
        folder: Workspace; ``session.json`` in it names the running session.
        on_event: Called for every other event.
    """
    last: Event = {}
    with guarded(
        [sys.executable, "-m", "vllm_conda.builder.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        start_new_session=True,
        text=True,
        errors="replace",
    ) as process:
        try:
            write_atomic(folder / "session.json", json.dumps({"session": process.pid}))
            for line in _converse(process, json.dumps(request)):
                event = _parse(line)
                if event["event"] in ("result", "error"):
                    last = event
                else:
                    on_event(event)
            process.wait()
        finally:
            (folder / "session.json").unlink(missing_ok=True)
    if not last:
        reason = f"ended with code {process.returncode}"
        if name := signal_name(process.returncode):
            reason = f"was killed by {name}"
        last = {"event": "error", "message": f"the build process {reason}", "kind": "Killed"}
    return last


def _converse(process: subprocess.Popen[str], request: str) -> Iterator[str]:
    if process.stdin is None or process.stdout is None:
        raise ValueError("the worker was started without pipes")
    with suppress(BrokenPipeError):  # it died at once; its exit code says so
        process.stdin.write(request)
        process.stdin.close()
    yield from process.stdout


def _parse(line: str) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and "event" in event:
        return event
    return {"event": "log", "level": "info", "message": line.rstrip("\n")}


def end_orphans(folder: Path) -> int:
    """End the processes that a killed run left compiling in ``folder``; return how many.

    Their guard does it too, unless it was killed at the same time.
    Only processes of the recorded session whose working folder is inside ``folder`` are
    touched, so that a reused process id is never mistaken for ours.
    """
    try:
        session = int(load_json((folder / "session.json").read_bytes())["session"])
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return 0
    count = _end_session(session, folder)
    (folder / "session.json").unlink(missing_ok=True)
    return count


def _end_session(session: int, folder: Path) -> int:
    members = _members(session, folder)
    for number, wait in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS)):
        for pid in _members(session, folder):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + wait
        while _members(session, folder) and time.monotonic() < deadline:
            time.sleep(0.02)
    return len(members)


def _members(session: int, folder: Path) -> list[int]:
    """Live processes of ``session`` that work inside ``folder``, or the worker itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            if os.getsid(pid) != session:
                continue
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            inside = (entry / "cwd").readlink().is_relative_to(folder)
            worker = b"vllm_conda.builder.worker" in (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if state != "Z" and (inside or worker):
            found.append(pid)
    return found
