"""4-bit weights with activations that are rounded to int8 (W4A8), on CPUs without AMX.

By default the engine rounds them on a CPU with AMX, which upstream's op needs, and keeps 16 bits
elsewhere. Ours runs on every tier, so ``VLLM_CPU_INT4_W4A8=1``, given by the user, holds on every
CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vllm_kernels_plugin import asked

_QUESTION = "_is_amx_tile_supported"


def serve() -> None:
    """Have the engine's kernel for 4-bit weights round activations on every CPU, if asked."""
    if not asked.switched_on(asked.W4A8_VARIABLE):
        return
    from vllm.model_executor.kernels.linear.mixed_precision.cpu import CPUWNA16LinearKernel

    process = CPUWNA16LinearKernel.process_weights_after_loading
    if not hasattr(process, "__wrapped__"):
        CPUWNA16LinearKernel.process_weights_after_loading = _with_amx(process)


def _with_amx(process: Callable[..., None]) -> Callable[..., None]:
    """``process``, which chooses the op by whether the CPU has AMX, told that it has."""

    @functools.wraps(process)
    def wrapped(*arguments: Any, **named: Any) -> None:
        with _claimed():
            process(*arguments, **named)

    return wrapped


@contextmanager
def _claimed() -> Iterator[None]:
    answer = getattr(torch.cpu, _QUESTION)
    setattr(torch.cpu, _QUESTION, lambda: True)
    try:
        yield
    finally:
        setattr(torch.cpu, _QUESTION, answer)
