"""Products with experts' repacked 4- and 8-bit weights against float64 references."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from vllm_kernels.reference.wna16 import cuda as reference

from ..common.wna16 import TYPES, UNIT, Problem, make, with_groups

ops = torch.ops.vllm_kernels


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param  # type: ignore[no-any-return]


def stacked(problems: list[Problem], name: str) -> torch.Tensor | None:
    """An operand of all experts, or None where it is absent."""
    parts = [getattr(problem, name) for problem in problems]
    return None if parts[0] is None else torch.stack(parts)


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
            return stacked(self.problems, name)

        first = self.problems[0]
        empty = torch.empty(0, dtype=torch.int32, device="cuda")
        workspace = torch.zeros(132 * 4, dtype=torch.int32, device="cuda")
        return (
            self.a, c, stack("weights"), stack("bias"), stack("scales"), None,
            stack("global_scale"), stack("zeros"), empty, empty, workspace, self.sorted,
            self.experts, self.padded, self.factors, self.block, self.top_k, mul, first.type_id,
            m, first.n, k, True, False, True, False, -1, -1, -1,
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
    type_name: str, m: int, top_k: int, block: int, group: int, dtype: torch.dtype, n: int = 192
) -> Experts:
    """Random routing to five experts, one of them on another rank (-1)."""
    count, k = 5, 512
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
    for group, mul in ((128, True), (-1, False)):  # of FP4, its own
        problem = make_experts(type_name, m, top_k, block, group, dtype)
        c = torch.full((m * top_k, 192), 7.0, device="cuda", dtype=dtype)
        arguments = problem.arguments(mul, c)
        problem.check(ops.moe_wna16_marlin_gemm(*arguments), mul, 7.0)
        assert not arguments[10].any(), "the workspace is not zeros again"  # type: ignore[attr-defined]


@pytest.mark.parametrize("block", [8, 16, 32, 48, 64])
@pytest.mark.parametrize(("type_name", "group"), with_groups([32, 64, 128, -1]))
def test_tiles_for_all_multiprocessors(
    type_name: str, group: int, block: int, dtype: torch.dtype
) -> None:
    """So many that Hopper's kernel for experts takes them; the last tile of columns is narrow."""
    m, top_k, n = 500, 3, 2112
    for mul in (True, False):
        problem = make_experts(type_name, m, top_k, block, group, dtype, n)
        c = torch.full((m * top_k, n), 7.0, device="cuda", dtype=dtype)
        arguments = problem.arguments(mul, c)
        problem.check(ops.moe_wna16_marlin_gemm(*arguments), mul, 7.0)
        assert not arguments[10].any(), "the workspace is not zeros again"  # type: ignore[attr-defined]


@pytest.mark.parametrize("type_name", ["u4", "mxfp4", "nvfp4"])
def test_reference_of_experts(type_name: str, dtype: torch.dtype) -> None:
    problem = make_experts(type_name, 40, 2, 16, 64, dtype)
    arguments = problem.arguments(True, None)
    problem.check(reference.moe_wna16_marlin_gemm(*arguments), True, 0.0)  # type: ignore[arg-type]


def test_a_global_scale_of_each_expert() -> None:
    problem = make_experts("nvfp4", 8, 2, 16, 0, torch.bfloat16)
    arguments = list(problem.arguments(True, None))
    with pytest.raises(
        RuntimeError, match=r"global_scale has shape \[3\], want one number for each"
    ):
        ops.moe_wna16_marlin_gemm(*arguments[:6], torch.ones(3, device="cuda"), *arguments[7:])
    with pytest.raises(RuntimeError, match="global_scale is absent"):
        ops.moe_wna16_marlin_gemm(*arguments[:6], None, *arguments[7:])
