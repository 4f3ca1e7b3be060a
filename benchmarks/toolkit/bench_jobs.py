"""What each job of the matrix costs, and how long rendering all of them takes.

Each job is built alone from a clone of the committed state, with the machine's toolchain channel
but without staging builds of earlier runs; every file is compiled, whatever the compiler cache
holds.
Recorded are the wall clock of each package, the processor time of the whole job and the largest
resident memory of one of its processes, as the kernel accounts them, and the same of each kernel
family's compiles. Jobs that are not measured in a run keep their figures.

    python -m benchmarks.toolkit.bench_jobs --new linux-64-cuda-13.0-all     # its new families
    python -m benchmarks.toolkit.bench_jobs --render                         # the rendering alone
    python -m benchmarks.toolkit.bench_jobs linux-64-cpu-x86-64-v3 [JOB...]  # these jobs too

``--keep FOLDER`` keeps the packages, to compare them with those of another folder's build.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.record import BUILD, ROOT, Document, builds, commit, today
from benchmarks.toolkit.host import machine, versions
from vllm_conda.costs import RENDERING, Build, FamilyCost
from vllm_conda.paths import cache_root

RENDERINGS = 5
# What makes a second build of the same sources cheap; the toolchain is not part of a job.
LEFT_OUT = {"build", "jobs", "lock", "locks"}
# A CUDA family is a library of its own, a CPU family a folder in each tier's.
_FAMILY = re.compile(r"vllm_kernels_cuda_(\w+)\.dir/|vllm_tier_\w+\.dir/(\w+)/")


def measure(job: str, cached: bool, keep: Path | None = None) -> Build:
    """Build one job in a scratch folder.

    Args:
        keep: Folder that receives the packages.
        cached: Take what the compiler cache holds; it is not measured then.
    """
    # A checkout's is always the same: nvcc's compiles are found in the compiler cache by where the
    # compiler lies.
    name = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    folder = cache_root() / "jobs" / name
    cache, log_file = folder / "cache", folder / "compiles.jsonl"
    for left in (cache, folder / "clone"):
        shutil.rmtree(left, ignore_errors=True)
    if not cached:
        # Else what a run that was stopped has measured counts too.
        log_file.unlink(missing_ok=True)
    cache.mkdir(parents=True)
    for entry in cache_root().iterdir():
        if entry.name not in LEFT_OUT:
            (cache / entry.name).symlink_to(entry)
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    command = [sys.executable, "-m", "vllm_conda", "build", "--variant", job, "--json"]
    environment = {
        **os.environ,
        "VLLM_CONDA_CACHE": str(cache),
        "PYTHONPATH": str(clone / "src"),
        "CCACHE_RECACHE": "" if cached else "1",
        # Not by the script's own first line: a cross build has the platform's Python on PATH.
        "CCACHE_PREFIX": f"{sys.executable} {Path(__file__).with_name('measure_compile.py')}",
        "VLLM_COMPILE_LOG": str(log_file),
    }
    output, errors = folder / "report.json", folder / "errors.txt"
    with output.open("w") as report, errors.open("w") as log:
        started = subprocess.Popen(command, cwd=clone, env=environment, stdout=report, stderr=log)
        # Of the process and of all that it has waited for: the compilers.
        _, status, usage = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode != 0:
        sys.exit(f"{job} failed:\n{output.read_text()[-2000:]}{errors.read_text()[-4000:]}")
    built = json.loads(output.read_text())["built"]
    compiles = log_file.read_text(encoding="utf-8") if log_file.is_file() else ""
    sizes = {item["package"]: _size(clone, item["package"]) for item in built}
    if keep:
        for package in sorted((clone / "output").glob("*/*.conda")):
            (keep / package.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy2(package, keep / package.parent.name)
    shutil.rmtree(folder)
    return Build(
        name=job,
        cores=os.cpu_count() or 1,
        seconds={item["package"].rsplit("-", 2)[0]: item["seconds"] for item in built},
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 1),
        memory_mib=usage.ru_maxrss // 1024,
        package_mib={name.rsplit("-", 2)[0]: size for name, size in sizes.items()},
        families=families([json.loads(line) for line in compiles.splitlines()]),
    )


def _size(clone: Path, package: str) -> float:
    """MiB of a finished package."""
    (path,) = (clone / "output").glob(f"*/{package}")
    return round(path.stat().st_size / 2**20, 2)


def families(compiles: list[dict[str, Any]]) -> dict[str, FamilyCost]:
    """What the files of each family cost, from measure_compile.py's rows."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in compiles:
        if match := _FAMILY.search(row["output"]):
            found.setdefault(match[1] or match[2], []).append(row)
    return {
        name: FamilyCost(
            files=len(rows),
            cpu_seconds=round(sum(row["cpu_seconds"] for row in rows), 1),
            longest_cpu_seconds=max(row["cpu_seconds"] for row in rows),
            memory_mib=max(row["memory_mib"] for row in rows),
        )
        for name, rows in sorted(found.items())
    }


def rendering() -> Build:
    """Time `vllm-conda render --all`, the whole process; the median of some runs."""
    command = [sys.executable, "-m", "vllm_conda", "render", "--all", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    seconds = []
    for _ in range(RENDERINGS):
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - started)
    rows = json.loads(done.stdout)
    packages = {(row["job"].partition("-c")[0], row["file"]) for row in rows}
    return Build(
        name=RENDERING,
        cores=os.cpu_count() or 1,
        seconds={RENDERING: round(statistics.median(seconds), 2)},
        counts={"jobs": len({row["job"] for row in rows}), "packages": len(packages)},
    )


def with_new(before: Build, found: Build) -> Build:
    """A job's figures with those of the families that were compiled again."""
    again = found.families.keys() & before.families.keys()
    saved = sum(before.families[name].cpu_seconds for name in again)
    spent = sum(family.cpu_seconds for family in found.families.values())
    families = dict(sorted({**before.families, **found.families}.items()))
    memory = [before.memory_mib or 0, *(family.memory_mib for family in found.families.values())]
    return dataclasses.replace(
        before,
        cpu_seconds=round((before.cpu_seconds or 0.0) + spent - saved, 1),
        memory_mib=max(memory),
        package_mib=found.package_mib,
        families=families,
    )


def record(cases: Iterable[Build]) -> None:
    """Write the figures; after each job, since one may take hours."""
    Document("jobs", BUILD, machine(), versions(), commit(), today(), tuple(cases)).write()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", nargs="*", help="jobs of `vllm-conda matrix` to build")
    parser.add_argument(
        "--new",
        action="store_true",
        help="measure the families alone whose files the compiler cache lacks; the rest is kept",
    )
    parser.add_argument("--render", action="store_true", help="time the rendering of all jobs")
    parser.add_argument("--keep", type=Path, help="folder for the packages")
    arguments = parser.parse_args()
    recorded = builds().get("jobs")
    cases = {case.name: case for case in recorded.cases} if recorded else {}
    if arguments.render or not arguments.job:
        cases[RENDERING] = rendering()
        print(f"{RENDERING}: {cases[RENDERING]}", flush=True)
        record(cases.values())
    for job in arguments.job:
        found = measure(job, arguments.new, arguments.keep)
        if arguments.new and job in cases:
            found = with_new(cases[job], found)
        cases[job] = found
        print(f"{job}: {found}", flush=True)
        record(cases.values())


if __name__ == "__main__":
    main()
