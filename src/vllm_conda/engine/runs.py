"""Runs the engine's test programs, several at a time, and gathers what they found."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from vllm_conda.engine import left_out
from vllm_conda.engine.cases import PROGRAMS, Case, Job, Options, cases, jobs, why_none
from vllm_conda.errors import ConfigError, TestFailure, UsageError
from vllm_conda.paths import disk_errors, private_folder, write_atomic
from vllm_conda.processes import run as run_guarded
from vllm_conda.processes import stop_signal
from vllm_conda.progress import Reporter

# Runs a command with variables of its own; its exit status. TimeoutExpired after so many seconds.
Start = Callable[[Sequence[str], Path, IO[str], Mapping[str, str], float], int]
FACTS_SECONDS = 300.0
# Each keeps 1 GiB of keys and values, and its context on the GPU takes as much.
GIB_EACH = 3
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
# What a run that goes on has to have in common with the one before it.
SAME_FACTS = ("engine", "name", "versions", "build", "device")


@dataclass(frozen=True)
class Place:
    """Where the programs run and what they leave.

    Attributes:
        start: Runs a command in the engine's environment.
        folder: Keeps models, compiled code and the programs' own results.
        logs: A log a process.
        result: The document of all results.
    """

    start: Start
    folder: Path
    logs: Path
    result: Path

    def log(self, name: str) -> Path:
        with disk_errors("a log", self.logs):
            self.logs.mkdir(parents=True, exist_ok=True)
        return self.logs / f"{name.replace(' ', '-')}.log"


def logs(options: Options) -> Path:
    """Where the test's logs are."""
    return private_folder(options.output) / "logs" / "engine-test"


def result_path(options: Options) -> Path:
    """The file that holds the results of a device."""
    suffix = "" if options.device == "cpu" else f"-{options.device}"
    return private_folder(options.output) / f"engine-test{suffix}.json"


