"""Where the valid calls come from that the strategies change.

On the CPU from the self-test, which calls every op there, and from a few more weights. On a GPU
from the tests of the CUDA kernels, whose calls record.py keeps.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from vllm_kernels import engine_api

from . import ranks
from .calls import Call, families, full, recorded
from .oracle import Oracle
from .record import VARIABLE, read

# They trust addresses or the life of a tensor; wait for other ranks, which make no calls; or have
# no kernel of ours.
LEFT_OUT = (
    "fp32_router_gemm",
    "concat_and_cache_mla_grouped", "swap_blocks_batch", "weak_ref_tensor", "free_shared_buffer",
    "init_custom_ar", "minimax_allreduce_rms_qk", "init_shm_manager", "join_shm_manager",
    "shm_allreduce", "shm_all_gather", "shm_gather", "shm_send_tensor_list",
    "shm_recv_tensor_list",
)  # fmt: skip
# What stands for NaN: smaller than most results, for their size decides how far one may be off.
_UNTOUCHED = 0.25
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_FLOATS8 = (torch.float8_e4m3fn, torch.float8_e5m2)
# Depth and columns of weights: whole panels and remainders.
_WEIGHTS = ((1, 1), (16, 32), (33, 65), (64, 48), (130, 17))


def ops_of(family: str, device: str) -> list[str]:
    """The ops of a family that are fuzzed."""
    return [op for op in families(device)[family] if op not in LEFT_OUT]


def bases(family: str, device: str, oracle: Oracle | None) -> dict[str, list[Call]]:
    """Valid calls of each op of the family that has any; on the CPU the oracle's too."""
    if device == "cuda":
        path = Path(os.environ[VARIABLE])
        calls = [_comparable(call) for call in read(path, ops_of(family, device))]
        calls += _without_tensors()
        if family == "all_reduce":
            calls += ranks.valid(device)
    else:
        calls = recorded()
        if family == "gemm" and oracle is not None:
            calls += _products(oracle)
    found: dict[str, list[Call]] = {}
    for call in calls:
        if call.op in ops_of(family, device) and _served(call, device):
            found.setdefault(call.op, []).append(call)
    return found


def _comparable(call: Call) -> Call:
    """Without the NaN by which tests see what is written, or read, that should not be."""
    for place, x in call.tensors():
        if x.dtype in _FLOATS and bool(x.isnan().any()):
            call = call.replaced(place, x.nan_to_num(_UNTOUCHED, math.inf, -math.inf))
        elif x.dtype in _FLOATS8 and bool(x.isnan().any()):
            call = call.replaced(place, x.float().nan_to_num(_UNTOUCHED).to(x.dtype))
    return call


def _without_tensors() -> list[Call]:
    """Calls that no test's recording holds: of one process, and of a GPU as such."""
    cases: list[tuple[str, tuple[object, ...]]] = [
        ("get_device_attribute", (16, 0)),
        ("get_max_shared_memory_per_block_device_attribute", (0,)),
        ("meta_size", ()),
        ("allocate_shared_buffer_and_handle", (4096,)),
    ]
    return [full(op, arguments, {}) for op, arguments in cases]


def _served(call: Call, device: str) -> bool:
    """Whether a kernel takes the call, not PyTorch code of a reference."""
    keys = engine_api.dispatch_keys(call.op)
    return device.upper() in keys or not any(call.tensors())


def _products(oracle: Oracle) -> list[Call]:
    """Products with weights whose handles the oracle knows."""
    calls = []
    for depth, columns in _WEIGHTS:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            create = full(
                "create_onednn_mm_handler", (torch.randn(depth, columns).to(dtype), 0), {}
            )
            handle = create.run()
            assert isinstance(handle, int)
            oracle.handles.created(create, handle)
            a, c = torch.randn(3, depth).to(dtype), torch.zeros(3, columns, dtype=dtype)
            bias = torch.randn(columns).to(dtype)
            calls.append(Call("onednn_mm", (c, a, bias, torch.tensor([handle]))))
        for dynamic, azp in ((True, False), (True, True), (False, True)):
            b = torch.randint(-128, 128, (columns, depth), dtype=torch.int8).t()
            create = Call(
                "create_onednn_scaled_mm_handler",
                (b, torch.rand(columns) / 100, torch.float32, dynamic, azp, 0),
            )
            handle = create.run()
            assert isinstance(handle, int)
            oracle.handles.created(create, handle)
            a = torch.randint(-128, 128, (3, depth), dtype=torch.int8)
            rows = 3 if dynamic else 1
            zero = torch.randint(-9, 9, (rows, 1), dtype=torch.int32) if azp else None
            adj = None
            if azp:
                adj = b.int().sum(0, dtype=torch.int32)[None] * 1.0
            calls.append(
                Call(
                    "onednn_scaled_mm",
                    (
                        torch.zeros(3, columns),
                        a,
                        torch.rand(rows, 1),
                        zero,
                        adj if dynamic else None,
                        None,
                        torch.tensor([handle]),
                    ),
                )
            )
    return calls
