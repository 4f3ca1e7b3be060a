"""Whether tensor-parallel ranks sum by reading each other's memory or by NCCL."""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import Any

from vllm_kernels import engine_api
from vllm_kernels_plugin.errors import PluginError

VARIABLE = "VLLM_KERNELS_ALL_REDUCE"
CHOICES = ("auto", "direct", "nccl")
# The ranks with which sums and an engine's tokens have been compared; more are left to NCCL.
RANKS = 2
_NAMESPACE = "_C_custom_ar"
# Norms over ranks (MiniMax), which have been run on one GPU alone; the engine's own sum through
# NCCL. It shares memory for them by a module that it imports without asking.
_NORMS = "minimax_allreduce_rms_qk"
_SHARES_BY = ("cuda", "cuda.bindings")


def _choice() -> str:
    choice = os.environ.get(VARIABLE) or CHOICES[0]
    if choice not in CHOICES:
        raise PluginError(f"{VARIABLE}={choice} is not one of: {', '.join(CHOICES)}")
    return choice


def left_out() -> frozenset[str]:
    """The ops that the engine shall not find: it then uses NCCL.

    Raises:
        PluginError: the variable has another value.
    """
    ops = {op for op in engine_api.ops() if engine_api.namespace_of(op) == _NAMESPACE}
    references = engine_api.reference_ops()
    left = ops if _choice() == "nccl" else ops.intersection(references)
    if _choice() != "direct" or _NORMS in references or not all(map(_installed, _SHARES_BY)):
        left = left | {_NORMS}
    return frozenset(left)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def bound(parallel: Any, logger: logging.Logger) -> None:
    """Switch the engine's direct sums off for more ranks than they have been run with.

    Args:
        parallel: The engine's ``ParallelConfig``.
    """
    ranks = parallel.tensor_parallel_size
    if _choice() != "auto" or ranks <= RANKS or parallel.disable_custom_all_reduce:
        return
    parallel.disable_custom_all_reduce = True
    logger.info(
        "%d tensor-parallel ranks sum through NCCL: direct sums have been run with %d; "
        "%s=direct takes them",
        ranks,
        RANKS,
        VARIABLE,
    )
