"""What one run renders: the recipe's outputs for each of its jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field

from vllm_conda.builder.channel import Toolchain
from vllm_conda.builder.commit import Origin, origin
from vllm_conda.generate.variants import variant_file
from vllm_conda.jobs import Job
from vllm_conda.recipe import Recipe
from vllm_conda.render import Output, render, variant_values
from vllm_conda.targets import Targets


@dataclass(frozen=True)
class Plan:
    """The jobs of one run with what the recipe makes of them.

    Attributes:
        keys: Variant keys by job name.
        origins: What each package says of its sources; empty for a plan that is not built.
    """

    recipe: Recipe
    targets: Targets
    jobs: tuple[Job, ...]
    outputs: list[Output]
    keys: dict[str, dict[str, list[str]]]
    origins: Mapping[str, Origin] = field(default_factory=dict)

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
    origins: dict[str, Origin] = {}
    if toolchain:
        origins = {name: origin(recipe.root, made) for name, made in recipe.made_of.items()}
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
            toolchain.toolkit_fingerprint(job.toolkit) if toolchain else "",
            _written(targets, job, origins),
        )
    return Plan(recipe, targets, tuple(jobs), outputs, keys, origins)


def _written(targets: Targets, job: Job, origins: Mapping[str, Origin]) -> dict[str, str]:
    """What is written into each package beside what is built, in words for its name's hash."""
    entry = targets.platforms[job.platform]
    promised = (entry.glibc, entry.libstdcxx)
    return {name: repr((*astuple(one), *promised)) for name, one in origins.items()}
