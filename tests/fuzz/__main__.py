"""Fuzz the ops: valid, spoilt and arbitrary calls on guarded memory, against the references.

    python -m tests.fuzz --seconds 60                      # every family of the CPU
    python -m tests.fuzz --family rope --calls 100000 --batch 5000 --jobs 8
    python -m tests.fuzz --family gemm --seed 17 --calls 500     # a reported batch again
    python -m tests.fuzz --device cuda --sanitizer memcheck --calls 10000 --jobs 16
    export VLLM_FUZZ_CORPUS=corpus.pt  # recorded here
    python -m tests.fuzz --device cuda --calls 10000 --write-calls calls.json --jobs 8  # and there:
    python -m tests.fuzz --device cuda --calls 10000 \\
        --read-calls calls.json --jobs 12 --report counts.json

Batches run in processes of their own, so that a crash or a hang ends one batch and is reported with
its seed and its call. For a GPU the calls of tests/kernels/cuda are recorded first, which needs
none, into VLLM_FUZZ_CORPUS where it names a file; where that is there already, it serves, and a
seed brings the same calls back. Needs the kernels' libraries (VLLM_KERNELS_LIBRARY_DIR), and
hypothesis unless the calls are read from a file. Exit code: 1 where there was a fault.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import calls, checks, corpus, draws, record, worker
from .guard import processes

ROOT = record.ROOT
# A process starts in two seconds, which a minute's run over all families can spend once on each.
BATCH = 500
# No call takes long by itself; machines are shared.
HANG_SECONDS = 120
# What a process may need after the time is over, for its last call.
LATE_SECONDS = 5
SANITIZER_FOUND = 66
# What a sanitizer says of a process that used no GPU, or that died, which is a fault of its own.
NO_FAULT = (
    r"========= (Target application terminated before first instrumented API call"
    r"|Target application returned an error|Error: process didn't terminate successfully"
    r"|ERROR+ SUMMARY)"
)
# In a process's box before its first call, for which importing PyTorch may take long.
STARTING = "starting"


@dataclass
class Report:
    """What the batches of one family found."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    def add(self, other: Report) -> None:
        self.counts.update(other.counts)
        self.faults = other.faults | self.faults

    def summary(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))


def batch(family: str, seed: int, options: argparse.Namespace, gpu: str | None) -> Report:
    """The calls of one seed, in as many processes as it takes; faults with the way back to them."""
    report = Report()
    count = min(options.calls or options.batch, options.batch)
    again = f"--family {family} --seed {seed} --calls {count} --batch {count}"
    begin = 0
    while begin < count:
        found, begin = part(family, seed, begin, count, options, gpu)
        if processes.stop_signal():
            break  # what it died of is ours
        report.counts.update(found.counts)
        for kind, example in found.faults.items():
            report.faults.setdefault(kind, f"[{again}] {example}")
    return report


def part(
    family: str,
    seed: int,
    begin: int,
    count: int,
    options: argparse.Namespace,
    gpu: str | None,
) -> tuple[Report, int]:
    """One process from the call ``begin``; where the next one begins, past ``count`` if nowhere."""
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        box, output = Path(folder) / "box", Path(folder) / "output"
        box.write_text(f"{begin} {STARTING}\0")
        command = [sys.executable, "-m", "tests.fuzz.worker", family, str(seed), str(count)]
        command += [options.device, str(box), "--begin", str(begin)]
        command += ["--until", str(options.until)]
        if options.read_calls:
            command += ["--read-calls", str(options.read_calls.resolve())]
        if options.sanitizer:
            tool = ["compute-sanitizer", "--tool", options.sanitizer, "--kernel-name", "kns=2vk"]
            tool += ["--require-cuda-init", "no", "--print-limit", "100"]
            # CUDA's refusals of what we ask become sentences.
            tool += ["--report-api-errors", "no"]
            # The calls after one that fails are made all the same.
            tool += ["--error-exitcode", str(SANITIZER_FOUND), "--destroy-on-device-error=kernel"]
            command = [*tool, *command, "--exact"]
        with (
            output.open("w+b") as sink,
            processes.guarded(
                command,
                cwd=ROOT,
                env={**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})},
                stdout=sink,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            end = _end(process, box, options)
        text = output.read_text(encoding="utf-8", errors="replace")
        number, call = _in_progress(box)
        so_far = Path(f"{box}.json")
        partly = json.loads(so_far.read_text(encoding="utf-8")) if so_far.is_file() else {}
    answer = next((x for x in reversed(text.splitlines()) if x.startswith('{"counts"')), None)
    found = json.loads(answer) if answer else partly | {"next": number + 1}
    report.counts.update(found.get("counts", {}))
    report.faults.update(found.get("faults", {}))
    if answer is None and end == "late":
        return report, count
    if answer is None:
        kind = "hang" if end == "hang" else processes.signal_name(process.returncode)
        kind = kind or f"exit code {process.returncode}"
        report.counts["hangs" if end == "hang" else "crashes"] += 1
        report.counts["calls"] = number + 1 - begin
        # What PyTorch has to say of an operator is longer than what leads to it.
        last = max(0, min(len(text) - 1500, text.rfind("Traceback (most recent")))
        report.faults[f"{kind}: {call.split('(')[0]}"] = f"{call}\n{text[last:][:4000]}"
        if call == STARTING:  # it would do so again
            return report, count
    if options.sanitizer:
        _add_reported(report, options.sanitizer, text)
        if process.returncode == SANITIZER_FOUND and not report.counts[options.sanitizer]:
            report.faults[f"{options.sanitizer}: at the end"] = text[-1500:]
    return report, found.get("next", count)


