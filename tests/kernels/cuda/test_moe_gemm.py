"""The experts' grouped products and their sizes, against the references."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from vllm_kernels.reference.moe_gemm import grouped as reference

ops = torch.ops.vllm_kernels

DTYPES = [torch.bfloat16, torch.float16]
POISON = -77


@pytest.fixture(params=DTYPES, ids=["bf16", "f16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def gemm(_gpu: None) -> None:
    """Skips where the GPU is not one of those that the family serves."""
    capability = torch.cuda.get_device_capability()
    if not ops.cutlass_group_gemm_supported(10 * capability[0] + capability[1]):
        pytest.skip(f"moe_gemm has no code for {capability[0]}.{capability[1]}")


def e4m3(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, device="cuda") * scale).clamp(-448, 448).to(torch.float8_e4m3fn)


def numbers(*shape: int) -> torch.Tensor:
    return torch.full(shape, POISON, dtype=torch.int32, device="cuda")


@dataclass
class Problem:
    """Tensors of one product; ``counts``: rows of each expert, one behind the other."""

    counts: list[int]
    n: int
    k: int
    dtype: torch.dtype = torch.bfloat16
    per_token: bool = True
    per_channel: bool = True
    swapped: bool = False
    transposed: bool = False
    wide: bool = True
    spare: int = 0  # rows of no expert, behind the others

    def __post_init__(self) -> None:
        experts, rows = len(self.counts), sum(self.counts) + self.spare
        self.out = torch.full((rows, self.n), float("nan"), dtype=self.dtype, device="cuda")
        self.a, self.b = e4m3(rows, self.k), e4m3(experts, self.n, self.k)
        self.a_scales = torch.rand(rows if self.per_token else 1, 1, device="cuda") + 0.1
        shape = (experts, self.n) if self.per_channel else (experts,)
        self.b_scales = (torch.rand(shape, device="cuda") - 0.5) * 0.1
        counts = torch.tensor(self.counts, device="cuda")
        self.offsets = counts.cumsum(0) - counts
        if not self.wide:
            self.offsets = self.offsets.int()
        columns = torch.full_like(counts, self.n)
        depth = torch.full_like(counts, self.k)
        both = (columns, counts) if self.swapped else (counts, columns)
        self.sizes = torch.stack([*both, depth], 1).int()
        self.strides = torch.full((experts,), self.k, dtype=torch.int64, device="cuda")
        self.out_strides = torch.full((experts,), self.n, dtype=torch.int64, device="cuda")

    def arguments(self) -> list[object]:
        b = self.b.transpose(1, 2) if self.transposed else self.b
        return [self.a, b, self.a_scales, self.b_scales, self.offsets, self.sizes, self.strides,
                self.strides, self.out_strides, self.per_token, self.per_channel]  # fmt: skip

    def check(self) -> None:
        expected = self.out.clone()
        reference.cutlass_moe_mm(expected, *self.arguments())  # type: ignore[arg-type]
        ops.cutlass_moe_mm(self.out, *self.arguments())
        close(self.out, expected)


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """To the rounding of the result and of the tensor cores' sums; NaN where nothing is written."""
    assert torch.equal(ours.isnan(), expected.isnan())
    used = expected[~expected.isnan()].float()
    spread = float(used.std()) if used.numel() > 1 else 1.0
    torch.testing.assert_close(
        ours.float(), expected.float(), rtol=1e-2, atol=2e-2 * spread, equal_nan=True
    )


COUNTS = {
    "one": [1],
    "few": [1, 0, 3, 2, 0, 0, 5, 4],
    "odd": [33, 0, 127, 1, 65, 17],
    "none": [0, 0, 0, 7],
    "many": [(7 * i) % 5 for i in range(64)],
    "large": [300, 129, 0, 511, 64, 257, 1, 1000],
}


@pytest.mark.usefixtures("gemm")
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize(("n", "k"), [(16, 16), (48, 80), (304, 272), (128, 128), (1040, 1936)])
def test_product(dtype: torch.dtype, counts: list[int], n: int, k: int) -> None:
    Problem(counts, n, k, dtype).check()


