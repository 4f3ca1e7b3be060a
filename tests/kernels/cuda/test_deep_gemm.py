"""DeepGEMM's stand-in on a GPU: what the engine calls, by the shapes that it calls it with."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels import engine_api
from vllm_kernels_plugin import deep_gemm

from .hopper import skip_unless_served

DEPTH, SLOTS = 128, 64


@pytest.fixture(autouse=True)
def hopper(_gpu: None) -> None:
    skip_unless_served(deep_gemm.OP)


def float8(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").to(torch.float8_e4m3fn)


def forms(scales: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same scales as each caller has them."""
    rows = scales.shape[0]
    padded = scales.new_full((scales.shape[1], rows + 5), torch.nan)
    padded[:, :rows] = scales.T
    return {
        "aligned": deep_gemm.get_mn_major_tma_aligned_tensor(scales),
        "rows": scales.contiguous(),
        "columns": scales.T.contiguous().T,
        "apart": padded.T[:rows],
    }


def random_scales(*shape: int) -> torch.Tensor:
    return torch.rand(shape, device="cuda") + 0.1


def wide(b: torch.Tensor, b_scales: torch.Tensor) -> torch.Tensor:
    return b.float() * b_scales.repeat_interleave(128, 0)[: len(b)].repeat_interleave(128, 1)


def wanted(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor
) -> torch.Tensor:
    return (a.float() * a_scales.repeat_interleave(128, 1)) @ wide(b, b_scales).T


