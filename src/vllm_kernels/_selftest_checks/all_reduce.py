from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check("rank_sum")
def _rank_sum(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    out = torch.empty(67, dtype=dtype)
    ops.rank_sum(out, torch.randn(3, 67, dtype=dtype))
    return [out]


@check(
    "init_shm_manager",
    "join_shm_manager",
    "shm_allreduce",
    "shm_gather",
    "shm_all_gather",
    dtypes=(torch.bfloat16,),
)
def _group_of_one(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    name = f"self-test-{os.getpid()}"
    handle = ops.init_shm_manager(name, 1, 0, 1)
    ops.join_shm_manager(handle, name)
    x = torch.randn(3, 67, dtype=dtype)
    summed, gathered, whole = x.clone(), torch.empty_like(x), torch.empty_like(x)
    ops.shm_allreduce(handle, summed)
    ops.shm_gather(handle, x, [gathered], 0)
    ops.shm_all_gather(handle, x, whole)
    return [summed, gathered, whole]


@check("shm_send_tensor_list", "shm_recv_tensor_list", dtypes=(torch.bfloat16,))
def _messages(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Both ranks in this process: what is sent waits until it is received."""
    name = f"self-test-messages-{os.getpid()}"
    handles = [ops.init_shm_manager(name, 2, rank, 1) for rank in range(2)]
    for handle in handles:
        ops.join_shm_manager(handle, name)
    sent = [torch.randn(3, 67, dtype=dtype).t(), torch.arange(5), torch.empty(0, 4)]
    ops.shm_send_tensor_list(handles[0], sent, 1)
    return list(ops.shm_recv_tensor_list(handles[1], 0))
