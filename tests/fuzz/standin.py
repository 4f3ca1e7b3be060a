"""The processor in the place of a GPU, for tests whose calls are wanted and not their outcome.

Tensors that a test asks for on a GPU are made in the processor's memory, where the references serve
every op. What takes a real GPU, such as a graph or a stream, ends the test.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch.overrides import TorchFunctionMode

from vllm_kernels import engine_api

# One on which no test is left out.
_PROPERTIES = SimpleNamespace(
    major=9, minor=0, multi_processor_count=132, shared_memory_per_block_optin=227 << 10
)
_NAME = re.compile(r"cuda(:\d+)?")
# Ops that tell whether the GPU can do what a test is about.
_CAN = {
    "cutlass_group_gemm_supported",
    "cutlass_scaled_mm_supports_fp8",
    "cutlass_scaled_mm_supports_block_fp8",
}


class MissingError(Exception):
    """The test wants more than the calls of its ops."""


def missing(*_: object, **__: object) -> NoReturn:
    """Whatever is called or signalled in the place of a GPU's."""
    raise MissingError("there is no GPU")


def _moved(value: object) -> object:
    on_gpu = (isinstance(value, torch.device) and value.type == "cuda") or (
        isinstance(value, str) and _NAME.fullmatch(value)
    )
    return torch.device("cpu") if on_gpu else value


class _OnTheProcessor(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        if getattr(func, "__name__", "") in _CAN:
            return True
        moved = {name: _moved(value) for name, value in (kwargs or {}).items()}
        return func(*map(_moved, args), **moved)


def install() -> None:
    """Take the place, before the tests are imported and for the rest of the process."""
    # Where it was imported at the first use, a signal would leave half of it behind.
    import torch._dynamo

    torch.version.cuda = torch.version.cuda or "13.0"
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_: (_PROPERTIES.major, _PROPERTIES.minor),
        "get_device_properties": lambda *_: _PROPERTIES,
        "synchronize": lambda *_: None,
        **dict.fromkeys(("CUDAGraph", "Stream", "current_stream", "memory_allocated"), missing),
    }.items():
        setattr(torch.cuda, name, value)
    engine_api.cuda_problem = lambda _: None
    _OnTheProcessor().__enter__()
