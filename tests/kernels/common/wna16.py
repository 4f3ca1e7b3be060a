"""Products with repacked 4- and 8-bit weights and their float64 references."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vllm_kernels import engine_api
from vllm_kernels.reference.float4 import e2m1
from vllm_kernels.reference.wna16 import cuda as reference
from vllm_kernels.reference.wna16 import words

ops = torch.ops.vllm_kernels
FAMILY = "wna16"

if (_path := engine_api.find_library(engine_api.cuda_library(FAMILY))) and torch.version.cuda:
    torch.ops.load_library(str(_path))

UNIT = {torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
TYPES = {
    "u4b8": reference.U4B8,
    "u4": reference.U4,
    "u8b128": reference.U8B128,
    "fp8": reference.FP8_E4M3,
    "mxfp4": reference.FP4_E2M1,
    "nvfp4": reference.FP4_E2M1,
}
FP4_GROUPS = {"mxfp4": 32, "nvfp4": 16}
# The engine's permutations (marlin_permute_scales, marlin_permute_bias, marlin_zero_points).
GROUPED = [i + 8 * j for i in range(8) for j in range(8)]
CHANNEL = [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
INTERLEAVE = [0, 2, 4, 6, 1, 3, 5, 7]


def with_groups(groups: list[int]) -> list[tuple[str, int]]:
    """Types of weights with each of the groups that they may have."""
    return [
        (name, group)
        for name in TYPES
        for group in ([FP4_GROUPS[name]] if name in FP4_GROUPS else groups)
    ]


def permute(values: torch.Tensor, order: list[int]) -> torch.Tensor:
    return values.unflatten(-1, (-1, len(order)))[..., order].flatten(-2).contiguous()


def pack(values: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """int32 words along `dim`; bits divides 32."""
    return words.pack(values.movedim(dim, -1), bits).movedim(-1, dim).contiguous()


def pack_stream(values: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """int32 words along `dim` of elements of any number of bits."""
    values = values.movedim(dim, -1).long()
    single = (values[..., None] >> torch.arange(bits, device=values.device) & 1).flatten(-2)
    return words.pack(single, 1).movedim(-1, dim).contiguous()


@dataclass
class Problem:
    """One product with repacked weights, and what its weights are."""

    a: torch.Tensor
    weights: torch.Tensor  # repacked
    scales: torch.Tensor
    zeros: torch.Tensor | None
    bias: torch.Tensor | None
    g_idx: torch.Tensor | None
    perm: torch.Tensor | None
    type_id: int
    n: int
    dense: torch.Tensor  # [K, N] float64, in the order of a's columns
    plain_bias: torch.Tensor | None
    is_k_full: bool = True
    global_scale: torch.Tensor | None = None

    def arguments(self, c: torch.Tensor | None = None) -> tuple[object, ...]:
        m, k = self.a.shape
        sms = torch.cuda.get_device_properties(self.a.device).multi_processor_count
        workspace = torch.zeros(sms, dtype=torch.int32, device=self.a.device)
        return (self.a, c, self.weights, self.bias, self.scales, None, self.global_scale,
                self.zeros, self.g_idx, self.perm, workspace, self.type_id, m, self.n, k,
                self.is_k_full, False, True, False)  # fmt: skip

    def run(self) -> torch.Tensor:
        arguments = self.arguments()
        out = ops.marlin_gemm(*arguments)
        assert not arguments[10].any(), "the workspace is not zeros again"  # type: ignore[attr-defined]
        return out  # type: ignore[no-any-return]

    def exact(self) -> torch.Tensor:
        product = self.a.double() @ self.dense
        return product if self.plain_bias is None else product + self.plain_bias.double()

    def check(self, out: torch.Tensor) -> None:
        exact = self.exact()
        assert out.dtype == self.a.dtype
        assert out.shape == exact.shape
        terms = self.a.double().abs() @ self.dense.abs()
        bound = exact.abs() * UNIT[self.a.dtype] + terms * 2**-17 + 2**-24
        if self.plain_bias is not None:
            bound += self.plain_bias.double().abs() * 2**-20
        wrong = ~((out.double() - exact).abs() <= bound)
        assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()}: {wrong.nonzero()[:4]}"

    def check_rounded_weights(self, out: torch.Tensor) -> None:
        exact = self.exact()
        error = (out.double() - exact).norm() / exact.norm()
        assert error < 2 * UNIT[self.a.dtype]


def fp4_scales(
    type_name: str, groups: int, n: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Random scales of FP4 as the engine hands them over, with a global one, and their values.

    mxfp4_marlin_process_scales and nvfp4_marlin_process_scales, after marlin_permute_scales: every
    16th is 0, or 2^-127, as the engine makes those that float16 does not hold.
    """
    shape = (groups, n)
    if type_name == "mxfp4":
        codes = torch.randint(112, 124, shape, device="cuda").to(torch.uint8)
    else:
        codes = torch.randint(0x80, 0xF6, shape, device="cuda").to(torch.uint8)
    codes[torch.rand(shape, device="cuda") < 1 / 16] = 0
    given = permute(permute(codes, GROUPED), [0, 2, 1, 3])
    if type_name == "mxfp4":
        return given.view(torch.float8_e8m0fnu), None, torch.exp2(codes.double() - 127)
    factor, true = reference.NVFP4_FACTOR[dtype], int(torch.randint(1, 4, ())) * 2.0**-9
    global_scale = torch.tensor([true * 2.0**factor], dtype=torch.float32, device="cuda")
    values = (codes.short() << 7).view(torch.float16).double() * 2.0**-7 * true
    return given.view(torch.float8_e4m3fn), global_scale, values


