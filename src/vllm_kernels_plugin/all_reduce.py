"""Whether tensor-parallel ranks sum by reading each other's memory or by NCCL."""

from __future__ import annotations

import os

from vllm_kernels import engine_api
from vllm_kernels_plugin.errors import PluginError

VARIABLE = "VLLM_KERNELS_ALL_REDUCE"
# On two GPUs the sums are right and faster than NCCL's, but no engine's tokens through them have
# been compared with one rank's: NCCL, until they have.
CHOICES = ("nccl", "direct")
_NAMESPACE = "_C_custom_ar"


def left_out() -> frozenset[str]:
    """The ops that the engine shall not find: it then uses NCCL.

    Raises:
        PluginError: the variable has another value.
    """
    choice = os.environ.get(VARIABLE) or CHOICES[0]
    if choice not in CHOICES:
        raise PluginError(f"{VARIABLE}={choice} is not one of: {', '.join(CHOICES)}")
    ops = {op for op in engine_api.ops() if engine_api.namespace_of(op) == _NAMESPACE}
    return frozenset(ops if choice == "nccl" else ops.intersection(engine_api.reference_ops()))
