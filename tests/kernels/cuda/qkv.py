"""The family ``qkv`` on the GPU, emulated on the host as by tests/kernels/rocm, by reference."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch

from vllm_kernels import reference

from ..common.qkv import Call
from ..rocm.emulated import call as emulated_call
from ..rocm.emulated import compile_family

PACKED = "fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert"
# What packed inserts do where a call does not say it: norm, no MXFP8, rotation, whole heads.
_DEFAULTS = (True, False, True, False)

on_every_device = pytest.mark.parametrize(
    "where",
    [
        "gpu",
        pytest.param("emulated", marks=pytest.mark.no_gpu),
        pytest.param("reference", marks=pytest.mark.no_gpu),
    ],
)


@cache
def _library() -> ctypes.CDLL:
    found = compile_family("qkv", Path(mkdtemp(prefix="qkv-")))
    ctypes.c_int.in_dll(found, "vk_emulated_wave").value = 32
    return found


def _emulated(op: str, *args: object) -> torch.Tensor | None:
    if op != PACKED:
        emulated_call(_library(), op, *args)
        return None
    q_in, kv, *rest = args
    assert isinstance(q_in, torch.Tensor)
    assert isinstance(rest[4], int)
    out = torch.full((q_in.shape[0], rest[4], 512), torch.nan, dtype=q_in.dtype)
    rest += _DEFAULTS[len(rest) - 7 :]
    emulated_call(_library(), op, op, q_in, kv, out, *rest)
    return out


def _reference(op: str, *args: object) -> torch.Tensor | None:
    result = reference.implementations([op])[op](*args)
    assert result is None or isinstance(result, torch.Tensor)
    return result


def _on_gpu(op: str, *args: object) -> torch.Tensor | None:
    result = getattr(torch.ops.vllm_kernels, op)(*args)
    assert result is None or isinstance(result, torch.Tensor)
    return result


def device_of(where: str) -> str:
    return "cuda" if where == "gpu" else "cpu"


def caller(where: str) -> Call:
    return {"gpu": _on_gpu, "emulated": _emulated, "reference": _reference}[where]