def in_environment(python: str, options: Options, reporter: Reporter) -> dict[str, Any]:
    """Run every case with an interpreter that finds the engine and the kernels.

    Raises:
        TestFailure: A run failed or gave wrong tokens.
        ConfigError: The interpreter has no engine, or not the device.
    """

    def start(
        words: Sequence[str], folder: Path, log: IO[str], more: Mapping[str, str], limit: float
    ) -> int:
        command = [python if word == "python" else word for word in words]
        environment = {**os.environ, **more}
        found = run_guarded(
            command, limit, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        return found.returncode

    folder = private_folder(options.output) / "engine-test"
    return run(Place(start, folder, logs(options), result_path(options)), options, reporter)


def run(place: Place, options: Options, reporter: Reporter) -> dict[str, Any]:
    """Run every case; return the document of what each found, which is also written as they end.

    Raises:
        TestFailure: A run failed or gave wrong tokens.
        ConfigError: The environment has no engine, or not the device.
        UsageError: The engine that is there leaves nothing to run.
    """
    with disk_errors("the test's folder", place.folder):
        place.folder.mkdir(parents=True, exist_ok=True)
        place.result.parent.mkdir(parents=True, exist_ok=True)
    facts = _facts(place, options)
    lacks = left_out.packages() - facts["versions"].keys()
    options = replace(options, gpus=facts["gpus"], engine=facts["engine"], lacks=lacks)
    if why := why_none(options):
        raise UsageError(why)
    options = replace(options, at_once=processes_at_once(options, facts["gib"]))
    document: dict[str, Any] = {
        **facts,
        "device": options.device,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "rows": [],
    }
    kept = _found_before(place, document) if options.resume else {}
    asked = cases(options)
    recorded = options.recorded(facts["engine"], facts["name"])
    rest = [case for case in asked if case.name not in kept]
    # What nobody has seen right comes first: a run that is cut short has it.
    rest.sort(key=lambda case: case.key in recorded)
    chosen = list(jobs(rest, options.at_once))
    by_job: list[list[dict[str, Any]]] = [[] for _ in chosen]
    writing = threading.Lock()

    def one(index: int, gpus: Sequence[str]) -> None:
        if stop_signal():
            return
        found = _run(chosen[index], gpus, place, options, reporter)
        with writing:
            by_job[index] = found
            document["rows"] = _in_order(asked, kept, by_job)
            write_atomic(place.result, json.dumps(document, indent=1) + "\n")

    document["rows"] = _in_order(asked, kept, by_job)
    write_atomic(place.result, json.dumps(document, indent=1) + "\n")
    _spread(chosen, one, _visible(options), options.at_once)
    rows = document["rows"]
    wrong = [row for row in rows if not row["right"]]
    if wrong:
        lines = "\n  ".join(f"{row['case']}: {why_wrong(row)}" for row in wrong)
        raise TestFailure(
            f"{len(wrong)} of {len(rows)} runs of the engine are not right:\n  {lines}",
            f"Logs: {place.logs}",
        )
    return document


def processes_at_once(options: Options, gib: float) -> int:
    """How many were asked for, or how many the machine has room for, whose GPUs have ``gib`` GiB
    each.

    Starting and compiling, which nearly all of a run is, take less than one core: 28 processes on
    32 kept 24 busy.
    """
    if options.at_once or options.device == "cpu":
        return options.at_once or 1
    return max(1, min(int(gib / GIB_EACH) * options.gpus, len(os.sched_getaffinity(0))))


def _found_before(place: Place, document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the document of an earlier run has found right, case by case.

    Raises:
        UsageError: That run was another engine's, of other kernels or in another environment.
    """
    try:
        before = json.loads(place.result.read_text(encoding="utf-8"))
        same = all(before[fact] == document[fact] for fact in SAME_FACTS)
        rows = {row["case"]: {"date": before["date"], **row} for row in before["rows"]}
        kept = {name: row for name, row in rows.items() if row["right"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"{place.result} is no result to go on from.") from None
    if not same:
        raise UsageError(
            f"{place.result} was found with another engine, build of the kernels or environment.",
            "Leave --resume out to begin anew.",
        )
    return kept


def _in_order(
    asked: Sequence[Case],
    kept: Mapping[str, dict[str, Any]],
    by_job: Sequence[Sequence[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """The rows in their cases' order, whichever ends first; then what is kept and not asked for."""
    found = {**kept, **{row["case"]: row for rows in by_job for row in rows}}
    names = dict.fromkeys((*(case.name for case in asked), *kept))
    return [found[name] for name in names if name in found]


def _spread(
    chosen: Sequence[Job],
    one: Callable[[int, Sequence[str]], None],
    gpus: Sequence[str],
    at_once: int,
) -> None:
    """Call ``one`` for each job's index, with all GPUs, its own one first.

    Two ranks are one after another, beside the others: they wait for each other, and two pairs of
    them would wait for the same GPUs.
    """
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(at_once):
        free.put(place)

    def turn(indices: Sequence[int]) -> None:
        place = free.get()
        try:
            first = place % max(len(gpus), 1)
            for index in indices:
                one(index, [*gpus[first:], *gpus[:first]])
        finally:
            free.put(place)

    ranks = [index for index, job in enumerate(chosen) if job.cases[0].ranks]
    turns = [[index] for index in range(len(chosen)) if index not in ranks]
    with ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(turn, indices) for indices in (ranks, *turns) if indices]:
            done.result()


def _visible(options: Options) -> list[str]:
    """Names of the GPUs that the programs may use."""
    names = os.environ.get(VISIBLE_VARIABLE, "")
    listed = [name.strip() for name in names.split(",") if name.strip()]
    return listed[: options.gpus] or [str(index) for index in range(options.gpus)]


def _facts(place: Place, options: Options) -> dict[str, Any]:
    """What the environment is."""
    result, path = place.folder / "facts.json", place.log("facts")
    result.unlink(missing_ok=True)
    command = ["python", str(PROGRAMS / "facts.py"), str(result), "--device", options.device]
    with path.open("w") as log:
        code = place.start(command, place.folder, log, {}, FACTS_SECONDS)
    facts = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    if code or not facts.get("engine"):
        raise ConfigError(
            "The environment has no engine and kernels that run: " + last_line(path),
            f"Full log: {path}",
        )
    found: dict[str, Any] = facts
    return found


def settings(place: Place, job: Job, gpus: Sequence[str], at_once: int) -> dict[str, str]:
    """Variables of a process beside those of the environment."""
    cache = place.folder / "cache"
    # What one process's Triton has compiled, the others take; some engines would keep it by model.
    found = {"VLLM_CACHE_ROOT": str(cache), "TRITON_CACHE_DIR": str(cache / "triton")}
    if wanted := max(case.gpus for case in job.cases):
        # One order for all ranks: engines that take two GPUs in opposite orders may wait in a ring.
        found[VISIBLE_VARIABLE] = ",".join(sorted(gpus[:wanted]))
    if at_once > 1:
        # Each would take all cores. To Inductor the engine itself gives one.
        found["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // at_once))
    return found


def _run(
    job: Job, gpus: Sequence[str], place: Place, options: Options, reporter: Reporter
) -> list[dict[str, Any]]:
    """A row a case; where a process ends early, another goes on after the case that ended it."""
    rows: list[dict[str, Any]] = []
    while len(rows) < len(job.cases) and not stop_signal():
        rest = Job(job.cases[len(rows) :])
        rows += _process(rest, gpus, place, options, reporter)
    return rows


def _process(
    job: Job, gpus: Sequence[str], place: Place, options: Options, reporter: Reporter
) -> list[dict[str, Any]]:
    """A row for each case that the process came to."""
    path = place.log(job.name)
    result = path.with_suffix(".json")
    result.unlink(missing_ok=True)
    started = time.monotonic()
    with reporter.task(job.name) as task, path.open("w") as log:
        command = job.command(place.folder / "models", result, path)
        variables = settings(place, job, gpus, options.at_once)
        ended = ""
        try:
            code = place.start(command, place.folder, log, variables, options.seconds)
        except subprocess.TimeoutExpired:
            code, ended = 1, f"not over after {options.seconds:g} s; "
        found = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else []
        rows = list(_rows(job, found, code, ended + last_line(path)))
        # What the end of the test cut short has found nothing.
        rows = rows[: len(found) if stop_signal() else len(found) + 1]
        wrong = [row["case"] for row in rows if not row["right"]]
        cut = "" if len(rows) == len(job.cases) else f", {len(rows)} of {len(job.cases)} have run"
        said = "right" if rows else "stopped"
        task.status((f"WRONG: {', '.join(wrong)}" if wrong else said) + cut)
    seconds = (time.monotonic() - started) / max(len(rows), 1)
    return [{**row, "seconds": round(seconds, 1)} for row in rows]


def _rows(
    job: Job, found: Sequence[dict[str, Any]], code: int, said: str
) -> Iterator[dict[str, Any]]:
    for index, case in enumerate(job.cases):
        row: dict[str, Any] = {
            "case": case.name, "program": case.program, "model": case.model,
            "dtype": case.dtype, "device": case.device, "mode": case.mode,
        }  # fmt: skip
        if index < len(found):
            ran = found[index].get("mode", case.mode)
            row |= {key: value for key, value in found[index].items() if key not in row}
            if ran not in case.runs_as:
                row |= {"right": False, "failure": f"the engine ran the model {ran}"}
        # A process of several cases may end early; what it has found by then counts.
        if index >= len(found) or (code and len(job.cases) == 1):
            row |= {"right": False, "failure": said}
        yield row


def last_line(path: Path) -> str:
    """What a process said last."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One line a run: what ran, how the tokens compare, how long it took."""
    return [[row["case"], row["mode"], words(row), f"{row['seconds']} s"] for row in rows]


def why_wrong(row: Mapping[str, Any]) -> str:
    """What a run found, and what of it is not right."""
    said = [words(row)]
    if "far_logprobs" in row:
        far, mean, allowed = row["far_logprobs"], row["mean_difference"], row["allowed"]
        few = allowed["outliers"] * row["tokens"]
        if row["misses"] > few:
            said.append(f"more than {allowed['outliers']:.0%} miss")
        if far > few:
            said.append(f"{far} log-probabilities are off by more than {allowed['logprob']}")
        if mean > allowed["mean"]:
            said.append(f"they are off by {mean} in the mean, more than {allowed['mean']}")
    # A batch's sums may round otherwise than a single prompt's, where nothing has to be exact.
    harmless = {"right"} if row.get("allowed", {}).get("exact", True) else {"right", "same_alone"}
    false = [name for name, value in row.items() if value is False and name not in harmless]
    if false:
        said.append(f"not so: {', '.join(false)}")
    return "; ".join(said)


def words(row: Mapping[str, Any]) -> str:
    """What a run found."""
    if "failure" in row:
        return str(row["failure"])
    if "tokens" in row:
        found = f"{row['chosen']}/{row['tokens']} tokens, {row['near_ties']} near ties"
        return f"{found}, {row['misses']} misses; {row['exact']}/{row['prompts']} prompts exact"
    if "seen" in row:
        return ", ".join(f"{name} {value}" for name, value in row["seen"].items())
    if "said" in row:
        return " ".join(row["said"].split())
    total = row["concurrent_requests"]
    found = f"{total - row['concurrent_wrong']}/{total} concurrent requests"
    return f"{found} in {row['concurrent_seconds']} s"
