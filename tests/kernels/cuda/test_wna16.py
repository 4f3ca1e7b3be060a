"""W4A16 and W8A16 products of GPTQ, AWQ and FP8 checkpoints against float64 references."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from vllm_kernels.reference.float4 import e2m1
from vllm_kernels.reference.wna16 import cuda as reference
from vllm_kernels.reference.wna16 import words

from ..common.wna16 import FAMILY, FP4_GROUPS, GROUPED, make, permute, with_groups

ops = torch.ops.vllm_kernels


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param  # type: ignore[no-any-return]


Force = Callable[[int, int, int, int], int]


@pytest.fixture
def force(c_library: Callable[[str], ctypes.CDLL]) -> Iterator[Force]:
    """Forces block shape, stages, blocks, steps to prefetch; returns the number of shapes."""
    function = c_library(FAMILY).vk_cuda_marlin_force
    yield function
    function(-1, -1, -1, -1)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_repack(bits: int, act_order: bool) -> None:
    k, n = 192, 320
    words = torch.randint(-(2**31), 2**31, (k * bits // 32, n), device="cuda").int()
    perm = torch.randperm(k, device="cuda").int() if act_order else words.new_empty(0)
    arguments = (words, perm, k, n, bits, False)
    assert torch.equal(ops.gptq_marlin_repack(*arguments), reference.gptq_marlin_repack(*arguments))


@pytest.mark.parametrize("bits", [4, 8])
def test_awq_repack(bits: int) -> None:
    k, n = 128, 192
    words = torch.randint(-(2**31), 2**31, (k, n * bits // 32), device="cuda").int()
    arguments = (words, k, n, bits, False)
    assert torch.equal(ops.awq_marlin_repack(*arguments), reference.awq_marlin_repack(*arguments))


@pytest.mark.parametrize("m", [1, 3, 8, 16, 17, 33, 64, 127])
@pytest.mark.parametrize(("type_name", "group"), with_groups([-1, 32, 64, 128]))
def test_marlin_gemm(type_name: str, group: int, m: int, dtype: torch.dtype) -> None:
    problem = make(type_name, m, 320, 1152 if group != 128 else 1280, group, dtype, bias=m % 2 == 1)
    problem.check(problem.run())


@pytest.mark.parametrize(
    ("n", "k"), [(64, 128), (128, 64), (64, 64), (192, 8192), (4864, 896), (14336, 4096)]
)
@pytest.mark.parametrize("m", [1, 15, 40])
def test_marlin_gemm_shapes(m: int, n: int, k: int) -> None:
    problem = make("u4b8", m, n, k, 64 if k > 64 else -1, torch.bfloat16)
    problem.check(problem.run())


@pytest.mark.parametrize("m", [512, 1000, 2100])
@pytest.mark.parametrize(("type_name", "group"), with_groups([-1, 64]))
def test_marlin_gemm_of_many_tokens(type_name: str, group: int, m: int, dtype: torch.dtype) -> None:
    """Weights are rounded to 16 bits: in registers, or dequantized to memory."""
    problem = make(type_name, m, 384, 512, group, dtype, bias=True)
    problem.check_rounded_weights(problem.run())


@pytest.mark.parametrize("type_name", FP4_GROUPS)
@pytest.mark.parametrize("m", [1, 13, 24, 33, 100, 128, 300])
def test_fp4_is_exact(type_name: str, m: int, dtype: torch.dtype) -> None:
    """In every kernel: few and many columns and tokens, and all of K or a share of it."""
    for n, k in ((5760, 2880), (64, 4096), (448, 128)):
        problem = make(type_name, m, n, k, 0, dtype, bias=True)
        problem.check(problem.run())


@pytest.mark.parametrize("type_name", FP4_GROUPS)
def test_fp4_in_all_block_shapes(type_name: str, force: Force, dtype: torch.dtype) -> None:
    for shape in range(force(-1, -1, -1, -1)):
        for m in (5, 70):
            force(shape, -1, -1, -1)
            problem = make(type_name, m, 448, 1088, 0, dtype, bias=True)
            problem.check(problem.run())


@pytest.mark.parametrize("m", [1, 16, 24, 50, 200, 2100])
def test_powers_of_two(m: int) -> None:
    """MXFP4's scales up to the largest, one a column."""
    n, k = 128, 1024
    problem = make("mxfp4", m, n, k, 0, torch.bfloat16)
    columns = 64 + torch.arange(n, device="cuda") % 105  # 2^-63 to 2^41
    codes = columns.to(torch.uint8).expand(k // 32, n)
    given = permute(permute(codes, GROUPED), [0, 2, 1, 3])
    weights = e2m1(words.unrepack(problem.weights, 4, k, n)).double()
    exact = replace(
        problem,
        scales=given.view(torch.float8_e8m0fnu),
        dense=weights * torch.exp2(columns.double() - 127),
    )
    exact.check(exact.run())


def test_marlin_gemm_block_shapes(force: Force, dtype: torch.dtype) -> None:
    """Every compiled block, with as few and as many stages and blocks as can be."""
    for shape in range(force(-1, -1, -1, -1)):
        for knobs in ((2, 1, -2), (3, 7, 0), (8, 132, 1), (-1, 1000, 100)):
            for m in (5, 70):
                force(shape, *knobs)
                problem = make("u4b8", m, 448, 1088, 64, dtype, bias=True)
                problem.check(problem.run())


@pytest.mark.parametrize(("n", "k"), [(8192, 2048), (576, 8192), (3136, 1088), (128, 16384)])
@pytest.mark.parametrize("m", [1, 2, 7, 9, 16, 17, 32, 33, 65, 127, 128, 255, 600])
def test_marlin_gemm_splits_of_k(m: int, n: int, k: int) -> None:
    """Few and many columns and tokens: blocks that have all of K, and clusters that share it."""
    problem = make("u4b8", m, n, k, 64, torch.bfloat16, bias=True)
    (problem.check if m < 128 else problem.check_rounded_weights)(problem.run())


@pytest.mark.parametrize("m", [1, 12, 40, 200])
def test_products_in_a_row(m: int, dtype: torch.dtype) -> None:
    """Kernels that start before the one before has ended read what that one writes."""
    layers = [make("u4b8", m, 1024, 1024, 128, dtype, scale=0.003) for _ in range(4)]
    steps = [layers[index % 4] for index in range(24)]

    def chain(wait: bool) -> torch.Tensor:
        x = layers[0].a
        for layer in steps:
            x = replace(layer, a=x).run()
            if wait:
                torch.cuda.synchronize()
        return x

    want = chain(wait=True)
    assert want.isfinite().all()
    for _ in range(5):
        assert torch.equal(chain(wait=False), want)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x = layers[0].a
        for layer in steps:
            x = ops.marlin_gemm(x, None, *layer.arguments()[2:])
    for _ in range(5):
        graph.replay()
        assert torch.equal(x, want)


@pytest.mark.parametrize("type_name", ["u4b8", "u8b128"])
@pytest.mark.parametrize("m", [1, 20, 600])
def test_act_order(type_name: str, m: int, dtype: torch.dtype) -> None:
    problem = make(type_name, m, 256, 512, 128, dtype, act_order=True)
    out = problem.run()
    if m < 512:
        problem.check(out)
    problem.check_rounded_weights(out)


@pytest.mark.parametrize("m", [1, 20, 600])
def test_act_order_over_a_part_of_k(m: int, dtype: torch.dtype) -> None:
    """The groups of a rank's rows are any, and scales are those of the whole weight."""
    full = make("u4b8", m, 256, 512, 64, dtype, act_order=True)
    assert full.g_idx is not None
    g_idx = torch.randint(0, 8, (512,), device="cuda").sort().values.int()
    scales = reference._unpermute_scales(full.scales.double(), False)
    q = words.unrepack(full.weights, 4, 512, 256)
    assert full.perm is not None
    dense = torch.empty_like(full.dense)
    dense[full.perm.long()] = (q - 8) * scales[g_idx.long()]
    part = replace(full, g_idx=g_idx, dense=dense, is_k_full=False)
    part.check_rounded_weights(part.run())


@pytest.mark.parametrize("scale", [1e-6, 3e-5, 400.0])
def test_extreme_scales(scale: float) -> None:
    """Weights enter exactly: scales of any size lose nothing but their own rounding."""
    problem = make("u4b8", 9, 128, 256, 64, torch.float16, scale=scale)
    problem.a *= 2.0**-7 if scale > 1 else 1
    problem.check(problem.run())
    problem = make("u4", 9, 128, 256, 64, torch.bfloat16, scale=scale * 1e20)
    problem.check(problem.run())


def test_nan_and_inf_stay_in_their_row() -> None:
    problem = make("u4b8", 20, 128, 256, 64, torch.bfloat16)
    problem.a[3, 5] = float("nan")
    problem.a[7, 200] = float("inf")
    out = problem.run()
    assert out[3].isnan().all()
    assert not out[7].isfinite().all()
    keep = [row for row in range(20) if row not in (3, 7)]
    replace(problem, a=problem.a[keep]).check(out[keep])


def test_strided_and_unaligned_activations(dtype: torch.dtype) -> None:
    problem = make("u4b8", 13, 128, 256, 64, dtype)
    for offset, width in ((0, 512), (8, 264), (3, 300), (1, 257)):
        wide = torch.full((13, width), float("nan"), device="cuda", dtype=dtype)
        rows = wide[:, offset : offset + 256] if offset + 256 <= width else wide[:, :256]
        rows.copy_(problem.a)
        strided = replace(problem, a=rows)
        strided.check(strided.run())


def test_no_tokens() -> None:
    assert make("u4b8", 0, 128, 256, 64, torch.bfloat16).run().shape == (0, 128)


def test_runs_are_equal_to_the_bit() -> None:
    problem = make("u4b8", 16, 1024, 4096, 128, torch.bfloat16)
    first = problem.run()
    for _ in range(20):
        assert torch.equal(problem.run(), first)


def test_given_output_and_cuda_graph(dtype: torch.dtype) -> None:
    problem = make("u4", 5, 192, 1024, 128, dtype, bias=True)
    c = torch.full((5, 192), float("nan"), device="cuda", dtype=dtype)
    arguments = problem.arguments(c)
    ops.marlin_gemm(*arguments)
    problem.check(c)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.marlin_gemm(*problem.arguments()[:1], None, *arguments[2:])
    problem.a.copy_(torch.randn_like(problem.a))
    graph.replay()
    problem.check(out)


def test_permute_cols(dtype: torch.dtype) -> None:
    for m, k in ((1, 64), (17, 1000), (300, 4096)):
        a = torch.randn(m, k, device="cuda").to(dtype)
        perm = torch.randperm(k, device="cuda").int()
        assert torch.equal(ops.permute_cols(a, perm), a[:, perm.long()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type_id": 2 | 1 << 8 | 1 << 16 | 1 << 49}, "float4_e2m1"),
        ({"zeros": None}, "b_zeros is absent"),
        ({"n": 192}, "b_q_weight"),
    ],
)
def test_bad_input(change: dict[str, object], message: str) -> None:
    problem = make("u4", 2, 128, 128, 64, torch.bfloat16)
    with pytest.raises(RuntimeError, match=f"marlin_gemm: .*{message}"):
        replace(problem, **change).run()  # type: ignore[arg-type]


def test_8_bit_activations_are_refused() -> None:
    problem = make("u4b8", 2, 128, 128, 64, torch.bfloat16)
    with pytest.raises(RuntimeError, match="no kernel for activations of 8 bits"):
        replace(problem, a=problem.a.to(torch.int8)).run()
    words = torch.zeros(16, 128, device="cuda", dtype=torch.int32)
    with pytest.raises(RuntimeError, match="is_a_8bit"):
        ops.gptq_marlin_repack(words, words.new_empty(0), 128, 128, 4, True)