@pytest.mark.parametrize("form", ["aligned", "rows", "columns", "apart"])
@pytest.mark.parametrize("rows", [1, 3, 64, 129, 1000])
@pytest.mark.parametrize(("n", "k"), [(128, 128), (256, 128), (576, 7168), (2112, 1536)])
def test_products(form: str, rows: int, n: int, k: int) -> None:
    if problem := engine_api.cuda_problem("cutlass_scaled_mm"):
        pytest.skip(problem)
    torch.manual_seed(0)
    a, b = float8(rows, k), float8(n, k)
    a_scales, b_scales = random_scales(rows, k // 128), random_scales(-(-n // 128), k // 128)
    out = torch.full((rows, n), torch.nan, dtype=torch.bfloat16, device="cuda")
    deep_gemm.fp8_gemm_nt((a, forms(a_scales)[form]), (b, b_scales), out, disable_ue8m0_cast=True)
    want = wanted(a, a_scales, b, b_scales)
    torch.testing.assert_close(out.float(), want, atol=2e-2 * k**0.5, rtol=2e-2)


@pytest.mark.parametrize("form", ["aligned", "rows", "columns", "apart"])
@pytest.mark.parametrize("mean", [3, 40, 200])
@pytest.mark.parametrize(("n", "k"), [(256, 128), (512, 1536), (576, 7168)])
def test_grouped_products(form: str, mean: int, n: int, k: int) -> None:
    if problem := engine_api.cuda_problem("grouped_mm_labelled"):
        pytest.skip(problem)
    torch.manual_seed(0)
    experts = 6
    counts = torch.randint(0, 2 * mean, (experts,)).tolist()
    rows = deep_gemm.get_theoretical_mk_alignment_for_contiguous_layout(sum(counts), experts)
    assert rows in (16, 64, 128)
    labels: list[int] = []
    for expert, count in enumerate(counts):
        labels += [expert] * count + [-1] * (-count % rows)
    a, b = float8(len(labels), k), float8(experts, n, k)
    a_scales = random_scales(len(labels), k // 128)
    b_scales = random_scales(experts, -(-n // 128), k // 128)
    out = torch.full((len(labels), n), torch.nan, dtype=torch.bfloat16, device="cuda")
    before = deep_gemm.get_mk_alignment_for_contiguous_layout()
    assert before == 128
    deep_gemm.set_mk_alignment_for_contiguous_layout(rows)
    try:
        deep_gemm.m_grouped_fp8_gemm_nt_contiguous(
            (a, forms(a_scales)[form]), (b, b_scales), out,
            torch.tensor(labels, dtype=torch.int32, device="cuda"), disable_ue8m0_cast=True,
        )  # fmt: skip
    finally:
        deep_gemm.set_mk_alignment_for_contiguous_layout(before)
    where = torch.tensor(labels, device="cuda")
    for expert in range(experts):
        mine = where == expert
        want = wanted(a[mine], a_scales[mine], b[expert], b_scales[expert])
        torch.testing.assert_close(out[mine].float(), want, atol=2e-2 * k**0.5, rtol=2e-2)
    assert out[where < 0].isnan().all()


@pytest.mark.parametrize("expected", [1, 64, 300])
def test_masked_products_as_the_engine_calls_them(expected: int) -> None:
    """Both products of batched experts, and the activation between them."""
    if problem := engine_api.cuda_problem("grouped_mm_counted"):
        pytest.skip(problem)
    torch.manual_seed(0)
    counts, rows, n, k = [5, 0, 70, 33], 75, 256, 512
    experts = len(counts)
    used = torch.tensor(counts, dtype=torch.int32, device="cuda")
    a, w13, w2 = float8(experts, rows, k), float8(experts, 2 * n, k), float8(experts, k, n)
    a_scales = random_scales(experts, k // 128, rows).mT * 0.01
    s13 = random_scales(experts, 2 * n // 128, k // 128) * 0.1
    s2 = random_scales(experts, k // 128, n // 128) * 0.1
    inner = torch.full((experts, rows, 2 * n), torch.nan, dtype=torch.bfloat16, device="cuda")
    deep_gemm.fp8_m_grouped_gemm_nt_masked((a, a_scales), (w13, s13), inner, used, expected)
    hidden = torch.zeros(experts, rows, n, device="cuda").to(torch.float8_e4m3fn)
    hidden_scales = torch.zeros(experts, n // 128, rows, device="cuda").mT
    torch.ops.vllm_kernels.persistent_masked_m_silu_mul_quant(
        inner, used, hidden, hidden_scales, False
    )
    outer = torch.full((experts, rows, k), torch.nan, dtype=torch.bfloat16, device="cuda")
    deep_gemm.m_grouped_fp8_gemm_nt_masked((hidden, hidden_scales), (w2, s2), outer, used, expected)
    for expert, count in enumerate(counts):
        first = wanted(a[expert, :count], a_scales[expert, :count], w13[expert], s13[expert])
        gate, up = first.chunk(2, -1)
        middle = torch.nn.functional.silu(gate) * up
        want = middle @ wide(w2[expert], s2[expert]).T
        # float8 between the products: 3 bits of mantissa.
        limit = 0.05 * float(want.abs().max()) if count else 0.0
        torch.testing.assert_close(outer[expert, :count].float(), want, atol=limit, rtol=0.1)
        assert outer[expert, count:].isnan().all()


def test_logits_of_prefill() -> None:
    torch.manual_seed(0)
    rows, keys, heads = 70, 333, 64
    query, values = float8(rows, heads, DEPTH), float8(keys, DEPTH)
    scales, weights = (torch.rand(*s, device="cuda") for s in ((keys,), (rows, heads)))
    ends = torch.arange(rows, device="cuda").int() + 1 + keys - rows
    starts = ends - 200
    found = deep_gemm.fp8_fp4_mqa_logits(
        (query, None), (values, scales), weights, starts, ends, clean_logits=True
    )
    scores = torch.einsum("mhd,nd->mhn", query.float(), values.float()).relu()
    want = torch.einsum("mhn,mh->mn", scores, weights) * scales
    position = torch.arange(keys, device="cuda")
    seen = (position >= starts[:, None]) & (position < ends[:, None])
    assert found.shape == (rows, keys)
    assert found.stride(0) % 4 == 0
    torch.testing.assert_close(found, want.where(seen, -torch.inf), atol=5e-2, rtol=2e-3)
    packed = deep_gemm.fp8_fp4_mqa_logits(
        (query, None), (values, scales), weights, starts, ends, 200
    )
    assert packed.shape == (rows, 200)
    assert torch.equal(packed, found[seen].view(rows, 200))


@pytest.mark.parametrize("queries", [1, 2, 4])
def test_logits_of_decode(queries: int) -> None:
    torch.manual_seed(0)
    lengths, heads = [200, 0, 64, 1000], 64
    batch, width, longest = len(lengths), 16, 1000
    pages = batch * width
    cache = torch.zeros(pages, SLOTS, 1, DEPTH + 4, dtype=torch.uint8, device="cuda")
    values, scales = float8(pages, SLOTS, DEPTH), torch.rand(pages, SLOTS, device="cuda")
    flat = cache.view(pages, -1)
    flat[:, : SLOTS * DEPTH] = values.view(torch.uint8).flatten(1)
    flat[:, SLOTS * DEPTH :] = scales.view(torch.uint8)
    table = torch.randperm(pages, device="cuda").int().view(batch, width)
    query = float8(batch, queries, heads, DEPTH)
    weights = torch.rand(batch * queries, heads, device="cuda")
    context = torch.tensor(lengths, device="cuda", dtype=torch.int32)[:, None]
    context = (context - torch.arange(queries - 1, -1, -1, device="cuda").int()).clamp(min=0)
    parts = deep_gemm.get_num_sms() // (2 if queries == 4 else 1)
    plan = deep_gemm.get_paged_mqa_logits_metadata(context, SLOTS, parts)
    assert plan.shape == (parts + 1, 2)
    found = deep_gemm.fp8_fp4_paged_mqa_logits(
        (query, None), cache, weights, context, table, plan, max_context_len=longest,
        clean_logits=True,
    )  # fmt: skip
    keys = values[table.long()].flatten(1, 2)[:, :longest].float()
    factors = scales[table.long()].flatten(1, 2)[:, :longest]
    scores = torch.einsum("bqhd,bnd->bqhn", query.float(), keys).relu()
    want = torch.einsum("bqhn,bqh->bqn", scores, weights.view(batch, queries, heads))
    want = want * factors[:, None]
    seen = torch.arange(longest, device="cuda") < context[..., None]
    want = want.where(seen, -torch.inf).flatten(0, 1)
    torch.testing.assert_close(found, want, atol=5e-2, rtol=2e-3)


def test_fewer_multiprocessors() -> None:
    every = deep_gemm.get_num_sms()
    try:
        deep_gemm.set_num_sms(every - 20)
        assert deep_gemm.get_num_sms() == every - 20
        test_logits_of_prefill()
        with pytest.raises(ValueError, match=f"want 1 to {every}"):
            deep_gemm.set_num_sms(every + 1)
    finally:
        deep_gemm.set_num_sms(every)
