"""Every family's benchmark on a device, one after another.

python -m benchmarks                                    # all on the CPU, into benchmarks/results
python -m benchmarks norm --quick                       # one; arguments go on to its benchmark
python -m benchmarks gemm --tiers avx2 avx512           # tier by tier, lower ones forced
python -m benchmarks --device cuda --results FOLDER     # on a GPU, into another folder
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.record import ROOT

DEVICES = ("cpu", "cuda")
# Of several processes, with arguments of their own.
OF_THEIR_OWN = frozenset({"all_reduce", "engine"})
# How PyTorch and oneDNN are kept to the instructions of a tier of the CPU kernels, so that a lower
# tier meets the peers that it would meet on a CPU that has no more. MKL has no such switch on AMD.
PEERS_ISA = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "avx512_bf16": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
}


def forced(tier: str) -> dict[str, str]:
    """The environment in which our kernels and their peers have the instructions of one tier."""
    return {**os.environ, **PEERS_ISA.get(tier, {}), "VLLM_KERNELS_CPU_ISA": tier}


def families(device: str) -> list[str]:
    """Names of the benchmarks of one device."""
    scripts = sorted((ROOT / "benchmarks" / device).glob("bench_*.py"))
    names = [path.stem.removeprefix("bench_") for path in scripts]
    return [name for name in names if name not in OF_THEIR_OWN]


def measure(
    device: str, names: Sequence[str], arguments: Sequence[str], tiers: Sequence[str] = ()
) -> int:
    """Run each benchmark in a process of its own: one's compiled code must not weigh on another."""
    failed = 0
    forms: Sequence[str | None] = tiers or [None]
    for tier in forms:
        env = forced(tier) if tier else None
        for name in names:
            print(f"== {name}{f', tier {tier}' if tier else ''}", flush=True)
            command = [sys.executable, "-m", f"benchmarks.{device}.bench_{name}", *arguments]
            failed = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode or failed
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the exit code of the last benchmark that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument(
        "--tiers", nargs="+", default=[], metavar="TIER", help="of the CPU kernels, one by one"
    )
    parser.add_argument("family", nargs="*", help="default: all of the device")
    options, rest = parser.parse_known_args(argv)
    known = families(options.device)
    for name in options.family:
        if name not in known:
            parser.error(f"no benchmark of {name}; there are: {', '.join(known)}")
    if options.tiers and options.device != "cpu":
        parser.error("--tiers is for the CPU's kernels")
    code = measure(options.device, options.family or known, rest, options.tiers)
    print("pages, README and plots of the recorded figures: python -m benchmarks.report")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
