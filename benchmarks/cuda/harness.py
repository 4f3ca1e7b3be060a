"""Side-by-side timing of a CUDA op and its peers, in one process and one run.

A `bench_<family>.py` yields `Case`s and hands them to `main`:

    def cases():
        def make():
            x = torch.randn(4096, 8192, dtype=torch.bfloat16, device="cuda")
            out = torch.empty_like(x)
            return {"ours": lambda: ops.rms_norm(out, x, None, 1e-6), "eager": lambda: eager(x)}
        yield Case("rms_norm 4096x8192 bf16", make, bytes_moved=2 * 4096 * 8192 * 2)

    if __name__ == "__main__":
        raise SystemExit(main("norm", cases))

`make` is called once for each set of tensors: calls rotate over as many sets as do not fit in the
L2 cache together. Calls are captured in CUDA graphs, so that what is timed is the GPU's work and
not Python's, and contenders take turns, so that clocks and heat are the same for all. Bandwidth is
the least traffic that the op needs (each input read once, each output written once) over its time;
the yardstick is the faster of two copies of 1 GiB in the same run, the driver's and a kernel's.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
# The benchmarks run from a checkout, whether or not the package is installed.
if (source := str(ROOT / "src")) not in sys.path:
    sys.path.append(source)

from vllm_conda.paths import write_atomic  # noqa: E402

SCHEMA = 1
MAX_SETS = 16

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One shape and dtype of one op.

    `make` returns calls by contender's name, "ours" among them, over fresh tensors; `bytes_moved`
    and `flops` count one call.
    """

    label: str
    make: Callable[[], dict[str, Call]]
    bytes_moved: int | None = None
    flops: int | None = None


@dataclass(frozen=True)
class Result:
    """Microseconds a call (median), and what follows; `ratio`: fastest peer over ours."""

    label: str
    microseconds: dict[str, float]
    best_peer: str | None
    ratio: float | None
    gb_per_s: float | None
    of_copy: float | None
    tflop_per_s: float | None


@dataclass(frozen=True)
class Effort:
    """Replays of each contender, and the seconds that one replay should take."""

    replays: int
    replay_seconds: float


FULL = Effort(replays=21, replay_seconds=3e-3)
QUICK = Effort(replays=7, replay_seconds=1.5e-3)


def _milliseconds(run: Call) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()  # while the GPU is busy with it, what is measured is launched
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


