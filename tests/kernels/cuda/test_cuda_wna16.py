"""W4A16 and W8A16 products of GPTQ, AWQ and FP8 checkpoints against float64 references."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch

from vllm_kernels import _libraries
from vllm_kernels.reference import wna16 as reference

ops = torch.ops.vllm_kernels
FAMILY = "wna16"

if (_path := _libraries.find_library(f"vllm_kernels_cuda_{FAMILY}")) and torch.version.cuda:
    torch.ops.load_library(str(_path))

UNIT = {torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
TYPES = {
    "u4b8": reference.U4B8,
    "u4": reference.U4,
    "u8b128": reference.U8B128,
    "fp8": reference.FP8_E4M3,
}
# The engine's permutations (marlin_permute_scales, marlin_permute_bias, marlin_zero_points).
GROUPED = [i + 8 * j for i in range(8) for j in range(8)]
CHANNEL = [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
INTERLEAVE = [0, 2, 4, 6, 1, 3, 5, 7]


def permute(values: torch.Tensor, order: list[int]) -> torch.Tensor:
    return values.unflatten(-1, (-1, len(order)))[..., order].flatten(-2).contiguous()


def pack(values: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """int32 words along `dim`; bits divides 32."""
    return reference._pack(values.movedim(dim, -1), bits).movedim(-1, dim).contiguous()


def pack_stream(values: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """int32 words along `dim` of elements of any number of bits."""
    values = values.movedim(dim, -1).long()
    single = (values[..., None] >> torch.arange(bits, device=values.device) & 1).flatten(-2)
    return reference._pack(single, 1).movedim(-1, dim).contiguous()


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

    def arguments(self, c: torch.Tensor | None = None) -> tuple[object, ...]:
        m, k = self.a.shape
        sms = torch.cuda.get_device_properties(self.a.device).multi_processor_count
        workspace = torch.zeros(sms, dtype=torch.int32, device=self.a.device)
        return (self.a, c, self.weights, self.bias, self.scales, None, None, self.zeros, self.g_idx,
                self.perm, workspace, self.type_id, m, self.n, k, self.is_k_full, False, True,
                False)  # fmt: skip

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
    """A random product. group -1: scales per channel."""
    device, type_id = "cuda", TYPES[type_name]
    bits = reference._BITS[type_id]
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
    if type_name == "fp8":
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
        permute(given, GROUPED if groups > 1 else CHANNEL),
        empty if zeros is None
        else pack(permute(permute(zeros, GROUPED), INTERLEAVE), 4, -1),
        None if plain_bias is None else permute(plain_bias, CHANNEL),
        empty if perm is None else g_idx.int(),
        order,
        type_id,
        n,
        dense,
        plain_bias,
    )  # fmt: skip


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


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
@pytest.mark.parametrize("group", [-1, 32, 64, 128])
@pytest.mark.parametrize("type_name", TYPES)
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


@pytest.mark.parametrize("m", [512, 1000])
@pytest.mark.parametrize("type_name", TYPES)
def test_marlin_gemm_of_many_tokens(type_name: str, m: int, dtype: torch.dtype) -> None:
    """Weights are dequantized to memory: rounded to 16 bits."""
    for group in (-1, 64):
        problem = make(type_name, m, 384, 512, group, dtype, bias=True)
        problem.check_rounded_weights(problem.run())


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
    q = reference._unrepack(full.weights, 4, 512, 256)
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


@dataclass
class Experts:
    """A product per expert; `problems` hold the weights of each."""

    problems: list[Problem]
    a: torch.Tensor
    sorted: torch.Tensor
    experts: torch.Tensor
    padded: torch.Tensor
    factors: torch.Tensor
    expert_of: torch.Tensor
    top_k: int
    block: int

    def arguments(self, mul: bool, c: torch.Tensor | None) -> tuple[object, ...]:
        m, k = self.a.shape

        def stack(name: str) -> torch.Tensor | None:
            parts = [getattr(problem, name) for problem in self.problems]
            return None if parts[0] is None else torch.stack(parts)

        first = self.problems[0]
        empty = torch.empty(0, dtype=torch.int32, device="cuda")
        workspace = torch.zeros(132 * 4, dtype=torch.int32, device="cuda")
        return (
            self.a, c, stack("weights"), stack("bias"), stack("scales"), None, None, stack("zeros"),
            empty, empty, workspace, self.sorted, self.experts, self.padded, self.factors,
            self.block, self.top_k, mul, first.type_id, m, first.n, k, True, False, True, False,
            -1, -1, -1,
        )  # fmt: skip

    def check(self, out: torch.Tensor, mul: bool, unwritten: float) -> None:
        rows = self.a.repeat_interleave(self.top_k, 0)
        for expert, problem in enumerate(self.problems):
            mine = self.expert_of == expert
            exact = replace(problem, a=rows[mine]).exact()
            if mul:
                exact = exact * self.factors.reshape(-1)[mine, None].double()
            error = (out[mine].double() - exact).norm()
            assert error <= 1.01 * UNIT[self.a.dtype] * exact.norm()
        assert (out[self.expert_of < 0] == unwritten).all()


def make_experts(
    type_name: str, m: int, top_k: int, block: int, group: int, dtype: torch.dtype
) -> Experts:
    """Random routing to five experts, one of them on another rank (-1)."""
    count, n, k = 5, 192, 512
    problems = [make(type_name, 1, n, k, group, dtype, bias=True) for _ in range(count - 1)]
    expert_of = torch.randint(-1, count - 1, (m * top_k,), device="cuda")
    places: list[int] = []
    experts: list[int] = []
    for expert in (3, -1, 0, 2, 1):
        rows = (expert_of == expert).nonzero().flatten().tolist()
        rows += [m * top_k] * (-len(rows) % block)
        places += rows
        experts += [expert] * (len(rows) // block)
    padded = len(places)
    places += [m * top_k] * 3 * block
    experts += [1 << 20] * 3
    return Experts(
        problems,
        torch.randn(m, k, device="cuda").to(dtype),
        torch.tensor(places, dtype=torch.int32, device="cuda"),
        torch.tensor(experts, dtype=torch.int32, device="cuda"),
        torch.tensor([padded], dtype=torch.int32, device="cuda"),
        torch.rand(m, top_k, device="cuda"),
        expert_of,
        top_k,
        block,
    )


@pytest.mark.parametrize("block", [8, 16, 32, 48, 64])
@pytest.mark.parametrize(("m", "top_k"), [(1, 2), (19, 1), (150, 3)])
@pytest.mark.parametrize("type_name", TYPES)
def test_experts(type_name: str, m: int, top_k: int, block: int, dtype: torch.dtype) -> None:
    for group, mul in ((128, True), (-1, False)):
        problem = make_experts(type_name, m, top_k, block, group, dtype)
        c = torch.full((m * top_k, 192), 7.0, device="cuda", dtype=dtype)
        arguments = problem.arguments(mul, c)
        problem.check(ops.moe_wna16_marlin_gemm(*arguments), mul, 7.0)
        assert not arguments[10].any(), "the workspace is not zeros again"  # type: ignore[attr-defined]


def test_reference_of_experts(dtype: torch.dtype) -> None:
    problem = make_experts("u4", 40, 2, 16, 64, dtype)
    arguments = problem.arguments(True, None)
    problem.check(reference.moe_wna16_marlin_gemm(*arguments), True, 0.0)  # type: ignore[arg-type]


def test_permute_cols(dtype: torch.dtype) -> None:
    for m, k in ((1, 64), (17, 1000), (300, 4096)):
        a = torch.randn(m, k, device="cuda").to(dtype)
        perm = torch.randperm(k, device="cuda").int()
        assert torch.equal(ops.permute_cols(a, perm), a[:, perm.long()])


def gptq(bit: int, k: int, n: int, group: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    groups = k // group
    return (
        pack_stream(torch.randint(0, 1 << bit, (k, n), device="cuda"), bit, 0),
        pack_stream(torch.randint(0, 1 << bit, (groups, n), device="cuda"), bit, 1),
        (torch.rand(groups, n, device="cuda") * 0.02 + 0.01).to(dtype),
    )


@pytest.mark.parametrize("bit", [2, 3, 4, 8])
@pytest.mark.parametrize("m", [1, 5, 32, 70])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("use_exllama", [False, True])
def test_gptq_gemm(
    bit: int, m: int, act_order: bool, use_exllama: bool, dtype: torch.dtype
) -> None:
    k, n, group = 1184, 352, 32
    weights, zeros, scales = gptq(bit, k, n, group, dtype)
    index = torch.empty(0, dtype=torch.int32, device="cuda")
    if act_order:
        index = (torch.arange(k, device="cuda") // group)[torch.randperm(k, device="cuda")].int()
        if use_exllama:
            index = torch.argsort(index).int()
    a = torch.randn(m, k, device="cuda").to(dtype)
    if use_exllama:
        expected_weights = weights.clone()
        reference.gptq_shuffle(expected_weights, index, bit)
        ops.gptq_shuffle(weights, index, bit)
        assert torch.equal(weights, expected_weights)
    for v2 in (False, True):
        arguments = (a, weights, zeros, scales, index, use_exllama, v2, bit)
        out, exact = ops.gptq_gemm(*arguments), reference.gptq_gemm(*arguments).double()
        assert (out.double() - exact).norm() / exact.norm() < 2 * UNIT[dtype]
        torch.testing.assert_close(
            out.double(), exact, rtol=4 * UNIT[dtype], atol=float(exact.std()) * 4 * UNIT[dtype]
        )


@pytest.mark.parametrize("group", [32, 64, 128, 1152])
@pytest.mark.parametrize("m", [1, 7, 32, 100])
def test_awq(group: int, m: int, dtype: torch.dtype) -> None:
    k, n = 1152, 520
    kernel = torch.randint(-(2**31), 2**31, (k, n // 8), device="cuda").int()
    zeros = torch.randint(-(2**31), 2**31, (k // group, n // 8), device="cuda").int()
    scales = (torch.rand(k // group, n, device="cuda") * 0.02 + 0.01).to(dtype)
    weight = ops.awq_dequantize(kernel, scales, zeros, 0, 0, 0)
    assert torch.equal(weight, reference.awq_dequantize(kernel, scales, zeros, 0, 0, 0))
    a = torch.randn(m, k, device="cuda").to(dtype)
    out = ops.awq_gemm(a, kernel, scales, zeros, 8)
    exact = reference.awq_gemm(a, kernel, scales, zeros, 8).double()
    assert (out.double() - exact).norm() / exact.norm() < 2 * UNIT[dtype]


def test_awq_marlin_equals_awq(dtype: torch.dtype) -> None:
    """One checkpoint both ways: as it is, and repacked as the engine repacks it."""
    m, n, k, group = 11, 256, 512, 128
    kernel = torch.randint(-(2**31), 2**31, (k, n // 8), device="cuda").int()
    zeros = torch.randint(-(2**31), 2**31, (k // group, n // 8), device="cuda").int()
    scales = (torch.rand(k // group, n, device="cuda") * 0.02 + 0.01).to(dtype)
    plain_zeros = reference._awq_columns(zeros, 4)
    problem = make("u4", m, n, k, group, dtype)
    problem = replace(
        problem,
        weights=ops.awq_marlin_repack(kernel, k, n, 4, False),
        scales=permute(scales, GROUPED),
        zeros=pack(permute(permute(plain_zeros, GROUPED), INTERLEAVE), 4, -1),
        dense=reference._awq_weight(kernel, scales, zeros),
    )
    problem.check(problem.run())


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
