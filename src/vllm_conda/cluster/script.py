"""The batch script of one task, which is all that a cluster gets to see."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_conda.jobs import Job
from vllm_conda.paths import CACHE_VARIABLE, cache_root
from vllm_conda.resources import Resources

SCRIPT_FILE = "task.sh"


@dataclass(frozen=True)
class Place:
    """Where a task reads and writes; on a file system that login and compute nodes share.

    Attributes:
        root: The checkout.
        folder: The task's own.
    """

    root: Path
    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "channel"

    @property
    def script(self) -> Path:
        return self.folder / SCRIPT_FILE

    @property
    def number(self) -> Path:
        """Holds Slurm's number of the task that was submitted last."""
        return self.folder / "number"

    @property
    def log(self) -> Path:
        """Everything that the task printed, over all its restarts."""
        return self.folder / "task.log"


def batch_script(
    place: Place,
    job: Job,
    need: Resources,
    channels: Sequence[str] = (),
    extra: Sequence[str] = (),
) -> str:
    """Text of the script.

    Args:
        extra: Options of sbatch. They come last, so that they replace what is asked for otherwise.
    """
    options = [
        f"--job-name=vllm-conda-{job.name}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={need.cores}",
        f"--mem={need.memory_mib}M",
        f"--time={need.minutes}",
        # A preempted task goes back into the queue and continues with what it has.
        "--requeue",
        "--open-mode=append",
        f"--output={_pattern(place.log)}",
        f"--chdir={place.root}",
        *extra,
    ]
    settings = {CACHE_VARIABLE: str(cache_root())}
    # The rest of the environment is passed by sbatch; this one decides which code runs.
    settings |= {name: os.environ[name] for name in ("PYTHONPATH",) if os.environ.get(name)}
    words = [sys.executable, "-m", "vllm_conda", "build", "--task", "--root", str(place.root)]
    words += ["--variant", job.name, "--output", str(place.output), "--jobs", str(need.cores)]
    for channel in channels:
        words += ["--channel", channel]
    return (
        "#!/bin/bash\n"
        + "".join(f"#SBATCH {_option(one)}\n" for one in options)
        + "set -euo pipefail\n"
        + 'echo "task ${SLURM_JOB_ID:-} on $(hostname), start ${SLURM_RESTART_COUNT:-0}"\n'
        + "".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())
        + f"exec {shlex.join(words)}\n"
    )


def _option(text: str) -> str:
    """Slurm reads these lines by rules of its own: blanks separate, double quotes hold together."""
    return f'"{text}"' if any(letter.isspace() for letter in text) else text


def _pattern(path: Path) -> str:
    """A file name in which Slurm replaces nothing."""
    return str(path).replace("%", "%%")