def make(
    type_name: str,
    m: int,
    n: int,
    k: int,
    group: int,
    dtype: torch.dtype,
    *,
    bias: bool = False,
    act_order: bool = False,
    scale: float = 0.02,
) -> Problem:
    """A random product. group -1: scales per channel; FP4 has groups and scales of its own."""
    device, type_id = "cuda", TYPES[type_name]
    bits = reference._BITS[type_id]
    group = FP4_GROUPS.get(type_name, group)
    size = k if group == -1 else group
    groups = k // size
    q = torch.randint(0, 1 << bits, (k, n), device=device)
    if type_name == "fp8":
        q[(q & 127) == 127] = 1  # NaN
    s = (torch.rand(groups, n, device=device) * scale + scale / 2).to(dtype)
    g_idx = torch.arange(k, device=device) // size
    perm = None
    if act_order:
        shuffled = g_idx[torch.randperm(k, device=device)]
        perm = torch.argsort(shuffled, stable=True).int()
    factor = 2.0 ** (8 if dtype == torch.float16 else 120)
    zeros = torch.randint(0, 16, (groups, n), device=device) if type_name == "u4" else None
    global_scale = None
    if type_name in FP4_GROUPS:
        value = e2m1(q).double()
        given, global_scale, s = fp4_scales(type_name, groups, n, dtype)
    elif type_name == "fp8":
        value = q.to(torch.uint8).view(torch.float8_e4m3fn).double()
        given = (s.double() * factor).to(dtype)
        s = (given.double() / factor).double()
    else:
        value = q.double() - {"u4b8": 8, "u8b128": 128, "u4": 0}[type_name]
        given = s
    if zeros is not None:
        value = value - zeros[g_idx]
    sorted_dense = value * s.double()[g_idx]
    dense, rows = sorted_dense, q
    if perm is not None:  # row i of the sorted weights belongs to column perm[i] of a
        dense, rows = torch.empty_like(sorted_dense), torch.empty_like(q)
        dense[perm.long()], rows[perm.long()] = sorted_dense, q
    empty = torch.empty(0, dtype=torch.int32, device=device)
    order = empty if perm is None else perm
    weights = ops.gptq_marlin_repack(pack(rows, bits, 0), order, k, n, bits, False)
    plain_bias = torch.randn(n, device=device).to(dtype) if bias else None
    return Problem(
        torch.randn(m, k, device=device).to(dtype),
        weights,
        given if type_name in FP4_GROUPS else permute(given, GROUPED if groups > 1 else CHANNEL),
        empty if zeros is None
        else pack(permute(permute(zeros, GROUPED), INTERLEAVE), 4, -1),
        None if plain_bias is None else permute(plain_bias, CHANNEL),
        empty if perm is None else g_idx.int(),
        order,
        type_id,
        n,
        dense,
        plain_bias,
        global_scale=global_scale,
    )  # fmt: skip