def _add_reported(report: Report, tool: str, text: str) -> None:
    """What the tool says, each time after the call that it is about."""
    call, kind = "", ""
    for line in text.splitlines():
        if line.startswith(worker.CALL):
            call, kind = line.removeprefix(worker.CALL), ""
        elif re.match(NO_FAULT, line):
            kind = ""
        elif re.match(r"========= (?! |COMPUTE|ERROR SUMMARY|\w+ SUMMARY)\w", line):
            kind = f"{tool}: {call.partition(': ')[2].split('(')[0]}: {line[10:]}"
            report.counts[tool] += 1
            report.faults.setdefault(kind, f"{call}\n{line}")
        elif kind and line.startswith("=========     ") and len(report.faults[kind]) < 2500:
            report.faults[kind] += f"\n{line}"


def _in_progress(box: Path) -> tuple[int, str]:
    """Number and text of a process's call; 0 and STARTING before the first."""
    number, _, call = box.read_bytes().partition(b"\0")[0].decode(errors="replace").partition(" ")
    return (int(number), call) if number else (0, STARTING)


def _end(process: subprocess.Popen[bytes], box: Path, options: argparse.Namespace) -> str:
    """Wait for the process: "ended", or what makes the caller end it, "hang" or "late"."""
    # By looks of a second each: what pauses the machine spends no patience.
    seen, looks = (0, ""), 0
    while True:
        try:
            process.wait(timeout=1)
            return "ended"
        except subprocess.TimeoutExpired:
            now = _in_progress(box)
            seen, looks = now, looks + 1 if now == seen else 0
            if looks > (HANG_SECONDS if now[1] == STARTING else options.hang_seconds):
                return "hang"
            if time.time() > options.until + LATE_SECONDS:
                return "late"


