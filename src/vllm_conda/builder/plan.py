"""What one run renders: the recipe's outputs for each of its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_conda.builder.channel import Toolchain
from vllm_conda.generate.variants import variant_file
from vllm_conda.jobs import Job
from vllm_conda.recipe import Output, Recipe, render, variant_values
from vllm_conda.targets import Targets


@dataclass(frozen=True)
class Plan:
    """The jobs of one run with what the recipe makes of them.

    Attributes:
        keys: Variant keys by job name.
    """

    recipe: Recipe
    targets: Targets
    jobs: tuple[Job, ...]
    outputs: list[Output]
    keys: dict[str, dict[str, list[str]]]

    def uses(self) -> dict[str, set[str]]:
        """Job names by package file."""
        found: dict[str, set[str]] = {}
        for output in self.outputs:
            found.setdefault(output.file_name, set()).add(output.job.name)
        return found

    def distinct(self) -> list[Output]:
        """Each package once: vllm-core is the same from every job of a platform."""
        found: dict[str, Output] = {}
        for output in self.outputs:
            found.setdefault(output.file_name, output)
        return list(found.values())


def make_plan(
    recipe: Recipe, targets: Targets, jobs: Sequence[Job], toolchain: Toolchain | None = None
) -> Plan:
    """Render each job, for ``toolchain`` or, without one, from its variant file alone."""
    outputs: list[Output] = []
    keys = {}
    for job in jobs:
        variant = variant_values(recipe.root, job, variant_file(targets, job))
        overrides = toolchain.overrides if toolchain else {}
        keys[job.name] = variant | {key: [value] for key, value in overrides.items()}
        outputs += render(
            recipe,
            job,
            variant,
            overrides,
            toolchain.fingerprint if toolchain else "",
            toolchain.cuda_fingerprint(job.cuda) if toolchain else "",
        )
    return Plan(recipe, targets, tuple(jobs), outputs, keys)
