"""The command line of a family's benchmark: options, the table, the record."""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from benchmarks.harness.case import Case, Compilation
from benchmarks.harness.cpu import CLOCKS, CpuTimer
from benchmarks.harness.cuda import CudaTimer
from benchmarks.harness.measure import measure
from benchmarks.harness.timer import Timer
from benchmarks.record import RESULTS, Document, KernelCase, commit, rate, today

ROW = "{:<58} {:<9} {:>10} {:>10}  {:<12} {:>7}  {}"


def _duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.2f} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def _row(case: KernelCase, copy_bytes_per_s: float | None, read_bytes_per_s: float | None) -> str:
    best = case.best_peer
    return ROW.format(
        case.label,
        case.group,
        _duration(case.ours.median),
        _duration(case.peers[best].median) if best else "-",
        best or "",
        f"{case.ratio:.2f}x" if case.ratio is not None else "-",
        rate(case, copy_bytes_per_s, read_bytes_per_s),
    ).rstrip()


def _summary(family: str, cases: Sequence[KernelCase], copy_bytes_per_s: float | None) -> str:
    lines = []
    if ratios := [case.ratio for case in cases if case.ratio is not None]:
        lines.append(
            f"{family}: {sum(ratio >= 1 for ratio in ratios)} of {len(ratios)} not slower than the "
            f"best peer; ratio min {min(ratios):.2f}, geometric mean "
            f"{statistics.geometric_mean(ratios):.2f}"
        )
    rates = [case.bytes_per_s for case in cases if case.bytes_per_s is not None]
    if copy_bytes_per_s and rates:
        shares = [rate / copy_bytes_per_s for rate in rates]
        lines.append(
            f"{family}: {sum(share >= 0.9 for share in shares)} of {len(shares)} at 90% of the "
            f"copy or more, least {min(shares):.1%}"
        )
    return "\n".join(lines)


def _part(text: str) -> tuple[int, int]:
    """Index and number of parts, of "1/4"."""
    index, count = (int(word) for word in text.split("/"))
    if not 1 <= index <= count:
        raise ValueError(text)  # argparse says it
    return index - 1, count


def _arguments(device: str, family: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Benchmark of the {family} kernels on {device}.")
    parser.add_argument("--quick", action="store_true", help="few blocks a case")
    parser.add_argument(
        "--filter", default="", metavar="TEXT", help="cases whose label or group has it"
    )
    parser.add_argument(
        "--part", type=_part, default=(0, 1), metavar="I/N", help="every Nth case, from the Ith on"
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="where the figures go (whole runs: benchmarks/results)",
    )
    parser.add_argument(
        "--machine", default="", metavar="NAME", help="of the results; {tier} in it is the tier"
    )
    parser.add_argument(
        "--without-compile", action="store_true", help="leave torch.compile out of the peers"
    )
    parser.add_argument("--commit", metavar="HASH", help="of the sources, outside a checkout")
    if device == "cpu":
        parser.add_argument("--threads", type=int, metavar="N", help="torch.set_num_threads(N)")
        parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what is timed")
    return parser.parse_args(argv)


def _note(arguments: argparse.Namespace) -> str:
    """What a reader of the figures must know."""
    words = []
    if arguments.quick:
        words.append("A short run: 3 to 11 blocks a case.")
    if arguments.without_compile:
        words.append("torch.compile is not among the peers.")
    if getattr(arguments, "clock", "wall") != "wall":
        words.append("Processor time: other processes shared the core.")
    return " ".join(words)


def _timer(device: str, arguments: argparse.Namespace) -> Timer | None:
    """None where the device cannot be used."""
    if device == "cuda":
        return CudaTimer() if torch.cuda.is_available() else None
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return CpuTimer(CLOCKS[arguments.clock])


def main(
    device: str,
    family: str,
    cases: Callable[[], Iterable[Case]],
    argv: Sequence[str] | None = None,
) -> int:
    """Measure ``cases``, print the table, write the record. Returns the process's exit code.

    ``cases`` should be a generator: each case's tensors are then freed before the next one is made.
    """
    arguments = _arguments(device, family, argv)
    timer = _timer(device, arguments)
    if timer is None:
        print(
            f"bench_{family}: PyTorch sees no GPU; run `python -m vllm_kernels` to see why.",
            file=sys.stderr,
        )
        return 2
    # Past the limit dynamo would fall back to eager without a word, and the peer be mislabelled.
    torch._dynamo.config.recompile_limit = 1 << 20
    Compilation.wanted = not arguments.without_compile
    effort = timer.quick if arguments.quick else timer.full
    torch.manual_seed(0)
    # A partial run must not replace the figures of a whole one.
    part, parts = arguments.part
    partial = arguments.quick or arguments.filter or arguments.without_compile or parts > 1
    folder = arguments.results or (None if partial else RESULTS)
    found: list[KernelCase] = []
    path = None
    with torch.inference_mode():  # as the engine runs
        copy_bytes_per_s = timer.copy_bytes_per_s(effort)
        if copy_bytes_per_s:
            print(f"a copy of 1 GiB runs at {copy_bytes_per_s * 1e-9:.0f} GB/s")
        read_bytes_per_s = timer.read_bytes_per_s(effort)
        if read_bytes_per_s:
            print(f"memory is read at {read_bytes_per_s * 1e-9:.1f} GB/s")
        print(ROW.format("case", "group", "ours", "best peer", "", "ratio", ""), flush=True)
        chosen = (case for case in cases() if arguments.filter in f"{case.label} {case.group}")
        for case in itertools.islice(chosen, part, None, parts):
            found.append(measure(case, timer, effort))
            print(_row(found[-1], copy_bytes_per_s, read_bytes_per_s), flush=True)
            if folder:  # case by case: what was measured stays if the run is cut
                path = Document(
                    name=family,
                    device=device,
                    machine=timer.machine(arguments.machine),
                    versions=timer.versions(),
                    commit=arguments.commit or commit(),
                    date=today(),
                    copy_bytes_per_s=copy_bytes_per_s,
                    read_bytes_per_s=read_bytes_per_s,
                    note=_note(arguments),
                    cases=tuple(found),
                ).write(folder)
            del case
            timer.tidy()
            gc.collect()
    if not found:
        print(f"bench_{family}: no case matches --filter {arguments.filter}", file=sys.stderr)
        return 2
    print(_summary(family, found, copy_bytes_per_s))
    if path:
        print(f"figures: {path}")
    return 0
