"""The engine on the finished packages: small models against transformers, and its server."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_conda.builder.workspace import workspace_for
from vllm_conda.engine import files, package, sdist
from vllm_conda.engine.cases import Job, Options, cases, jobs
from vllm_conda.engine.interface.table import load as load_engines
from vllm_conda.environment import ensure_environment, run_in
from vllm_conda.errors import SolveError, TestFailure
from vllm_conda.packages import CPU, CUDA, serving
from vllm_conda.paths import disk_errors, private_folder, write_atomic
from vllm_conda.progress import Reporter
from vllm_conda.solve import virtual_packages
from vllm_conda.targets import load_targets

# What a user asks for, and nothing beside it.
SPECS = {device: (serving(device),) for device in (CPU, CUDA)}
FILES_CHECK = Path("recipe/engine/tests/check_engine.py")
# A build tree, a forced tier or another plugin mode of the caller would test something else.
CLEARED = (
    "VLLM_KERNELS_ALL_REDUCE",
    "VLLM_KERNELS_ATTENTION",
    "VLLM_KERNELS_BACKEND",
    "VLLM_KERNELS_CPU_COMPACT",
    "VLLM_KERNELS_CPU_ISA",
    "VLLM_KERNELS_DEVICE",
    "VLLM_KERNELS_ENGINE",
    "VLLM_KERNELS_LIBRARY_DIR",
    "VLLM_KERNELS_PLUGIN",
    "VLLM_PLUGINS",
)


def run(options: Options, reporter: Reporter) -> list[dict[str, Any]]:
    """Run every case; return what each found.

    Raises:
        TestFailure: A run failed or gave wrong tokens, or the engine's files are not upstream's.
        SolveError: There is no GPU to run on.
        VllmError: The engine's package or environment could not be made.
    """
    virtual = virtual_packages()
    if options.device == "cuda" and "__cuda" not in {one.name.normalized for one in virtual}:
        raise SolveError(
            "The engine's test on CUDA needs a GPU; this machine has no NVIDIA driver.",
            "Copy the checkout and output/ to a GPU host and run the same command there.",
        )
    engine = package.ensure(
        options.root, options.platform, options.output / package.FOLDER, options.channels, reporter
    )
    workspace = workspace_for(options.root)
    channels = [options.output.resolve().as_uri(), *engine.channels]
    prefix = ensure_environment(
        channels, SPECS[options.device], options.platform, workspace, reporter, virtual
    )
    folder = workspace.folder / "engine-test"
    with disk_errors("the test's folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    name = "engine-test.json" if options.device == "cpu" else f"engine-test-{options.device}.json"
    path = private_folder(options.output) / name
    rows: list[dict[str, Any]] = []
    registry = sdist.Registry(engine.channels, options.platform, workspace, reporter)
    release = load_targets(options.root).engine.release
    archive = registry.pinned(release, load_engines(options.root))
    _check_files(prefix, archive.path, options, folder, reporter)
    for job in jobs(cases(options)):
        rows += _run(job, prefix, folder, options, reporter)
        write_atomic(path, json.dumps(rows, indent=1) + "\n")
    wrong = [row for row in rows if not row["right"]]
    if wrong:
        lines = "\n  ".join(f"{row['case']}: {row.get('failure', row)}" for row in wrong)
        raise TestFailure(
            f"{len(wrong)} of {len(rows)} runs of the engine are not right:\n  {lines}",
            f"Logs: {_logs(options)}",
        )
    return rows


def _settings(folder: Path) -> dict[str, str]:
    """Variables of every program: the caller's that would change the test taken away."""
    return {**dict.fromkeys(CLEARED, ""), "VLLM_CACHE_ROOT": str(folder / "cache")}


def _check_files(
    prefix: Path, archive: Path, options: Options, folder: Path, reporter: Reporter
) -> None:
    """Upstream's files, no other, and what they require."""
    path = _log_path(options, "files")
    with reporter.task("compare the engine's files with upstream's") as task, path.open("w") as log:
        same, problems = files.differences(prefix, archive)
        log.writelines(f"{line}\n" for line in problems)
        log.flush()
        check = ["python", str(options.root / FILES_CHECK)]
        code = run_in(prefix, check, folder, log, _settings(folder))
        task.status(f"{same} files the same, {len(problems)} not")
    if code or problems:
        raise TestFailure(
            "The installed engine is not upstream's: " + _last_line(path), f"Full log: {path}"
        )


def _run(
    job: Job, prefix: Path, folder: Path, options: Options, reporter: Reporter
) -> list[dict[str, Any]]:
    """A row a case, also for those that a process that ended early never came to."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    path = _log_path(options, job.name.replace(" ", "-"))
    started = time.monotonic()
    with reporter.task(job.name) as task, path.open("w") as log:
        command = job.command(folder / "models", result, path)
        code = run_in(prefix, command, folder, log, _settings(folder))
        found = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else []
        rows: list[dict[str, Any]] = []
        for index, case in enumerate(job.cases):
            if index < len(found) and (not code or len(job.cases) > 1):
                row = {"case": case.name, **found[index]}
                if row["mode"] not in (case.mode, "serve"):
                    row |= {"right": False, "failure": f"the engine ran the model {row['mode']}"}
            else:
                row = {"case": case.name, "right": False, "failure": _last_line(path)}
            rows.append(row)
        wrong = [row["case"] for row in rows if not row["right"]]
        task.status(f"WRONG: {', '.join(wrong)}" if wrong else "right")
    seconds = (time.monotonic() - started) / len(rows)
    return [{**row, "seconds": round(seconds, 1)} for row in rows]


def _logs(options: Options) -> Path:
    return private_folder(options.output) / "logs" / "engine-test"


def _log_path(options: Options, name: str) -> Path:
    path = _logs(options) / f"{name}.log"
    with disk_errors("a log", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One line a run: what ran, how the tokens compare, how long it took."""
    lines = []
    for row in rows:
        if "tokens" in row:
            found = f"{row['chosen']}/{row['tokens']} tokens, {row['near_ties']} near ties"
            found += f", {row['misses']} misses; {row['exact']}/{row['prompts']} prompts exact"
        elif "seen" in row:
            found = ", ".join(f"{name} {value}" for name, value in row["seen"].items())
        elif "said" in row:
            found = " ".join(row["said"].split())
        else:
            total = row["concurrent_requests"]
            found = f"{total - row['concurrent_wrong']}/{total} concurrent requests"
            found += f" in {row['concurrent_seconds']} s"
        lines.append([row["case"], row["mode"], found, f"{row['seconds']} s"])
    return lines
