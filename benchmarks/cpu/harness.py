"""Side-by-side timing of an op and its peers, in one process and one run.

Every `bench_<family>.py` yields `Case`s and hands them to `main`. All contenders of a case are
measured interleaved, block by block, so that whatever else the machine does hits all of them
alike; the figure that counts is the ratio of medians within one run.

    def cases():
        x = torch.randn(8, 4096)
        out = torch.empty_like(x)
        yield Case("silu 8x4096 f32", "decode", lambda: ours(out, x), {"eager": lambda: eager(x),
                   "compile": compiled(eager, x)}, bytes_moved=2 * x.nbytes, flops=None)

    if __name__ == "__main__":
        raise SystemExit(main("activation", cases))

`cases` should be a generator: each case's tensors are then freed before the next one is made.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# The benchmarks run from a checkout, whether or not the package is installed.
if (source := str(ROOT / "src")) not in sys.path:
    sys.path.append(source)

from vllm_conda.paths import write_atomic  # noqa: E402

SCHEMA = 1

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One shape and dtype of one op: our call and the calls it competes with.

    `group` is the kind of load ("decode", "prefill"); `bytes_moved` and `flops` count one call,
    the least memory traffic and the arithmetic that the op needs, for GB/s and GFLOP/s.
    """

    label: str
    group: str
    ours: Call
    peers: dict[str, Call]
    bytes_moved: int | None = None
    flops: int | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds a call, over blocks."""

    median: float
    min: float


@dataclass(frozen=True)
class Result:
    """What one case measured; `ratio` is the fastest peer's median over ours (> 1: ours wins)."""

    label: str
    group: str
    ours: Timing
    peers: dict[str, Timing]
    best_peer: str | None
    ratio: float | None
    gb_per_s: float | None
    gflop_per_s: float | None


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds for each contender, and bounds on the number of blocks."""

    seconds: float
    min_blocks: int
    max_blocks: int
    block_seconds: float = field(default=1.5e-3)


FULL = Effort(seconds=0.25, min_blocks=7, max_blocks=41)
QUICK = Effort(seconds=0.05, min_blocks=3, max_blocks=11)


def compiled(function: Callable[..., object], *args: object, **kwargs: object) -> Call:
    """`function(*args, **kwargs)` through torch.compile (default mode, static shapes), warm."""
    fast = torch.compile(function, dynamic=False)
    for _ in range(3):
        fast(*args, **kwargs)
    return lambda: fast(*args, **kwargs)


def _seconds(call: Call, repeats: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(repeats):
        call()
    return (time.perf_counter_ns() - begin) * 1e-9 / repeats


def _repeats(call: Call, block_seconds: float) -> int:
    """Calls that fill a block, so that timer resolution and loop cost vanish in it."""
    for _ in range(3):
        call()
    repeats = 1
    while (taken := _seconds(call, repeats) * repeats) < block_seconds / 2:
        repeats *= 2
    return max(1, round(repeats * block_seconds / taken))


def measure(case: Case, effort: Effort) -> Result:
    """Time all contenders of `case` in round-robin blocks; the one that goes first rotates."""
    calls = {"ours": case.ours, **case.peers}
    if len(calls) != len(case.peers) + 1:
        raise ValueError(f"{case.label}: a peer is named 'ours'")
    repeats = {name: _repeats(call, effort.block_seconds) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    deadline = time.perf_counter() + effort.seconds * len(calls)
    for block in range(effort.max_blocks):
        if block >= effort.min_blocks and time.perf_counter() > deadline:
            break
        turn = block % len(order)
        for name in order[turn:] + order[:turn]:
            samples[name].append(_seconds(calls[name], repeats[name]))
    timings = {
        name: Timing(statistics.median(taken), min(taken)) for name, taken in samples.items()
    }
    ours = timings.pop("ours")
    best = min(timings, key=lambda name: timings[name].median) if timings else None
    return Result(
        label=case.label,
        group=case.group,
        ours=ours,
        peers=timings,
        best_peer=best,
        ratio=timings[best].median / ours.median if best else None,
        gb_per_s=case.bytes_moved / ours.median * 1e-9 if case.bytes_moved else None,
        gflop_per_s=case.flops / ours.median * 1e-9 if case.flops else None,
    )


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, object]:
    """What the figures depend on; nothing that identifies the machine."""
    from vllm_kernels.engine_api import cpu_kernels

    kernels = cpu_kernels()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "tier": kernels.isa() if kernels else "reference",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.2f} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def _rate(result: Result) -> str:
    if result.gflop_per_s is not None:
        return f"{result.gflop_per_s:.1f} GFLOP/s"
    return f"{result.gb_per_s:.1f} GB/s" if result.gb_per_s is not None else ""


class Table:
    """Prints aligned rows as they are measured."""

    def __init__(self, width: int) -> None:
        self._line = f"{{:<{width}}}  {{:<8}} {{:>10}} {{:>10}}  {{:<12}} {{:>7}}  {{}}"
        print(self._line.format("case", "group", "ours", "best peer", "", "ratio", ""), flush=True)

    def row(self, result: Result) -> None:
        peer = _duration(result.peers[result.best_peer].median) if result.best_peer else "-"
        ratio = f"{result.ratio:.2f}x" if result.ratio is not None else "-"
        print(
            self._line.format(
                result.label,
                result.group,
                _duration(result.ours.median),
                peer,
                result.best_peer or "",
                ratio,
                _rate(result),
            ).rstrip(),
            flush=True,
        )


def write_json(path: Path, family: str, results: list[Result]) -> None:
    """Write the run to `path` atomically."""
    document = {
        "schema": SCHEMA,
        "family": family,
        "machine": machine(),
        "results": [asdict(result) for result in results],
    }
    write_atomic(path, json.dumps(document, indent=1) + "\n")


def _arguments(family: str, argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Benchmark of the {family} kernels.")
    parser.add_argument("--quick", action="store_true", help="few blocks a case")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help=f"where the figures go (full runs: benchmarks/results/{family}.json)",
    )
    parser.add_argument(
        "--filter", default="", metavar="TEXT", help="cases whose label or group has it"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="torch.set_num_threads(N)")
    return parser.parse_args(argv)


def main(family: str, cases: Callable[[], Iterable[Case]], argv: list[str] | None = None) -> int:
    """Measure `cases`, print the table, write the JSON. Returns the process's exit code."""
    arguments = _arguments(family, argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # Past the limit dynamo would fall back to eager without a word, and the peer be mislabelled.
    torch._dynamo.config.recompile_limit = 1 << 20
    effort = QUICK if arguments.quick else FULL
    torch.manual_seed(0)
    # A partial run must not replace the figures of a full one.
    partial = arguments.quick or arguments.filter
    path = arguments.json or (None if partial else RESULTS / f"{family}.json")
    results: list[Result] = []
    table = Table(width=44)
    with torch.inference_mode():  # as the engine runs
        for case in cases():
            if arguments.filter not in case.label and arguments.filter not in case.group:
                continue
            results.append(measure(case, effort))
            table.row(results[-1])
            if path:  # case by case: what was measured stays if the run is cut
                write_json(path, family, results)
            del case
            torch._dynamo.reset()
            gc.collect()
    if not results:
        print(f"bench_{family}: no case matches --filter {arguments.filter}", file=sys.stderr)
        return 2
    ratios = [result.ratio for result in results if result.ratio is not None]
    if ratios:
        print(
            f"{family}: {sum(ratio >= 1 for ratio in ratios)} of {len(ratios)} not slower than the "
            f"best peer; ratio min {min(ratios):.2f}, geometric mean "
            f"{statistics.geometric_mean(ratios):.2f}"
        )
    if path:
        print(f"figures: {path}")
    return 0
