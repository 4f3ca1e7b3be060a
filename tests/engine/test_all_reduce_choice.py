"""Whether the engine finds the sums that read other GPUs' memory."""

from __future__ import annotations

import pytest
from conftest import Engine

ASK = """
from vllm_kernels import engine_api
from vllm_kernels_plugin import all_reduce
from vllm_kernels_plugin.errors import PluginError
every = {op for op in engine_api.ops() if engine_api.namespace_of(op) == "_C_custom_ar"}
engine_api.reference_ops = lambda: REFERENCES
try:
    left = all_reduce.left_out()
    print("all" if left == every else sorted(left))
except PluginError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("value", "references", "answer"),
    [
        ("", "set()", "all"),
        ("direct", "set()", "[]"),
        ("nccl", "set()", "all"),
        # References of collectives sum one rank only.
        ("direct", "set(every)", "all"),
        ("ring", "set()", "VLLM_KERNELS_ALL_REDUCE=ring is not one of: nccl, direct"),
    ],
)
def test_choice(engine: Engine, value: str, references: str, answer: str) -> None:
    done = engine.run(ASK.replace("REFERENCES", references), VLLM_KERNELS_ALL_REDUCE=value)
    assert done.stdout.splitlines() == [answer], done.stderr
