"""Cases of a test's normal run, and all of them in the slow ring."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest
import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
SLOW_VARIABLE = "VLLM_CONDA_TEST_SLOW"


def with_dtypes(name: str, values: Iterable[object]) -> pytest.MarkDecorator:
    """The arguments ``dtype`` and ``name``: each value with one dtype in turn, on every tier.

    Every two of tier, dtype and value meet in a normal run where there are three values or more;
    with VLLM_CONDA_TEST_SLOW=1 every three do.
    """
    every = os.environ.get(SLOW_VARIABLE) == "1"
    cases = [
        pytest.param(dtype, value, id=f"{word}-{value}")
        for at, value in enumerate(values)
        for turn, (word, dtype) in enumerate(DTYPES.items())
        if every or turn == at % len(DTYPES)
    ]
    return pytest.mark.parametrize(("dtype", name), cases)
