"""``.ci_support/*.yaml``: one configuration a feedstock job, in conda-smithy's form and naming."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vllm_conda.feedstock.config import (
    COMPILER_GROUP,
    feedstock_bound,
    feedstock_jobs,
    python_spec,
    rows,
    slice_bounds,
)
from vllm_conda.jobs import ENGINE_KEY, NO_CUDA, Job, variant_keys
from vllm_conda.recipe import Recipe
from vllm_conda.render import render
from vllm_conda.targets import Targets

FOLDER = Path(".ci_support")
# conda-smithy replaces characters that file systems and shells dislike.
_UNSAFE = re.compile(r"""[<>:?*,"/\\| ]""")
# Kept below the limits of file systems and of GitHub's names of jobs.
_LONGEST = 200
CHANNELS = {"channel_sources": "conda-forge", "channel_targets": "conda-forge main"}


@dataclass(frozen=True)
class Configuration:
    """One file: its name without suffix, the job that it is for, and its keys."""

    name: str
    job: Job
    keys: dict[str, Any]

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.yaml"

    @property
    def text(self) -> str:
        return str(yaml.safe_dump(self.keys, default_flow_style=False, sort_keys=False))


def docker_image(targets: Targets, platform: str) -> str:
    """conda-forge's build container of a platform."""
    machine = targets.platforms[platform].machine
    return f"quay.io/condaforge/linux-anvil-{machine}:{targets.feedstock.image}"


def job_values(targets: Targets, job: Job) -> dict[str, str]:
    """Every variant key of a feedstock job: the table's, its compilers and conda-forge's pins."""
    row = next(row for row in rows(targets, job.platform) if row.cuda == (job.cuda or NO_CUDA))
    compilers = {key: row.value(key) for key in COMPILER_GROUP if row.value(key)}
    own = variant_keys(targets, job)
    # One toolkit a major version: the recipe's default, since a key cannot differ by CUDA version.
    own.pop("cuda_driver_bound", None)
    # conda-smithy gives a platform's keys to each of its jobs.
    for key, bounds in slice_bounds(targets).items():
        if job.platform in bounds:
            own[key] = bounds[job.platform]
    return {
        **targets.feedstock.pins,
        **CHANNELS,
        "python": python_spec(targets),
        **own,
        "cuda_arch_bound": feedstock_bound(targets, job.platform),
        **compilers,
    }


def used_keys(targets: Targets, recipe: Recipe, chosen: Sequence[Job]) -> set[str]:
    """Variant keys that any package of these jobs depends on."""
    known: set[str] = set()
    found: set[str] = set()
    for job in chosen:
        values = job_values(targets, job)
        known |= set(values)
        for output in render(recipe, job, {key: [value] for key, value in values.items()}):
            found |= set(output.variant)
            for staging in output.rendered.recipe.staging_caches:
                specs = staging.to_dict().get("requirements", {}).get("host", [])
                found |= {str(spec).replace("-", "_") for spec in specs}
    return ((found | {ENGINE_KEY}) & known) | set(CHANNELS)


def configurations(targets: Targets, recipe: Recipe) -> list[Configuration]:
    """All configurations, platform by platform."""
    found: list[Configuration] = []
    for platform in targets.platforms:
        chosen = [job for job in feedstock_jobs(targets) if job.platform == platform]
        used = used_keys(targets, recipe, chosen)
        values = [{k: v for k, v in job_values(targets, j).items() if k in used} for j in chosen]
        # What a job's name says: the keys that differ between the platform's jobs.
        loop = sorted(key for key in used if len({value.get(key) for value in values}) > 1)
        for job, own in zip(chosen, values, strict=True):
            keys = _document(targets, job, own)
            named = [(key, own[key]) for key in loop]
            found.append(Configuration(configuration_name(platform, named), job, keys))
    return found


def configuration_name(platform: str, loop: Sequence[tuple[str, str]]) -> str:
    """``linux_64_cuda_compiler_version12.9microarch_level3``."""
    words = "".join(f"{key}{_UNSAFE.sub('_', value)}" for key, value in sorted(loop))
    name = f"{platform.replace('-', '_')}_{words}"
    if len(name) > _LONGEST:
        raise ValueError(f"{name} is too long for a file name")
    return name


def _document(targets: Targets, job: Job, own: dict[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = {
        **{key: [value] for key, value in own.items()},
        "docker_image": [docker_image(targets, job.platform)],
        "target_platform": [job.platform],
    }
    if "python" in own:
        document["pin_run_as_build"] = {"python": {"min_pin": "x.x", "max_pin": "x.x"}}
    group = [key for key in COMPILER_GROUP if key in own]
    if len(group) > 1:
        document["zip_keys"] = [group]
    return dict(sorted(document.items()))
