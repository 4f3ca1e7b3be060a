"""How long a newcomer waits: `./run build` from an empty cache, again, and after an edit.

Clones the committed state into an empty folder and gives it an empty cache, so that nothing of the
machine's earlier work helps. Whole-process wall-clock seconds; one run each, since a cold build
cannot be repeated cheaply. Downloads count: they go through the machine's own registries.

    python -m benchmarks.toolkit.bench_build
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import BUILD, RESULTS, ROOT, Document, commit, today
from benchmarks.toolkit.host import machine, versions
from vllm_conda.costs import Build

TOUCHED = "csrc/cpu/norm/norm_tier.cc"
LIMITS = {"cold": 600.0, "unchanged": 15.0, "one kernel file": 60.0}


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return seconds


def measure(scratch: Path) -> dict[str, float]:
    clone = scratch / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    environment = {**os.environ, "VLLM_CONDA_CACHE": str(scratch / "cache")}
    build = ["./run", "build"]
    seconds = {"cold": timed(build, clone, environment)}
    print(f"cold             {seconds['cold']:7.1f} s", flush=True)
    seconds["unchanged"] = timed(build, clone, environment)
    print(f"unchanged        {seconds['unchanged']:7.1f} s", flush=True)
    # A changed constant, so that neither the compiler cache nor a content hash can answer.
    with (clone / TOUCHED).open("a", encoding="utf-8") as stream:
        constant = f"constexpr auto kEdited [[maybe_unused]] = {time.time_ns()};"
        stream.write(f"\nnamespace {{ {constant} }}\n")
    seconds["one kernel file"] = timed(build, clone, environment)
    print(f"one kernel file  {seconds['one kernel file']:7.1f} s", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vllm-build-") as scratch:
        seconds = measure(Path(scratch))
    cores = os.cpu_count() or 1
    cases = tuple(
        Build(name, cores, {"./run build": round(taken, 1)}, limit_seconds=LIMITS[name])
        for name, taken in seconds.items()
    )
    document = Document("build", BUILD, machine(), versions(), commit(), today(), cases)
    print(f"figures: {document.write(arguments.results)}")


if __name__ == "__main__":
    main()