class Contender:
    """One contender's calls over all sets, as a graph that runs them in turn."""

    def __init__(self, calls: list[Call], effort: Effort) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # warm up where graphs are captured: compilation, autotuning
            for call in calls:
                for _ in range(3):
                    call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        once = self._capture(calls)
        once.replay()
        taken = min(_milliseconds(once.replay) for _ in range(3)) * 1e-3
        rounds = max(1, round(effort.replay_seconds / max(taken, 1e-6)))
        self.calls = rounds * len(calls)
        self._graph = once if rounds == 1 else self._capture(calls * rounds)
        self.samples: list[float] = []

    @staticmethod
    def _capture(calls: list[Call]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        return graph

    def sample(self) -> None:
        """Time one replay."""
        self.samples.append(_milliseconds(self._graph.replay) * 1e3 / self.calls)


def _sets(case: Case) -> int:
    l2 = torch.cuda.get_device_properties().L2_cache_size
    return min(MAX_SETS, max(1, -(-3 * l2 // max(1, case.bytes_moved or 3 * l2))))


def measure(case: Case, effort: Effort, copy_rate: float) -> Result:
    """Time all contenders of `case` in turns. `copy_rate`: bytes a second of a large copy."""
    sets = [case.make() for _ in range(_sets(case))]
    contenders = {name: Contender([one[name] for one in sets], effort) for name in sets[0]}
    order = list(contenders.values())
    for turn in range(effort.replays):
        shift = turn % len(order)
        for contender in order[shift:] + order[:shift]:
            contender.sample()
    times = {name: statistics.median(one.samples) for name, one in contenders.items()}
    peers = {name: time for name, time in times.items() if name != "ours"}
    best = min(peers, key=peers.__getitem__) if peers else None
    rate = case.bytes_moved / times["ours"] * 1e6 if case.bytes_moved else None
    return Result(
        label=case.label,
        microseconds=times,
        best_peer=best,
        ratio=peers[best] / times["ours"] if best else None,
        gb_per_s=rate * 1e-9 if rate else None,
        of_copy=rate / copy_rate if rate else None,
        tflop_per_s=case.flops / times["ours"] * 1e-6 if case.flops else None,
    )


def copy_rate(effort: Effort) -> float:
    """Bytes per second, read and written, of copying 1 GiB: the driver's way or a kernel's."""
    size = 1 << 30
    source = torch.empty(size // 4, dtype=torch.float32, device="cuda").normal_()
    target = torch.empty_like(source)
    ways: list[Call] = [lambda: target.copy_(source), lambda: torch.neg(source, out=target)]
    contenders = [Contender([way], effort) for way in ways]
    for _ in range(effort.replays):
        for contender in contenders:
            contender.sample()
    return 2 * size / min(statistics.median(one.samples) for one in contenders) * 1e6


def machine() -> dict[str, object]:
    """What the figures depend on; nothing that identifies the machine."""
    properties = torch.cuda.get_device_properties()
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }


def _row(result: Result) -> str:
    peer = f"{result.microseconds[result.best_peer]:9.1f}" if result.best_peer else f"{'-':>9}"
    ratio = f"{result.ratio:6.2f}x" if result.ratio is not None else f"{'-':>7}"
    rate = ""
    if result.gb_per_s is not None and result.of_copy is not None:
        rate = f"{result.gb_per_s:7.0f} GB/s {result.of_copy:6.1%} of copy"
    if result.tflop_per_s is not None:
        rate += f" {result.tflop_per_s:7.1f} TFLOP/s"
    ours = result.microseconds["ours"]
    return f"{result.label:<58} {ours:9.1f} {peer} {result.best_peer or '':<10} {ratio} {rate}"


def write_json(path: Path, family: str, rate: float, results: list[Result]) -> None:
    """Write the run to `path` atomically."""
    document = {
        "schema": SCHEMA,
        "family": family,
        "machine": machine(),
        "copy_gb_per_s": rate * 1e-9,
        "results": [asdict(result) for result in results],
    }
    write_atomic(path, json.dumps(document, indent=1) + "\n")


def _arguments(family: str, argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Benchmark of the CUDA {family} kernels.")
    parser.add_argument("--quick", action="store_true", help="few replays a case")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the figures go, as JSON")
    parser.add_argument("--filter", default="", metavar="TEXT", help="cases whose label has it")
    return parser.parse_args(argv)


def main(family: str, cases: Callable[[], Iterable[Case]], argv: list[str] | None = None) -> int:
    """Measure `cases`, print a table, write the JSON. Returns the process's exit code."""
    arguments = _arguments(family, argv)
    if not torch.cuda.is_available():
        print(f"bench_{family}: no usable GPU", file=sys.stderr)
        return 2
    torch._dynamo.config.recompile_limit = 1 << 20  # past it, dynamo falls back to eager silently
    torch.manual_seed(0)
    effort = QUICK if arguments.quick else FULL
    results: list[Result] = []
    with torch.inference_mode():  # as the engine runs
        rate = copy_rate(effort)
        print(f"{machine()['gpu']}: a copy of 1 GiB runs at {rate * 1e-9:.0f} GB/s")
        print(f"{'case':<58} {'ours us':>9} {'peer us':>9} {'':<10} {'ratio':>7}", flush=True)
        for case in cases():
            if arguments.filter not in case.label:
                continue
            results.append(measure(case, effort, rate))
            print(_row(results[-1]), flush=True)
            if arguments.out:  # case by case: what was measured stays if the run is cut
                write_json(arguments.out, family, rate, results)
            gc.collect()
            torch.cuda.empty_cache()
    if not results:
        print(f"bench_{family}: no case matches --filter {arguments.filter}", file=sys.stderr)
        return 2
    shares = [result.of_copy for result in results if result.of_copy is not None]
    if shares:
        print(
            f"{family}: {sum(share >= 0.9 for share in shares)} of {len(shares)} at 90% of the "
            f"copy or more, least {min(shares):.1%}"
        )
    if arguments.out:
        print(f"figures: {arguments.out}")
    return 0
