"""The build matrix: one job, and one variant file, per platform and CPU level."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_conda.errors import UsageError, did_you_mean
from vllm_conda.targets import Targets

DEVICE = "cpu"


@dataclass(frozen=True)
class Job:
    """One CI job: everything that one variant file builds."""

    name: str
    platform: str
    level: int

    @property
    def variant_file(self) -> str:
        return f"variants/{self.name}.yaml"


def jobs(targets: Targets) -> list[Job]:
    """All jobs, in the table's order."""
    return [
        Job(f"{platform}-{DEVICE}-{targets.level(entry.family, level).march}", platform, level)
        for platform, entry in targets.platforms.items()
        for level in entry.levels
    ]


def select(targets: Targets, names: tuple[str, ...]) -> list[Job]:
    """The jobs named in ``names``, or all of them.

    Raises:
        UsageError: An unknown job.
    """
    known = {job.name: job for job in jobs(targets)}
    for name in names:
        if name not in known:
            raise UsageError(
                f"Unknown variant {name!r}.{did_you_mean(name, known)}",
                f"Known: {', '.join(known)}.",
            )
    return [job for job in known.values() if not names or job.name in names]
