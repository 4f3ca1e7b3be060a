"""Every family's benchmark on a device, one after another.

python -m benchmarks                                    # all on the CPU, into benchmarks/results
python -m benchmarks norm --quick                       # one; arguments go on to its benchmark
python -m benchmarks gemm --tiers avx2 avx512           # tier by tier, lower ones forced
python -m benchmarks --device cuda --results FOLDER     # on a GPU, into another folder
python -m benchmarks --cores 0-15 --results FOLDER      # several at once
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.record import ROOT
from benchmarks.side_by_side import Run, cores_of, side_by_side, slots_of

DEVICES = ("cpu", "cuda")
# Of several processes, with arguments of their own.
OF_THEIR_OWN = frozenset({"all_reduce", "engine"})
# How PyTorch and oneDNN are kept to the instructions of a tier of the CPU kernels, so that a lower
# tier meets the peers that it would meet on a CPU that has no more. MKL heeds its switch on Intel's
# CPUs only.
PEERS_ISA = {
    tier: {
        "ATEN_CPU_CAPABILITY": aten,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
    }
    for tier, aten, onednn, mkl in (
        ("avx2", "avx2", "AVX2", "AVX2"),
        ("avx512", "avx512", "AVX512_CORE", "AVX512"),
        ("avx512_bf16", "avx512", "AVX512_CORE_BF16", "AVX512_E3"),
    )
}


def forced(tier: str) -> dict[str, str]:
    """The environment in which our kernels and their peers have the instructions of one tier."""
    return {**os.environ, **PEERS_ISA.get(tier, {}), "VLLM_KERNELS_CPU_ISA": tier}


def families(device: str) -> list[str]:
    """Names of the benchmarks of one device."""
    scripts = sorted((ROOT / "benchmarks" / device).glob("bench_*.py"))
    names = [path.stem.removeprefix("bench_") for path in scripts]
    return [name for name in names if name not in OF_THEIR_OWN]


def runs(
    device: str, names: Sequence[str], arguments: Sequence[str], tiers: Sequence[str] = ()
) -> list[Run]:
    """A process for each benchmark: one's compiled code must not weigh on another."""
    forms: Sequence[str | None] = tiers or [None]
    return [
        Run(
            f"{name}, tier {tier}" if tier else name,
            (sys.executable, "-m", f"benchmarks.{device}.bench_{name}", *arguments),
            forced(tier) if tier else dict(os.environ),
        )
        for tier in forms
        for name in names
    ]


def in_turn(wanted: Sequence[Run]) -> int:
    """One after the other; the exit code of the last one that failed."""
    failed = 0
    for run in wanted:
        print(f"== {run.title}", flush=True)
        done = subprocess.run(run.command, cwd=ROOT, env=run.environment, check=False)
        failed = done.returncode or failed
    return failed


def _check_cores(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    options.threads = 1 if options.threads is None else options.threads
    if options.device != "cpu":
        parser.error("--cores is for the CPU's kernels")
    if options.results is None:  # a run that is cut must not replace the figures of a whole one
        parser.error("--cores wants --results FOLDER")
    if not 1 <= options.threads <= len(options.cores):
        parser.error(f"--threads {options.threads}: --cores names {len(options.cores)}")
    if options.parts < 1:
        parser.error(f"--parts {options.parts}: want 1 or more")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit code of the last benchmark that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument(
        "--tiers", nargs="+", default=[], metavar="TIER", help="of the CPU kernels, one by one"
    )
    parser.add_argument(
        "--cores",
        type=cores_of,
        metavar="LIST",
        help="such as 0-7,16: several benchmarks at once, each on cores of its own",
    )
    parser.add_argument(
        "--parts", type=int, default=1, metavar="N", help="with --cores: processes of one family"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="N",
        help="with --cores: end what runs longer, and record what it has measured",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of a CPU's benchmark")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="of the figures")
    parser.add_argument("family", nargs="*", help="default: all of the device")
    options, rest = parser.parse_known_args(argv)
    if options.cores:
        _check_cores(parser, options)
    elif options.parts != 1 or options.seconds is not None:
        parser.error("--parts and --seconds want --cores")
    known = families(options.device)
    for name in options.family:
        if name not in known:
            parser.error(f"no benchmark of {name}; there are: {', '.join(known)}")
    if options.tiers and options.device != "cpu":
        parser.error("--tiers is for the CPU's kernels")
    if options.threads:
        rest += ["--threads", str(options.threads)]
    if options.results and not options.cores:
        rest += ["--results", str(options.results)]
    wanted = runs(options.device, options.family or known, rest, options.tiers)
    if options.cores:
        slots = slots_of(options.cores, options.threads)
        code = side_by_side(wanted, slots, options.parts, options.seconds, options.results)
    else:
        code = in_turn(wanted)
    print("pages, README and plots of the recorded figures: python -m benchmarks.report")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