@pytest.mark.usefixtures("gemm")
@pytest.mark.parametrize("per_token", [False, True], ids=["tensor", "token"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["expert", "channel"])
@pytest.mark.parametrize("swapped", [False, True], ids=["rows_first", "columns_first"])
@pytest.mark.parametrize("transposed", [False, True], ids=["nk", "kn"])
@pytest.mark.parametrize("wide", [False, True], ids=["int32", "int64"])
def test_scales_sizes_and_layouts(
    per_token: bool, per_channel: bool, swapped: bool, transposed: bool, wide: bool
) -> None:
    Problem(
        [5, 0, 40, 16], 208, 144, per_token=per_token, per_channel=per_channel, swapped=swapped,
        transposed=transposed, wide=wide,
    ).check()  # fmt: skip


@pytest.mark.usefixtures("gemm")
@pytest.mark.parametrize("mean", [2, 12, 40, 100, 300])
@pytest.mark.parametrize("experts", [8, 60, 256])
def test_every_tile_of_tokens(mean: int, experts: int) -> None:
    """Each kernel, with counts above and below its tile; more tiles than the GPU has blocks."""
    counts = torch.randint(0, 2 * mean, (experts,)).tolist()
    Problem(counts, 656, 368).check()


@pytest.mark.usefixtures("gemm")
def test_one_scale_an_expert() -> None:
    problem = Problem([5, 9, 3], 64, 64, per_token=False)
    problem.a_scales = torch.rand(3, 1, device="cuda") + 0.1
    problem.check()


@pytest.mark.usefixtures("gemm")
def test_rows_of_no_expert_stay() -> None:
    Problem([5, 0, 9], 128, 64, spare=30).check()
    batched = Problem([3, 0, 20], 96, 64, spare=73)  # 32 rows an expert, some of them in use
    batched.offsets = torch.tensor([0, 32, 64], device="cuda")
    batched.check()


@pytest.mark.usefixtures("gemm")
def test_sizes_that_cannot_be() -> None:
    """Never outside of the tensors: the host does not see the sizes."""
    problem = Problem([5, 6, 7, 8], 128, 64)
    problem.sizes[1, 0] = 1_000_000
    problem.sizes[2, 1] = 120  # another n
    problem.offsets[3] = -4
    problem.check()


@pytest.mark.usefixtures("gemm")
def test_strided_rows() -> None:
    problem = Problem([5, 40, 9], 144, 80)
    problem.a = e4m3(54, 256)[:, 32:112]
    problem.b = e4m3(3, 160, 128)[:, 8:152, 16:96]
    problem.out = torch.full((54, 320), float("nan"), dtype=torch.bfloat16, device="cuda")
    whole = problem.out
    problem.out = whole[:, 64:208]
    problem.check()
    assert whole[:, :64].isnan().all()
    assert whole[:, 208:].isnan().all()


@pytest.mark.usefixtures("gemm")
def test_extreme_values() -> None:
    problem = Problem([20, 3], 64, 512)
    problem.a.fill_(448.0)
    problem.b.fill_(448.0)
    problem.a_scales.fill_(1e-6)
    problem.b_scales.fill_(1e-2)
    problem.check()
    problem.a.fill_(2.0**-9)  # the smallest e4m3
    problem.a_scales.fill_(1.0)
    problem.check()
    problem.a[4] = float("nan")
    problem.out.fill_(0)
    ops.cutlass_moe_mm(problem.out, *problem.arguments())
    assert problem.out[4].isnan().all()
    assert not problem.out[[0, 3, 5, 22]].isnan().any()


@pytest.mark.usefixtures("gemm")
def test_nothing_to_do() -> None:
    problem = Problem([0, 0, 0], 64, 64)
    ops.cutlass_moe_mm(problem.out, *problem.arguments())
    problem = Problem([0, 0, 0], 64, 64, spare=9)
    ops.cutlass_moe_mm(problem.out, *problem.arguments())
    assert problem.out.isnan().all()


@pytest.mark.usefixtures("gemm")
def test_capture() -> None:
    """In a CUDA graph, with counts that change between replays."""
    problem = Problem([30, 1, 0, 9], 272, 144)
    problem.check()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.cutlass_moe_mm(problem.out, *problem.arguments())
    counts = torch.tensor([0, 12, 28, 0], device="cuda")
    problem.offsets.copy_(counts.cumsum(0) - counts)
    problem.sizes[:, 0] = counts
    expected = torch.full_like(problem.out, float("nan"))
    problem.out.fill_(float("nan"))
    reference.cutlass_moe_mm(expected, *problem.arguments())  # type: ignore[arg-type]
    graph.replay()
    close(problem.out, expected)


@pytest.mark.usefixtures("gemm")
@pytest.mark.parametrize(
    ("at", "change", "message"),
    [
        (0, lambda x: x.to(torch.bfloat16), "a_tensors is bfloat16, want"),
        (0, lambda x: x[:, :-16], "b_tensors has shape"),
        (1, lambda x: x[:, :-1], "b_tensors has shape"),
        (1, lambda x: x[:, :, ::2], "b_tensors"),
        (2, lambda x: x[:-1], r"a_scales has shape \[11, 1\], want 12 elements"),
        (2, lambda x: x.double(), "a_scales is float64, want float32"),
        (3, lambda x: x[:, :-1].contiguous(), r"b_scales has shape \[3, 63\], want 192 elements"),
        (4, lambda x: x[:-1], r"expert_offsets has shape \[2\], want at least 3"),
        (4, lambda x: x.float(), "expert_offsets is float32, want"),
        (5, lambda x: x[:, :2], "problem_sizes"),
        (5, lambda x: x.long(), "problem_sizes is int64, want int32"),
        (6, lambda x: x.int(), "a_strides is int32, want int64"),
        (8, lambda x: x[:-1], "c_strides has shape"),
        (5, lambda x: x.cpu(), "problem_sizes is not on a CUDA device"),
    ],
)
def test_bad_input_is_refused(at: int, change: object, message: str) -> None:
    problem = Problem([5, 4, 3], 64, 64)
    arguments = problem.arguments()
    arguments[at] = change(arguments[at])  # type: ignore[operator]
    with pytest.raises(RuntimeError, match=f"^cutlass_moe_mm: {message}"):
        ops.cutlass_moe_mm(problem.out, *arguments)


@pytest.mark.usefixtures("gemm")
def test_rows_that_copies_cannot_take_are_refused() -> None:
    problem = Problem([5, 4, 3], 64, 40)
    with pytest.raises(RuntimeError, match="multiples of 16 bytes"):
        ops.cutlass_moe_mm(problem.out, *problem.arguments())
    problem = Problem([5, 4, 3], 36, 64)
    with pytest.raises(RuntimeError, match="n is 36, want a multiple of 8"):
        ops.cutlass_moe_mm(problem.out, *problem.arguments())


def quantised(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float8 rows and their scales."""
    scales = x.float().abs().amax(-1, keepdim=True).clamp_min(1e-6) / 448
    return (x.float() / scales).to(torch.float8_e4m3fn), scales


@pytest.mark.usefixtures("gemm")
@pytest.mark.parametrize("tokens", [3, 33, 200])
@pytest.mark.parametrize("mapped", [False, True], ids=["all", "half"])
def test_experts_as_the_engine_runs_them(tokens: int, mapped: bool) -> None:
    """Permutation, both products with the activation between them, and back."""
    experts, topk, n, k = 16, 4, 192, 256
    local = experts // 2 if mapped else experts
    x, x_scales = quantised(torch.randn(tokens, k, device="cuda"))
    w13, s13 = quantised(torch.randn(local, 2 * n, k, device="cuda") * 0.1)
    w2, s2 = quantised(torch.randn(local, k, n, device="cuda") * 0.1)
    ids = torch.rand(tokens, experts, device="cuda").argsort(-1)[:, :topk].int().contiguous()
    weights = torch.rand(tokens, topk, device="cuda")
    mapping = None
    if mapped:  # odd experts are here
        mapping = torch.full((experts,), -1, dtype=torch.int32, device="cuda")
        mapping[1::2] = torch.arange(local, dtype=torch.int32, device="cuda")

    entries = torch.arange(tokens * topk, dtype=torch.int32, device="cuda").view(tokens, topk)
    permuted = torch.zeros(tokens * topk, k, device="cuda").to(torch.float8_e4m3fn)
    first = torch.empty(local + 1, dtype=torch.int64, device="cuda")
    inverse, index = numbers(tokens, topk), numbers(tokens * topk)
    ops.moe_permute(x, ids, entries, mapping, experts, local, topk, permuted, first, inverse, index)
    row_scales = x_scales[index.long().clamp(min=0) // topk]
    sizes1, sizes2 = numbers(local, 3), numbers(local, 3)
    ops.get_cutlass_moe_mm_problem_sizes_from_expert_offsets(
        first, sizes1, sizes2, n, k, tokens * topk <= 64
    )
    strides = torch.full((local,), k, dtype=torch.int64, device="cuda")
    inner = torch.zeros(tokens * topk, 2 * n, dtype=torch.bfloat16, device="cuda")
    ops.cutlass_moe_mm(inner, permuted, w13, row_scales, s13, first[:-1], sizes1,
                       strides, strides, strides, True, True)  # fmt: skip
    act = (torch.nn.functional.silu(inner[:, :n].float()) * inner[:, n:].float()).bfloat16()
    hidden, hidden_scales = quantised(act)
    outer = torch.empty(tokens * topk, k, dtype=torch.bfloat16, device="cuda")
    ops.cutlass_moe_mm(outer, hidden, w2, hidden_scales, s2, first[:-1], sizes2,
                       strides, strides, strides, True, True)  # fmt: skip
    out = torch.empty(tokens, k, dtype=torch.bfloat16, device="cuda")
    ops.moe_unpermute(outer, weights, inverse.flatten(), first, topk, out)

    plain = x.float() * x_scales
    expected = torch.zeros(tokens, k, device="cuda")
    for token in range(tokens):
        for rank in range(topk):
            expert = int(ids[token, rank])
            expert = expert if mapping is None else int(mapping[expert])
            if expert < 0:
                continue
            gate, up = (plain[token] @ (w13[expert].float() * s13[expert]).t()).chunk(2)
            inside = torch.nn.functional.silu(gate) * up
            row = inside @ (w2[expert].float() * s2[expert]).t()
            expected[token] += weights[token, rank] * row
    # float8 between the products: 3 bits of mantissa.
    torch.testing.assert_close(
        out.float(), expected, rtol=0.1, atol=0.05 * float(expected.abs().max())
    )
