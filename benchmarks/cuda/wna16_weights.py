"""Random quantised weights as Marlin takes them, for the benchmarks of wna16."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call
from vllm_kernels.reference.wna16 import cuda as reference

ops = torch.ops.vllm_kernels

TYPES = {
    "u4b8": reference.U4B8,
    "u4": reference.U4,
    "u8b128": reference.U8B128,
    "fp8": reference.FP8_E4M3,
    "mxfp4": reference.FP4_E2M1,
    "nvfp4": reference.FP4_E2M1,
}
FP4_GROUPS = {"mxfp4": 32, "nvfp4": 16}


def scales_of(kind: str, *shape: int) -> torch.Tensor:
    """Random scales of the type that weights of ``kind`` have."""
    if kind not in FP4_GROUPS:
        return torch.rand(shape, device="cuda").bfloat16()
    first, last = (116, 124) if kind == "mxfp4" else (0x80, 0xF0)
    codes = torch.randint(first, last, shape, device="cuda").to(torch.uint8)
    return codes.view(torch.float8_e8m0fnu if kind == "mxfp4" else torch.float8_e4m3fn)


def global_scale_of(kind: str, count: int) -> torch.Tensor | None:
    """NVFP4's scales of ``count`` matrices, for bfloat16."""
    return torch.full((count,), 2.0**110, device="cuda") if kind == "nvfp4" else None


@dataclass(frozen=True)
class Layer:
    """A matrix of k x n weights; FP8 has a scale a column, integers one a group of 128."""

    kind: str
    k: int
    n: int

    @property
    def bits(self) -> int:
        return 8 if self.kind in ("u8b128", "fp8") else 4

    @property
    def groups(self) -> int:
        return 1 if self.kind == "fp8" else self.k // FP4_GROUPS.get(self.kind, 128)

    @property
    def weight_bytes(self) -> int:
        """Of weights, scales and zero points."""
        zeros = self.groups * self.n // 2 if self.kind == "u4" else 0
        scales = self.groups * self.n * (1 if self.kind in FP4_GROUPS else 2)
        return self.k * self.n * self.bits // 8 + scales + zeros

    def traffic(self, m: int) -> int:
        """Bytes of weights, scales and zero points, activations and results."""
        return self.weight_bytes + 2 * m * (self.k + self.n)

    def product(self, m: int) -> Call:
        """``m`` rows of activations times fresh weights."""
        k, n, kind = self.k, self.n, self.kind
        empty = torch.empty(0, dtype=torch.int32, device="cuda")
        words = torch.randint(-(2**31), 2**31, (k * self.bits // 32, n), device="cuda").int()
        if kind == "fp8":
            words &= 0x3F3F3F3F
        packed = ops.gptq_marlin_repack(words, empty, k, n, self.bits, False)
        scales = scales_of(kind, self.groups, n)
        zeros = empty
        if kind == "u4":
            zeros = torch.randint(-(2**31), 2**31, (self.groups, n // 8), device="cuda").int()
        multiprocessors = torch.cuda.get_device_properties().multi_processor_count
        workspace = torch.zeros(multiprocessors, dtype=torch.int32, device="cuda")
        a = torch.randn(m, k, device="cuda").bfloat16()
        return partial(
            ops.marlin_gemm,
            a, None, packed, None, scales, None, global_scale_of(kind, 1), zeros, empty, empty,
            workspace,
            TYPES[kind], m, n, k, True, False, True, False,
        )  # fmt: skip