def positive(text: str) -> int:
    """A type of argparse: an integer above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--family", action="append", help="one family, again for more; else all")
    parser.add_argument("--seconds", type=float, help="stop after this long")
    parser.add_argument("--calls", type=positive, help="calls of each family")
    parser.add_argument("--batch", type=positive, default=BATCH, help="calls of a process")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch; the next are +1")
    parser.add_argument("--jobs", type=positive, default=1, help="batches at once")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--hang-seconds", type=float, default=HANG_SECONDS, help="that one call may last"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="counts and faults of each family, as JSON"
    )
    parser.add_argument("--sanitizer", choices=("memcheck", "initcheck", "synccheck", "racecheck"))
    files = parser.add_mutually_exclusive_group()
    files.add_argument(
        "--write-calls", type=Path, metavar="FILE", help="draw, and make no calls; needs --calls"
    )
    files.add_argument(
        "--read-calls", type=Path, metavar="FILE", help="the calls that --write-calls wrote"
    )
    options = parser.parse_args(arguments)
    known = sorted(calls.families(options.device))
    for family in options.family or ():
        if family not in known:
            parser.error(f"--family: {family} is none of {', '.join(known)}")
    if options.read_calls and not options.read_calls.is_file():
        parser.error(f"--read-calls: there is no file {options.read_calls}")
    if options.write_calls and options.calls is None:
        parser.error("--write-calls: say with --calls how many of each family")
    if options.seconds is None and options.calls is None:
        options.seconds = 60.0
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    processes.stop_on_signals()
    families = options.family or sorted(calls.families(options.device))
    with processes.own_temporary(), tempfile.TemporaryDirectory() as folder:
        if options.device == "cuda" and (not options.write_calls or record.VARIABLE in os.environ):
            path = Path(os.environ.setdefault(record.VARIABLE, str(Path(folder) / "corpus.pt")))
            if not path.is_file():
                record.record(path, record.cuda_tests(), options.jobs)
            elif old := record.misfits(path):
                listed = ", ".join(f"{op} ({count})" for op, count in sorted(old.items()))
                print(f"fuzz: {path}: left out for another schema: {listed}", file=sys.stderr)
        if options.write_calls:
            count = min(options.calls, options.batch)
            numbers = range(options.seed, options.seed - (-options.calls // count))
            if options.device == "cuda" and record.VARIABLE in os.environ:
                checks.write(options.write_calls, families, numbers, count, options.jobs)
                return 0
            ops = {family: corpus.ops_of(family, options.device) for family in families}
            draws.write(options.write_calls, ops, numbers, count, options.device)
            return 0
        if options.sanitizer:
            # Every tensor an allocation of its own, or an overflow would end in a neighbour.
            os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")
        # Threads that spin while they wait take the processors that the other batches need.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        reports = fuzz(families, options)
    for family, report in reports.items():
        print(f"{family}: {report.summary()}; {len(report.faults)} kinds of faults")
        for kind, example in sorted(report.faults.items()):
            print(f"  {kind}\n    {example}")
    return int(any(report.faults for report in reports.values()))


def save(path: Path, reports: dict[str, Report]) -> None:
    """Counts and faults by family, whole at any time."""
    found = {
        family: {"counts": dict(sorted(report.counts.items())), "faults": report.faults}
        for family, report in reports.items()
    }
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(json.dumps(found, indent=1), encoding="utf-8")
    beside.replace(path)


def gpus(device: str) -> list[str] | list[None]:
    """The GPUs over which the jobs are spread, as CUDA_VISIBLE_DEVICES names each."""
    if device == "cpu":
        return [None]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = named.split(",") if named else [str(one) for one in range(torch.cuda.device_count())]
    return found or sys.exit("fuzz: no usable GPU: the driver finds none")


def fuzz(families: Sequence[str], options: argparse.Namespace) -> dict[str, Report]:
    """Batches of each family in turn, or in a file's order, until the calls or the time is over."""
    reports = {family: Report() for family in families}
    options.until = math.inf if options.seconds is None else time.time() + options.seconds

    def left(family: str) -> bool:
        return options.calls is None or reports[family].counts["calls"] < options.calls

    def in_turn() -> Iterator[tuple[str, int]]:
        for seed in itertools.count(options.seed):
            if not any(map(left, families)):
                return
            for family in families:
                yield family, seed

    def written() -> Iterator[tuple[str, int]]:
        for family, seed in draws.batches(options.read_calls):
            if family in reports and seed >= options.seed:
                yield family, seed

    wanted = written() if options.read_calls else in_turn()
    in_time = itertools.takewhile(lambda _: time.time() <= options.until, wanted)
    batches = (one for one in in_time if left(one[0]))
    lock = threading.Lock()

    def work(gpu: str | None) -> None:
        while True:
            with lock:
                family, seed = next(batches, ("", 0))
            if not family:
                return
            found = batch(family, seed, options, gpu)
            with lock:
                new = found.faults.keys() - reports[family].faults.keys()
                reports[family].add(found)
                # Hours of a run are not lost with its end.
                if options.report:
                    save(options.report, reports)
                lines = [f"{family}, seed {seed}: {reports[family].summary()}"]
                lines += [f"  {kind}\n    {found.faults[kind]}" for kind in sorted(new)]
                print(*lines, sep="\n", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        places = itertools.islice(itertools.cycle(gpus(options.device)), options.jobs)
        for running in [pool.submit(work, gpu) for gpu in places]:
            running.result()
    return reports


if __name__ == "__main__":
    raise SystemExit(main())
