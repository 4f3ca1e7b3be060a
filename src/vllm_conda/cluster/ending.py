"""How a task ended, in one sentence: Slurm's state, or the build's own error in its log."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vllm_conda.cluster.script import Place
from vllm_conda.cluster.slurm import State
from vllm_conda.resources import Resources

_START = re.compile(r"^task \d+ on ", re.M)
_ERROR = re.compile(r"^error: (.+?)(?=^  -> |\Z)", re.M | re.S)
_MEMORY = re.compile(r"exceeded (job )?memory limit|oom[-_]kill|out of memory", re.I)
_LONGEST_LINES = 12


@dataclass(frozen=True)
class Ending:
    """Why a task made no packages, and the option that helps."""

    reason: str
    option: str = ""


def ending(state: State, place: Place, need: Resources) -> Ending:
    """Why the task ended without its packages."""
    last = _last_start(place)
    where = f" on {state.node}" if state.node else ""
    if state.hopeless:
        return Ending(f"it would wait for ever: {state.hopeless}")
    # Some clusters report a task that was ended for memory as merely failed.
    if state.word == "OUT_OF_MEMORY" or (state.word != "COMPLETED" and _MEMORY.search(last)):
        return Ending(
            f"it needed more than its {need.memory_mib} MiB of memory{where}",
            f"--sbatch=--mem={2 * need.memory_mib}M",
        )
    if state.word == "TIMEOUT":
        return Ending(
            f"it did not end within its time limit{where} ({need.minutes} minutes unless --sbatch "
            "said otherwise)",
            f"--sbatch=--time={2 * need.minutes}",
        )
    if error := _own_error(last):
        return Ending(error)
    words = {
        "CANCELLED": "somebody cancelled it",
        "PREEMPTED": "it was preempted and not requeued",
        "NODE_FAIL": "its node failed",
        "BOOT_FAIL": "its node did not start",
        "DEADLINE": "its deadline passed",
        "REVOKED": "it was revoked",
        "COMPLETED": "it ended without its packages",
        "": "Slurm no longer knows it, and it left no packages",
    }
    known = words.get(state.word)
    detail = "" if known else f" ({state.word}{', ' + state.reason if state.reason else ''})"
    return Ending(f"{known or 'it failed'}{where}{detail}")


def _last_start(place: Place) -> str:
    """What the log holds since the task was started last."""
    try:
        text = place.log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    starts = [found.start() for found in _START.finditer(text)]
    return text[starts[-1] if starts else 0 :]


def _own_error(text: str) -> str:
    """The message of `vllm-conda build` at the end of a log."""
    found = _ERROR.findall(text)
    lines = found[-1].strip().splitlines() if found else []
    return "\n  ".join(line.strip() for line in lines[:_LONGEST_LINES])
