"""Which GPUs and installations can run the kernels for compute capability 9.0."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels import engine_api


def skip_unless_served(op: str) -> None:
    """Skips where the GPU is of another kind, or no kernel of ``op`` is installed.

    The general package's tests hold those of kernels that are in packages of their own.
    """
    capability = torch.cuda.get_device_capability()
    if capability != (9, 0):
        pytest.skip(f"{op} has no code for {capability[0]}.{capability[1]}")
    if problem := engine_api.cuda_problem(op):
        pytest.skip(problem)
