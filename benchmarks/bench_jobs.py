"""What each job of the matrix costs, and how long rendering all of them takes.

Each job is built alone from a clone of the committed state, with the machine's toolchain channel
but without compiler cache and staging builds of earlier runs. Recorded are the wall clock of each
package, the processor time of the whole job and the largest resident memory of one of its
processes, as the kernel accounts them. Jobs that are not measured in a run keep their figures.

    python benchmarks/bench_jobs.py --render                          # the rendering alone
    python benchmarks/bench_jobs.py linux-64-cpu-x86-64-v3 [JOB...]   # these jobs too

``--keep FOLDER`` keeps the packages, to compare them with those of another folder's build.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "jobs.json"
RENDERINGS = 5
# What makes a second build of the same sources cheap; the toolchain is not part of a job.
LEFT_OUT = {"build", "ccache", "lock", "locks"}
sys.path.insert(0, str(ROOT / "src"))


def machine() -> dict[str, str]:
    """The machine that measures, for the table's caption."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"CPU": model, "cores": str(os.cpu_count()), "memory": f"{memory:.0f} GiB"}


def measure(job: str, keep: Path | None = None) -> dict[str, Any]:
    """Build one job in a scratch folder.

    Args:
        keep: Folder that receives the packages.

    Returns:
        A job's entry of the results, as vllm_conda.matrix.Cost has it.
    """
    from vllm_conda.paths import cache_root

    with tempfile.TemporaryDirectory(prefix="vllm-jobs-") as scratch:
        folder = Path(scratch)
        cache = folder / "cache"
        cache.mkdir()
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
        }
        output, errors = folder / "report.json", folder / "errors.txt"
        with output.open("w") as report, errors.open("w") as log:
            started = subprocess.Popen(
                command, cwd=clone, env=environment, stdout=report, stderr=log
            )
            # Of the process and of all that it has waited for: the compilers.
            _, status, usage = os.wait4(started.pid, 0)
            started.returncode = os.waitstatus_to_exitcode(status)
        if started.returncode != 0:
            sys.exit(f"{job} failed:\n{output.read_text()[-2000:]}{errors.read_text()[-4000:]}")
        built = json.loads(output.read_text())["built"]
        if keep:
            for package in sorted((clone / "output").glob("*/*.conda")):
                (keep / package.parent.name).mkdir(parents=True, exist_ok=True)
                shutil.copy2(package, keep / package.parent.name)
    return {
        "cores": os.cpu_count(),
        "seconds": {item["package"].rsplit("-", 2)[0]: item["seconds"] for item in built},
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "memory_mib": usage.ru_maxrss // 1024,
    }


def rendering() -> dict[str, Any]:
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
    return {
        "jobs": len({row["job"] for row in rows}),
        "packages": len({(row["job"].partition("-c")[0], row["file"]) for row in rows}),
        "seconds": round(sorted(seconds)[RENDERINGS // 2], 2),
    }


def write(document: dict[str, Any]) -> None:
    """Record the figures; after each job, since one may take hours."""
    from vllm_conda.paths import write_atomic

    write_atomic(RESULTS, json.dumps(document, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", nargs="*", help="jobs of `vllm-conda matrix` to build")
    parser.add_argument("--render", action="store_true", help="time the rendering of all jobs")
    parser.add_argument("--keep", type=Path, help="folder for the packages")
    arguments = parser.parse_args()
    document: dict[str, Any] = {"machine": machine(), "jobs": {}, "render": None}
    if RESULTS.is_file():
        document |= json.loads(RESULTS.read_text(encoding="utf-8"))
        document["machine"] = machine()
    if arguments.render or not arguments.job:
        document["render"] = rendering()
        print(f"render --all: {document['render']}", flush=True)
    write(document)
    for job in arguments.job:
        document["jobs"][job] = measure(job, arguments.keep)
        print(f"{job}: {document['jobs'][job]}", flush=True)
        write(document)


if __name__ == "__main__":
    main()
