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
    left = all_reduce.left_out() - {"minimax_allreduce_rms_qk"}
    print("all" if left == every else sorted(left))
except PluginError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("value", "references", "answer"),
    [
        ("", "set()", "[]"),
        ("auto", "set()", "[]"),
        ("direct", "set()", "[]"),
        ("nccl", "set()", "all"),
        # References of collectives sum one rank only.
        ("", "set(every)", "all"),
        ("direct", "set(every)", "all"),
        ("ring", "set()", "VLLM_KERNELS_ALL_REDUCE=ring is not one of: auto, direct, nccl"),
    ],
)
def test_choice(engine: Engine, value: str, references: str, answer: str) -> None:
    done = engine.run(ASK.replace("REFERENCES", references), VLLM_KERNELS_ALL_REDUCE=value)
    assert done.stdout.splitlines() == [answer], done.stderr


NORMS = """
from vllm_kernels import engine_api
from vllm_kernels_plugin import all_reduce
engine_api.reference_ops = lambda: REFERENCES
all_reduce._installed = lambda module: INSTALLED
print("minimax_allreduce_rms_qk" in all_reduce.left_out())
"""


@pytest.mark.parametrize(
    ("value", "references", "installed", "left"),
    [
        ("", "set()", True, True),
        ("nccl", "set()", True, True),
        ("direct", "set()", True, False),
        # What the engine shares memory by is not there.
        ("direct", "set()", False, True),
        ("direct", "{'minimax_allreduce_rms_qk'}", True, True),
    ],
)
def test_norms_over_ranks_are_served_where_they_are_asked_for(
    engine: Engine, value: str, references: str, installed: bool, left: bool
) -> None:
    code = NORMS.replace("REFERENCES", references).replace("INSTALLED", str(installed))
    done = engine.run(code, VLLM_KERNELS_ALL_REDUCE=value)
    assert done.stdout.splitlines() == [str(left)], done.stderr


BOUND = """
import logging, sys
from types import SimpleNamespace
from vllm_kernels_plugin import all_reduce
logger = logging.getLogger("test")
logger.addHandler(logging.StreamHandler(sys.stdout))
logger.setLevel(logging.INFO)
parallel = SimpleNamespace(tensor_parallel_size=RANKS, disable_custom_all_reduce=OFF)
all_reduce.bound(parallel, logger)
print(parallel.disable_custom_all_reduce)
"""
SAID = (
    "4 tensor-parallel ranks sum through NCCL: direct sums have been run with 2; "
    "VLLM_KERNELS_ALL_REDUCE=direct takes them"
)


@pytest.mark.parametrize(
    ("value", "ranks", "off", "answer"),
    [
        ("", 1, False, ["False"]),
        ("", 2, False, ["False"]),
        ("", 4, False, [SAID, "True"]),
        ("", 4, True, ["True"]),
        ("direct", 4, False, ["False"]),
        ("nccl", 4, False, ["False"]),
    ],
)
def test_more_ranks_than_have_been_run(
    engine: Engine, value: str, ranks: int, off: bool, answer: list[str]
) -> None:
    code = BOUND.replace("RANKS", str(ranks)).replace("OFF", str(off))
    done = engine.run(code, VLLM_KERNELS_ALL_REDUCE=value)
    assert done.stdout.splitlines() == answer, done.stderr
