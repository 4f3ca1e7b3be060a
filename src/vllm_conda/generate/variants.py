"""variants/JOB.yaml: the variant keys of each job."""

from __future__ import annotations

from vllm_conda.generate.text import header
from vllm_conda.jobs import Job, variant_keys
from vllm_conda.targets import Targets


def variant_file(targets: Targets, job: Job) -> str:
    """One job's variant file: every key of it, so that ``-m`` with this file is enough."""
    # rattler-build ignores target_platform here; conda-smithy's files carry it all the same.
    keys = {"target_platform": job.platform, **variant_keys(targets, job)}
    return header("#") + "".join(f'{key}: ["{value}"]\n' for key, value in keys.items())
