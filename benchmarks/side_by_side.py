"""Benchmarks on a CPU with many cores: several at once, each pinned to cores of its own.

A family's cases are divided over processes that record apart; in the end their documents become
one. Memory and caches that cores share are shared: each case's contenders run on the same cores
within one process, so ratios remain what they are, and rates are those beside busy neighbours.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from benchmarks.record import ROOT, Document, KernelCase, kernels

POLL_SECONDS = 0.1
# Between the signal to end and the one that nothing survives.
GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Run:
    """A benchmark's process."""

    title: str
    command: tuple[str, ...]
    environment: Mapping[str, str]

    def part(self, index: int, count: int, folder: Path) -> Run:
        """One of `count` processes that share the cases and write to folders of their own."""
        options = ("--part", f"{index + 1}/{count}", "--results", str(folder / str(index)))
        # Its core has no room for workers that compile.
        environment = {**self.environment, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        title = f"{self.title}, {index + 1} of {count}" if count > 1 else self.title
        return Run(title, self.command + options, environment)


@dataclass(frozen=True)
class Started:
    """A run on its cores, whose output goes to a file."""

    run: Run
    cores: tuple[int, ...]
    process: subprocess.Popen[bytes]
    output: Path

    def end(self) -> None:
        """End it with all that it has started."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def cores_of(text: str) -> tuple[int, ...]:
    """The numbers in "0-3,8", each of a core that this process may use."""
    found: list[int] = []
    for word in text.split(","):
        first, _, last = word.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    if not found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text} names no core, or one twice")
    if missing := set(found) - os.sched_getaffinity(0):
        raise argparse.ArgumentTypeError(f"this process may not use core {min(missing)}")
    return tuple(found)


def slots_of(cores: Sequence[int], threads: int) -> list[tuple[int, ...]]:
    """As many groups of so many neighbouring cores as there are."""
    ends = range(threads, len(cores) + 1, threads)
    return [tuple(cores[end - threads : end]) for end in ends]


def side_by_side(
    runs: Iterable[Run],
    slots: Sequence[tuple[int, ...]],
    parts: int,
    seconds: float | None,
    results: Path,
) -> int:
    """Run all in their order, as slots are free; the exit code of the last one that failed.

    What still runs after so many seconds is ended, what waits is not started, and what was
    measured until then is recorded.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        waiting = deque(run.part(index, parts, folder) for run in runs for index in range(parts))
        code = _run_all(waiting, slots, seconds, folder)
        for document in merged([kernels(folder / str(index)) for index in range(parts)]):
            note = f"{len(slots)} processes at once, each on cores of its own. {document.note}"
            whole = dataclasses.replace(document, note=note.strip())
            print(f"figures: {whole.write(results)}")
    return code


def _run_all(
    waiting: deque[Run], slots: Sequence[tuple[int, ...]], seconds: float | None, folder: Path
) -> int:
    deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
    free, running, failed, number = list(slots), list[Started](), 0, 0
    try:
        while running or (waiting and time.monotonic() < deadline):
            while waiting and free and time.monotonic() < deadline:
                output = folder / f"output-{number}"
                running.append(_start(waiting.popleft(), free.pop(0), output))
                number += 1
            time.sleep(POLL_SECONDS)
            late = time.monotonic() >= deadline
            for one in list(running):
                if (done := one.process.poll()) is None and not late:
                    continue
                if done is None:
                    one.end()
                running.remove(one)
                free.append(one.cores)
                failed = done or failed
                state = "" if done == 0 else ", cut" if done is None else f", exit code {done}"
                print(f"== {one.run.title}{state}\n{one.output.read_text()}", flush=True)
    finally:
        for one in running:
            one.end()
    for run in waiting:
        print(f"== {run.title}, not started", flush=True)
    return failed


def _start(run: Run, cores: tuple[int, ...], output: Path) -> Started:
    with output.open("wb") as file:
        process = subprocess.Popen(
            run.command,
            cwd=ROOT,
            env=run.environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    return Started(run, cores, process, output)


def merged(parts: Sequence[Sequence[Document[KernelCase]]]) -> list[Document[KernelCase]]:
    """One document of those of all parts that belong to one file, its cases in their order."""
    by_path: dict[Path, list[Document[KernelCase]]] = {}
    for document in chain.from_iterable(parts):
        by_path.setdefault(document.path, []).append(document)
    return [_one(documents) for documents in by_path.values()]


def _one(documents: Sequence[Document[KernelCase]]) -> Document[KernelCase]:
    in_order = chain.from_iterable(zip_longest(*(one.cases for one in documents)))
    rates = [one.read_bytes_per_s for one in documents if one.read_bytes_per_s]
    return dataclasses.replace(
        documents[0],
        cases=tuple(case for case in in_order if case is not None),
        read_bytes_per_s=statistics.median(rates) if rates else None,
    )
