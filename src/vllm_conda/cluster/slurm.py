"""Slurm's own commands: submit, ask for states, cancel; what they say in one sentence."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_conda import processes
from vllm_conda.errors import ClusterError, MissingToolError

# A restarting controller does not answer for a while.
PATIENCE_SECONDS = 300.0
_RETRY_SECONDS = 5.0
_ALIVE = {
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_FED",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
}
# Why a waiting task never starts unless somebody changes it or the cluster.
_HOPELESS = {
    "AccountNotAllowed": "the account is not allowed in the partition",
    "BadConstraints": "no node of the partition has what it asks for",
    "InvalidAccount": "the account is not known",
    "InvalidQOS": "the quality of service is not known",
    "JobHeldAdmin": "an administrator holds it",
    "JobHoldMaxRequeue": "it was requeued as often as the cluster allows",
    "PartitionConfig": "it asks for more cores, memory or time than the partition has",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "PartitionNodeLimit": "the partition does not allow that many nodes",
    "PartitionTimeLimit": "its time limit is above the partition's",
    "QOSNotAllowed": "the quality of service is not allowed in the partition",
}
_REFUSAL = re.compile(r"^sbatch: error: (?:Batch job submission failed: )?(.+)$", re.M)


@dataclass(frozen=True)
class State:
    """What Slurm says of a task.

    Attributes:
        word: Slurm's own, such as ``RUNNING``; empty: it no longer knows the task.
        reason: Why it waits or ended, in Slurm's word.
        node: Where it runs or ran.
    """

    word: str
    reason: str = ""
    node: str = ""

    @property
    def alive(self) -> bool:
        return self.word in _ALIVE

    @property
    def hopeless(self) -> str:
        """Why it would wait for ever; empty where it would not."""
        return _HOPELESS.get(self.reason, "") if self.word == "PENDING" else ""


UNKNOWN = State("")


def require() -> None:
    """Look for Slurm's commands before anything is prepared.

    Raises:
        MissingToolError: This machine does not submit to a Slurm cluster.
    """
    for name in ("sbatch", "squeue", "scancel"):
        if shutil.which(name) is None:
            raise MissingToolError(
                f"{name} is not on this machine, so nothing can be submitted to Slurm.",
                "Run this on a login node of the cluster, or leave --on out to build here.",
            )


def submit(script: Path, title: str) -> str:
    """Submit a batch script and return the task's number.

    Raises:
        ClusterError: Slurm refuses it, in Slurm's words.
    """
    done = _run(["sbatch", "--parsable", str(script)])
    if done.returncode == 0:
        return done.stdout.strip().split(";")[0]
    # Slurm repeats the sentence in other words; the last is the one of the controller.
    found = _REFUSAL.findall(done.stderr) or [done.stderr.strip() or f"exit code {done.returncode}"]
    reason = found[-1].strip().rstrip(".")
    raise ClusterError(
        f"Slurm refuses the task {title}: {reason}.",
        f"Look at {script} and `sinfo`; change what it asks for with --jobs or --sbatch.",
    )


def states(ids: Iterable[str], wait: Callable[[float], None] = time.sleep) -> dict[str, State]:
    """What Slurm says of each task, in one request.

    Raises:
        ClusterError: It has not answered for some minutes. The tasks go on.
    """
    wanted = list(ids)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        done = _run(["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T|%r|%N"])
        if done.returncode == 0:
            break
        if time.monotonic() > deadline:
            reason = " ".join(done.stderr.split()).rstrip(".") or f"exit code {done.returncode}"
            raise ClusterError(
                f"Slurm does not answer: {reason}.",
                "The tasks go on. Run the same command again to collect what they make.",
            )
        wait(_RETRY_SECONDS)
    found = {}
    for line in done.stdout.splitlines():
        number, word, reason, node = (*line.split("|"), "", "", "")[:4]
        found[number] = State(word, "" if reason == "None" else reason, node)
    return {number: found.get(number) or _accounted(number) for number in wanted}


def _accounted(number: str) -> State:
    """From the accounting database, which not every cluster has: of a task long ended."""
    if shutil.which("sacct") is None:
        return UNKNOWN
    done = _run(["sacct", "-X", "-n", "-P", "-j", number, "-o", "State,NodeList"])
    if done.returncode or not done.stdout.strip():
        return UNKNOWN
    word, _, node = done.stdout.splitlines()[-1].partition("|")
    return State(word.split()[0], "", node)


def cancel(ids: Iterable[str]) -> None:
    """End tasks; one that has ended already is no error."""
    if numbers := list(ids):
        _run(["scancel", "--quiet", *numbers])


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        # A task gets the variables of its submission, which has ended when it runs.
        given = processes.callers_environment()
        return processes.run(command, 120, capture_output=True, text=True, env=given)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(list(command), 1, "", "no answer within two minutes")
