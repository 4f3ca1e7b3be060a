"""The recipe as the jobs of the CPU render it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from support import ROOT

from vllm_conda.generate.variants import variant_file
from vllm_conda.jobs import Job, select
from vllm_conda.recipe import load_recipe
from vllm_conda.render import Output, render, variant_values
from vllm_conda.targets import load_targets

TARGETS = load_targets(ROOT)
JOBS = select(TARGETS, platforms=["linux-64"], devices=["cpu"])


def outputs(
    root: Path, toolchain: str = "", jobs: Sequence[Job] = JOBS
) -> dict[tuple[str, str], Output]:
    recipe = load_recipe(root)
    return {
        (job.name, output.name): output
        for job in jobs
        for output in render(
            recipe,
            job,
            variant_values(root, job, variant_file(TARGETS, job)),
            toolchain=toolchain,
        )
    }


def staging_key(output: Output) -> str:
    """What rattler-build keys a staging build by: its rendered script and requirements."""
    return json.dumps([cache.to_dict() for cache in output.rendered.recipe.staging_caches])


def recipe_data() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    return data
