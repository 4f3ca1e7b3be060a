"""Products with experts' 4-bit weights as they are stored, against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from vllm_kernels.reference.wna16 import experts as reference

ops = torch.ops.vllm_kernels

pytestmark = pytest.mark.usefixtures("ampere")


@pytest.fixture
def ampere(_gpu: None) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("4-bit weights need a GPU of 8.0 or newer")


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def sort(ids: torch.Tensor, experts: int, block: int) -> tuple[torch.Tensor, ...]:
    """What ``moe_align_block_size`` gives for entries of ``ids``; -1 is on another GPU."""
    order, owners = [], []
    for expert in range(experts):
        mine = (ids == expert).nonzero().flatten().tolist()
        mine += [len(ids)] * (-len(mine) % block)
        order += mine
        owners += [expert] * (len(mine) // block)
    total = len(order)
    order += [len(ids)] * (2 * block)  # places that nobody took
    owners += [-1] * 2
    return tuple(
        torch.tensor(values, dtype=torch.int32, device="cuda")
        for values in (order, owners, [total])
    )


@dataclass
class Problem:
    """Arguments of one product."""

    tokens: int
    top_k: int
    experts: int
    n: int
    k: int
    group: int
    dtype: torch.dtype = torch.bfloat16
    block: int = 16
    zeros: bool = True
    weighted: bool = True
    elsewhere: bool = False  # some entries belong to experts of another GPU

    def __post_init__(self) -> None:
        def random(high: int, *shape: int) -> torch.Tensor:
            return torch.randint(0, high, shape, dtype=torch.uint8, device="cuda")

        self.input = torch.randn(self.tokens, self.k, device="cuda").to(self.dtype)
        self.output = torch.full(
            (self.tokens, self.top_k, self.n), float("nan"), dtype=self.dtype, device="cuda"
        )
        groups = self.k // self.group
        self.weights = random(256, self.experts, self.n, self.k // 2)
        scales = torch.rand(self.experts, self.n, groups, device="cuda") * 0.1
        self.scales = scales.to(self.dtype)
        self.points = random(256, self.experts, self.n // 2, groups) if self.zeros else None
        least = -1 if self.elsewhere else 0
        ids = torch.randint(least, self.experts, (self.tokens * self.top_k,), device="cuda")
        self.order, self.owners, self.total = sort(ids, self.experts, self.block)
        shape = (self.tokens, self.top_k)
        self.factors = torch.rand(shape, device="cuda") if self.weighted else None

    def arguments(self) -> list[object]:
        return [self.weights, self.scales, self.points, self.factors, self.order, self.owners,
                self.total, self.top_k, self.block, 128, 128, 4]  # fmt: skip

    def check(self) -> None:
        expected = torch.empty_like(self.output)
        reference.moe_wna16_gemm(self.input, expected, *self.arguments())  # type: ignore[arg-type]
        ops.moe_wna16_gemm(self.input, self.output, *self.arguments())
        bound = 1e-2 if self.dtype == torch.bfloat16 else 2e-3
        spread = float(expected.float().abs().max())
        torch.testing.assert_close(
            self.output.float(), expected.float(), rtol=bound, atol=bound * spread * 0.1
        )


@pytest.mark.parametrize("tokens", [1, 3, 8, 33])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
def test_product(dtype: torch.dtype, tokens: int, group: int, zeros: bool) -> None:
    Problem(tokens, 2, 8, 136, 384, group, dtype, zeros=zeros).check()


@pytest.mark.parametrize("block", [1, 5, 8, 16, 48])
@pytest.mark.parametrize("top_k", [1, 6])
def test_blocks_of_entries(block: int, top_k: int) -> None:
    Problem(21, top_k, 5, 66, 160, 32, block=block, elsewhere=True).check()


@pytest.mark.parametrize(("n", "k"), [(2, 32), (30, 96), (1408, 2048), (2048, 1408)])
def test_shapes(dtype: torch.dtype, n: int, k: int) -> None:
    Problem(9, 2, 60, n, k, 32, dtype, weighted=False).check()


def test_uneven_columns_without_zero_points() -> None:
    Problem(4, 2, 3, 37, 64, 64, zeros=False).check()


def test_strided_input() -> None:
    problem = Problem(7, 2, 4, 64, 128, 64)
    problem.input = torch.randn(7, 256, device="cuda").bfloat16()[:, 64:192]
    problem.check()


def test_all_entries_elsewhere() -> None:
    problem = Problem(4, 2, 3, 64, 64, 64)
    problem.owners.fill_(-1)
    problem.check()
    assert not problem.output.any()


@pytest.mark.parametrize("block", [16, 48])
@pytest.mark.parametrize("cut", ["places", "total"])
def test_a_block_that_is_cut_is_not_used(block: int, cut: str) -> None:
    problem = Problem(8, 2, 3, 34, 64, 32, block=block)
    kept = int(problem.total) - 1
    last = problem.order[int(problem.total) - block : int(problem.total)]
    if cut == "places":
        problem.order = problem.order[:kept]
    else:
        problem.total.fill_(kept)
    problem.check()
    rows = problem.output.view(-1, 34)
    assert not rows[last[last < len(rows)].long()].any()


def test_capture() -> None:
    problem = Problem(4, 2, 8, 64, 128, 64)
    problem.check()
    expected = problem.output.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.moe_wna16_gemm(problem.input, problem.output, *problem.arguments())
    problem.output.fill_(7)
    graph.replay()
    assert torch.equal(problem.output, expected)


@pytest.mark.parametrize(
    ("at", "change", "message"),
    [
        (0, lambda x: x.int(), "b_qweight is int32, want uint8"),
        (0, lambda x: x[:, :, :-1].contiguous(), "b_qweight has shape"),
        (1, lambda x: x.float(), "b_scales is float32, want bfloat16"),
        (1, lambda x: x.repeat(1, 1, 4), "8 groups of k 128, want groups of a multiple of 32"),
        (2, lambda x: x[:, :-1].contiguous(), "b_qzeros has shape"),
        (3, lambda x: x[:-1].contiguous(), "topk_weights has shape"),
        (5, lambda x: x[:0], "expert_ids has shape"),
        (7, lambda x: 3, "output has shape"),
        (11, lambda x: 8, "bit is 8, want 4"),
    ],
)
def test_bad_input_is_refused(at: int, change: object, message: str) -> None:
    problem = Problem(4, 2, 8, 64, 128, 64)
    arguments = problem.arguments()
    arguments[at] = change(arguments[at])  # type: ignore[operator]
    with pytest.raises(RuntimeError, match=f"^moe_wna16_gemm: {message}"):
        ops.moe_wna16_gemm(problem.input, problem.output, *arguments)
