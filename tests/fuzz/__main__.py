"""Fuzz the ops: valid, spoilt and arbitrary calls on guarded memory, against the references.

    python -m tests.fuzz --seconds 60                      # every family of the CPU
    python -m tests.fuzz --family rope --calls 100000 --batch 5000 --jobs 8
    python -m tests.fuzz --family gemm --seed 17 --calls 500     # a reported batch again
    python -m tests.fuzz --device cuda --sanitizer memcheck --calls 10000
    python -m tests.fuzz --device cuda --calls 10000 --write-calls calls.json  # and there:
    python -m tests.fuzz --device cuda --calls 10000 --read-calls calls.json

Batches run in processes of their own, so that a crash or a hang ends one batch and is reported with
its seed and its call. On a GPU the calls of tests/kernels/cuda are recorded first. Needs the
kernels' libraries (VLLM_KERNELS_LIBRARY_DIR), and hypothesis unless the calls are read from a file.
Exit code: 1 where there was a fault.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
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

from . import calls, corpus, draws

ROOT = Path(__file__).resolve().parents[2]
# A process starts in two seconds, which a minute's run over all families can spend once on each.
BATCH = 500
# No call takes long by itself; machines are shared.
HANG_SECONDS = 120
CORPUS = "VLLM_FUZZ_CORPUS"
SANITIZER_FOUND = 66


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


def batch(family: str, seed: int, options: argparse.Namespace) -> Report:
    """One process; its faults with the seed that brings them back."""
    report = Report()
    count = min(options.calls or options.batch, options.batch)
    again = f"--family {family} --seed {seed} --calls {count} --batch {count}"
    with tempfile.TemporaryDirectory() as folder:
        box, output = Path(folder) / "box", Path(folder) / "output"
        box.write_bytes(b"0 starting\0")
        command = [sys.executable, "-m", "tests.fuzz.worker", family, str(seed), str(count)]
        command += [options.device, str(box)]
        if options.read_calls:
            command += ["--read-calls", str(options.read_calls.resolve())]
        if options.sanitizer:
            tool = ["compute-sanitizer", "--tool", options.sanitizer, "--kernel-name", "kns=2vk"]
            tool += ["--require-cuda-init", "no", "--print-limit", "5"]
            command = [*tool, "--error-exitcode", str(SANITIZER_FOUND), *command]
        with output.open("w+b") as sink:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
            hung = not _finished(process, box)
            sink.seek(0)
            text = sink.read().decode(errors="replace")
        number, _, call = box.read_bytes().split(b"\0")[0].decode(errors="replace").partition(" ")
    if hung or process.returncode != 0:
        kind = "hang" if hung else _name(process.returncode)
        report.counts["hangs" if hung else "crashes"] += 1
        report.counts["calls"] += int(number or 0)
        kind = f"{kind}: {call.split('(')[0]}"
        report.faults.setdefault(kind, f"[{again}] {call}\n{text[-1500:]}")
        return report
    found = json.loads(text.strip().splitlines()[-1] if not options.sanitizer else _line(text))
    report.counts.update(found["counts"])
    for kind, example in found["faults"].items():
        report.faults.setdefault(kind, f"[{again}] {example}")
    return report


def _line(text: str) -> str:
    return next(line for line in reversed(text.splitlines()) if line.startswith('{"counts"'))


def _name(code: int) -> str:
    if code == SANITIZER_FOUND:
        return "sanitizer"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _finished(process: subprocess.Popen[bytes], box: Path) -> bool:
    """Wait for the process; False where one call lasts too long, which ends the process."""
    seen, since = b"", time.monotonic()
    while True:
        try:
            process.wait(timeout=1)
            return True
        except subprocess.TimeoutExpired:
            now = box.read_bytes()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > HANG_SECONDS:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return False


def record(path: Path) -> None:
    """The calls of the GPU tests, as a corpus."""
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.fuzz.corpus"]
    subprocess.run(
        [sys.executable, *tests, "tests/kernels/cuda"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{ROOT}"},
        check=False,
    )
    if not path.is_file():
        sys.exit("fuzz: the GPU tests left no calls to start from")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--family", action="append", help="one family, again for more; else all")
    parser.add_argument("--seconds", type=float, help="stop beginning batches after this long")
    parser.add_argument("--calls", type=int, help="calls of each family")
    parser.add_argument("--batch", type=int, default=BATCH, help="calls of a process")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch; the next are +1")
    parser.add_argument("--jobs", type=int, default=1, help="batches at once")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sanitizer", choices=("memcheck", "initcheck", "synccheck", "racecheck"))
    files = parser.add_mutually_exclusive_group()
    files.add_argument(
        "--write-calls", type=Path, metavar="FILE", help="draw, and make no calls; needs --calls"
    )
    files.add_argument(
        "--read-calls", type=Path, metavar="FILE", help="the calls that --write-calls wrote"
    )
    options = parser.parse_args(arguments)
    if options.write_calls and options.calls is None:
        parser.error("--write-calls: say with --calls how many of each family")
    if options.seconds is None and options.calls is None:
        options.seconds = 60.0
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    families = options.family or sorted(calls.families(options.device))
    if options.write_calls:
        count = min(options.calls, options.batch)
        numbers = range(options.seed, options.seed - (-options.calls // count))
        ops = {family: corpus.ops_of(family, options.device) for family in families}
        draws.write(options.write_calls, ops, numbers, count)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if options.device == "cuda" and CORPUS not in os.environ:
            os.environ[CORPUS] = str(Path(folder) / "corpus.pt")
            record(Path(os.environ[CORPUS]))
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


def fuzz(families: Sequence[str], options: argparse.Namespace) -> dict[str, Report]:
    """Batches of each family in turn, until each has its calls or the time is over."""
    reports = {family: Report() for family in families}
    written = draws.batches(options.read_calls) if options.read_calls else None
    begin = time.monotonic()

    def wanted() -> Iterator[tuple[str, int]]:
        for seed in itertools.count(options.seed):
            left = [
                family
                for family in families
                if (options.calls is None or reports[family].counts["calls"] < options.calls)
                and (written is None or (family, seed) in written)
            ]
            if not left:
                return
            for family in left:
                if options.seconds is not None and time.monotonic() - begin > options.seconds:
                    return
                yield family, seed

    batches, lock = wanted(), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                family, seed = next(batches, ("", 0))
            if not family:
                return
            found = batch(family, seed, options)
            with lock:
                new = found.faults.keys() - reports[family].faults.keys()
                reports[family].add(found)
                # Hours of a run are not lost with its end.
                lines = [f"{family}, seed {seed}: {reports[family].summary()}"]
                lines += [f"  {kind}\n    {found.faults[kind]}" for kind in sorted(new)]
                print(*lines, sep="\n", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        for running in [pool.submit(work) for _ in range(options.jobs)]:
            running.result()
    return reports


if __name__ == "__main__":
    raise SystemExit(main())
