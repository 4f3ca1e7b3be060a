"""Where the valid calls come from that the strategies change.

On the CPU from the self-test, which calls every op there, and from a few more weights. On a GPU
from the tests of the CUDA kernels: ``record`` is a plugin of pytest that keeps their calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vllm_kernels import engine_api

from .calls import Call, families, full, ops, recorded
from .oracle import Oracle

RECORD_VARIABLE = "VLLM_FUZZ_CORPUS"
# They trust addresses or the life of a tensor.
LEFT_OUT = ("swap_blocks_batch", "weak_ref_tensor")
_KEPT = 8  # of each op
_LARGEST = 1 << 20
# Depth and columns of weights: whole panels and remainders.
_WEIGHTS = ((1, 1), (16, 32), (33, 65), (64, 48), (130, 17))


def ops_of(family: str, device: str) -> list[str]:
    """The ops of a family that are fuzzed."""
    return [op for op in families(device)[family] if op not in LEFT_OUT]


def bases(family: str, device: str, oracle: Oracle) -> dict[str, list[Call]]:
    """Valid calls of each op of the family that has any."""
    if device == "cuda":
        calls = torch.load(os.environ[RECORD_VARIABLE], weights_only=False)
        calls = [Call(op, arguments) for op, arguments in calls]
    else:
        calls = recorded()
        if family == "gemm":
            calls += _products(oracle)
    found: dict[str, list[Call]] = {}
    for call in calls:
        if call.op in ops_of(family, device) and _served(call, device):
            found.setdefault(call.op, []).append(call)
    return found


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


def mover(device: str) -> Callable[[Call], Call] | None:
    """Takes a call's tensors to the device, each memory once; None on the CPU."""
    if device == "cpu":
        return None

    def move(call: Call) -> Call:
        memories: dict[int, Tensor] = {}
        for place, x in call.tensors():
            if x.layout != torch.strided or x.device.type != "cpu" or x.numel() == 0:
                continue
            storage = x.untyped_storage()
            memory = memories.get(storage.data_ptr())
            if memory is None:
                flat = torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[call-overload]
                memory = memories[storage.data_ptr()] = flat.to(device)
            if x.is_neg() or x.data_ptr() % x.element_size() or memory.numel() % x.element_size():
                moved = x.to(device)
            else:
                moved = memory.view(x.dtype).as_strided(x.shape, x.stride(), x.storage_offset())
            call = call.replaced(place, moved)
        return call

    return move


class _Keep(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[Call]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "vllm_kernels":
            op = func._schema.name.split("::")[1]
            call = full(op, args, kwargs)
            kept = self.calls.setdefault(op, [])
            if sum(x.nbytes for _, x in call.tensors()) <= _LARGEST:
                copied = tuple(
                    x.detach().cpu().clone() if isinstance(x, Tensor) else x for x in call.arguments
                )
                before = len(kept)
                try:
                    result = func(*args, **kwargs)
                except RuntimeError:
                    raise
                if before < _KEPT:
                    kept.append(Call(op, copied))
                return result
        return func(*args, **kwargs)


_keep = _Keep()


def pytest_runtest_call(item: Any) -> None:
    """Hook of pytest: what the test calls is kept."""
    test = item.obj

    def kept(*args: Any, **kwargs: Any) -> Any:
        with _keep:
            return test(*args, **kwargs)

    item.obj = kept


def pytest_sessionfinish() -> None:
    """Hook of pytest: write the calls."""
    path = Path(os.environ[RECORD_VARIABLE])
    torch.save([(c.op, c.arguments) for kept in _keep.calls.values() for c in kept], path)


__all__ = ["RECORD_VARIABLE", "bases", "mover", "ops"]
