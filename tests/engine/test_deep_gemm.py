"""DeepGEMM's stand-in: planted exactly where its kernels are, with upstream's names and results."""

from __future__ import annotations

import pytest
import torch
from conftest import Engine
from cuda_engine import ASK, REFERENCE

from vllm_kernels_plugin import deep_gemm

DEPTH = 128
WITH = "api.cuda_problem = lambda op: None"
WITHOUT = 'api.cuda_problem = lambda op: "it is in vllm-deepgemm"'


def planted(cuda: Engine, installed: str, **settings: str) -> list[str]:
    """What the engine's own questions are answered with."""
    done = cuda.run(
        f"""
        from pretend import torch
        import vllm_kernels.engine_api as api
        {installed}
        {ASK}
        import importlib.util, os
        found = importlib.util.find_spec("deep_gemm")
        print(found and found.origin.endswith("deep_gemm.py"))
        for name in ("VLLM_DEEP_GEMM_WARMUP", "VLLM_USE_DEEP_GEMM_E8M0", "VLLM_MOE_USE_DEEP_GEMM"):
            print(os.environ.get(name))
        if found:
            import deep_gemm
            for name in ("fp8_fp4_mqa_logits", "fp8_fp4_paged_mqa_logits", "fp8_gemm_nt",
                         "get_paged_mqa_logits_metadata", "transform_sf_into_required_layout",
                         "m_grouped_fp8_gemm_nt_contiguous", "m_grouped_fp8_gemm_nt_masked",
                         "fp8_m_grouped_gemm_nt_masked", "get_mk_alignment_for_contiguous_layout",
                         "get_theoretical_mk_alignment_for_contiguous_layout",
                         "set_mk_alignment_for_contiguous_layout"):
                assert callable(getattr(deep_gemm, name)), name
            # Upstream's for other GPUs: the engine goes by their absence.
            assert not hasattr(deep_gemm, "fp8_fp4_sparse_mqa_logits")
        """,
        **REFERENCE,
        **settings,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[1:]


def test_planted_where_installed(cuda: Engine) -> None:
    assert planted(cuda, WITH) == ["True", "skip", "0", "0"]
    kept = {"VLLM_DEEP_GEMM_WARMUP": "full", "VLLM_USE_DEEP_GEMM_E8M0": "1"}
    assert planted(cuda, WITH, **kept) == ["True", "full", "1", "0"]


def test_absent_where_not(cuda: Engine) -> None:
    assert planted(cuda, WITHOUT) == ["None"] * 4


def float8(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).to(torch.float8_e4m3fn)


@pytest.mark.parametrize("heads", [32, 64])
def test_logits_of_prefill(heads: int) -> None:
    torch.manual_seed(0)
    rows, keys = 5, 30
    query, values = float8(rows, heads, DEPTH), float8(keys, DEPTH)
    scales, weights = torch.rand(keys), torch.randn(rows, heads)
    starts = torch.tensor([0, 0, 3, 10, 29], dtype=torch.int32)
    ends = torch.tensor([30, 1, 13, 20, 30], dtype=torch.int32)
    call = (query, None), (values, scales), weights, starts, ends
    found = deep_gemm.fp8_fp4_mqa_logits(*call, clean_logits=True)
    products = torch.einsum("mhd,nd->mhn", query.double(), values.double()).relu()
    want = torch.einsum("mhn,mh->mn", products, weights.double()) * scales
    position = torch.arange(keys)
    seen = (position >= starts[:, None]) & (position < ends[:, None])
    torch.testing.assert_close(found.double(), want.where(seen, -torch.inf), atol=1e-3, rtol=1e-4)
    assert found.stride() == (32, 1)
    # Older and newer callers.
    assert torch.equal(found, deep_gemm.fp8_mqa_logits(query, *call[1:], True))
    newer = deep_gemm.fp8_fp4_mqa_logits(*call, 30)
    for row in range(rows):
        count = int(ends[row] - starts[row])
        assert torch.equal(newer[row, :count], found[row, starts[row] : ends[row]])


@pytest.mark.parametrize("queries", [1, 2, 4])
def test_logits_of_decode(queries: int) -> None:
    torch.manual_seed(0)
    slots, heads, batch, longest = 64, 64, 2, 100
    values, scales = float8(5, slots, DEPTH), torch.rand(5, slots)
    cache = torch.cat([values.view(torch.uint8).flatten(1), scales.view(torch.uint8)], -1)
    cache = cache.view(5, slots, 1, DEPTH + 4)
    table = torch.tensor([[4, 0], [2, 3]], dtype=torch.int32)
    lengths = torch.tensor([100, 7], dtype=torch.int32)
    query, weights = float8(batch, queries, heads, DEPTH), torch.randn(batch * queries, heads)
    plan = deep_gemm.get_paged_mqa_logits_metadata(lengths, slots, 132)
    assert plan.shape == (133, 2)
    assert plan.dtype == torch.int32
    found = deep_gemm.fp8_fp4_paged_mqa_logits(
        (query, None), cache, weights, lengths, table, plan, longest, clean_logits=True
    )
    keys = values[table.long()].flatten(1, 2)[:, :longest].double()
    products = torch.einsum("bqhd,bnd->bqhn", query.double(), keys).relu()
    by_query = weights.double().view(batch, queries, heads)
    want = torch.einsum("bqhn,bqh->bqn", products, by_query)
    want = want * scales[table.long()].flatten(1, 2)[:, None, :longest]
    want = want.where(torch.arange(longest) < lengths[:, None, None], -torch.inf).flatten(0, 1)
    torch.testing.assert_close(found.double(), want, atol=1e-3, rtol=1e-4)
    by_row = lengths[:, None].expand(batch, queries)
    again = deep_gemm.fp8_paged_mqa_logits(
        query, cache, weights, by_row, table, plan, longest, clean_logits=True
    )
    assert torch.equal(found, again)


@pytest.mark.parametrize("rows", [1, 4, 7])
@pytest.mark.parametrize("groups", [None, 3])
def test_layouts_of_scales(rows: int, groups: int | None) -> None:
    shape = (rows, 5) if groups is None else (groups, rows, 5)
    scales = torch.rand(shape)
    found = deep_gemm.get_mn_major_tma_aligned_tensor(scales)
    assert torch.equal(found, scales)
    assert found.stride()[-2:] == (1, -(-rows // 4) * 4)
    assert deep_gemm.get_mn_major_tma_aligned_tensor(found) is found
    same = deep_gemm.transform_sf_into_required_layout(
        scales, rows, 5 * 128, (1, 128, 128), num_groups=groups, is_sfa=True
    )
    assert same.stride() == found.stride()


def test_scales_of_blocks_stay() -> None:
    scales = torch.rand(3, 5)
    found = deep_gemm.transform_sf_into_required_layout(
        sf=scales, mn=300, k=640, recipe=(1, 128, 128), num_groups=None, is_sfa=False
    )
    assert found is scales
    with pytest.raises(ValueError, match=r"sf has shape \[3, 5\], want \[2, 5\]"):
        deep_gemm.transform_sf_into_required_layout(scales, 200, 640, (1, 128, 128), is_sfa=False)


def grouped(
    counts: list[int], rows: int, n: int, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """a, its scales, b, its scales, where each expert has ``rows`` rows."""
    experts = len(counts)
    return (
        float8(experts, rows, k),
        torch.rand(experts, rows, k // 128),
        float8(experts, n, k),
        torch.rand(experts, -(-n // 128), k // 128),
    )


def product(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor
) -> torch.Tensor:
    left = a.double() * a_scales.double().repeat_interleave(128, -1)
    wide = b_scales.double().repeat_interleave(128, 0)[: len(b)].repeat_interleave(128, 1)
    return left @ (b.double() * wide).T


def test_grouped_products() -> None:
    torch.manual_seed(0)
    counts, rows, n, k = [3, 0, 16, 9], 16, 136, 256
    a, a_scales, b, b_scales = grouped(counts, rows, n, k)
    used = torch.tensor(counts, dtype=torch.int32)
    labels = torch.arange(4, dtype=torch.int32)[:, None].repeat(1, rows)
    labels[torch.arange(rows) >= used[:, None]] = -1
    masked = torch.full((4, rows, n), torch.nan, dtype=torch.bfloat16)
    flat = masked.clone().flatten(0, 1)
    deep_gemm.fp8_m_grouped_gemm_nt_masked((a, a_scales), (b, b_scales), masked, used, 8)
    deep_gemm.set_mk_alignment_for_contiguous_layout(rows)
    try:
        deep_gemm.m_grouped_fp8_gemm_nt_contiguous(
            (a.flatten(0, 1), a_scales.flatten(0, 1)), (b, b_scales), flat, labels.flatten()
        )
    finally:
        deep_gemm.set_mk_alignment_for_contiguous_layout(128)
    assert torch.equal(flat.view_as(masked).isnan(), masked.isnan())
    for expert, count in enumerate(counts):
        want = product(a[expert, :count], a_scales[expert, :count], b[expert], b_scales[expert])
        for found in (masked[expert, :count], flat.view_as(masked)[expert, :count]):
            torch.testing.assert_close(found.double(), want, atol=1e-2, rtol=1e-2)
        assert masked[expert, count:].isnan().all()


@pytest.mark.parametrize("counts", [[3, 0, 16, 9], [0, 0, 17, 0], [16, 32, 0, 1], [0, 0, 0, 0]])
def test_ends_of_rows_are_another_way_to_say_whose_they_are(counts: list[int]) -> None:
    """As engines from 0.33 on do it."""
    torch.manual_seed(0)
    alignment, n, k = 16, 136, 256
    labels: list[int] = []
    ends = []
    for expert, count in enumerate(counts):
        ends.append(len(labels) + count)
        labels += [expert] * count + [-1] * (-count % alignment)
    labels += [-1] * (80 - len(labels))
    a, a_scales = float8(80, k), torch.rand(80, k // 128)
    b, b_scales = float8(4, n, k), torch.rand(4, -(-n // 128), k // 128)
    said = torch.full((80, n), torch.nan, dtype=torch.bfloat16)
    counted = said.clone()
    deep_gemm.set_mk_alignment_for_contiguous_layout(alignment)
    try:
        multiply = deep_gemm.m_grouped_fp8_gemm_nt_contiguous
        multiply((a, a_scales), (b, b_scales), said, torch.tensor(labels, dtype=torch.int32))
        last = torch.tensor(ends, dtype=torch.int32)
        multiply((a, a_scales), (b, b_scales), counted, last, use_psum_layout=True)
    finally:
        deep_gemm.set_mk_alignment_for_contiguous_layout(128)
    written = ~counted.isnan().any(1)
    assert written.tolist() == [label >= 0 for label in labels]
    assert torch.equal(said[written], counted[written])


def test_alignments() -> None:
    """The engine asserts that the first answer is a block of scales."""
    assert deep_gemm.get_mk_alignment_for_contiguous_layout() == 128
    ask = deep_gemm.get_theoretical_mk_alignment_for_contiguous_layout
    assert [ask(m, 8) for m in (1, 128, 129, 512, 513, 10**6)] == [16, 16, 64, 64, 128, 128]
    assert ask(60) == 64
    assert ask() == 128
    with pytest.raises(ValueError, match="24 rows, want a multiple of 16"):
        deep_gemm.set_mk_alignment_for_contiguous_layout(24)


def test_what_has_no_kernel_is_one_sentence() -> None:
    query, scales = float8(2, 64, DEPTH), torch.rand(2)
    rows = torch.zeros(2, dtype=torch.int32)
    with pytest.raises(NotImplementedError, match=r"a query with scales of its own \(FP4\)"):
        deep_gemm.fp8_fp4_mqa_logits((query, scales), (query[0], scales), scales, rows, rows)
    with pytest.raises(NotImplementedError, match="indices of its rows' requests"):
        deep_gemm.get_paged_mqa_logits_metadata(rows, 64, 132, indices=rows)
    out = torch.empty(2, 2, dtype=torch.bfloat16)
    pair = (query[:, 0], torch.rand(2, 1))
    with pytest.raises(NotImplementedError, match="a sum with c"):
        deep_gemm.fp8_gemm_nt(pair, pair, out, out)
    with pytest.raises(NotImplementedError, match=r"recipe \(1, 1, 32\)"):
        deep_gemm.fp8_gemm_nt(pair, pair, out, recipe=(1, 1, 32))
    with pytest.raises(NotImplementedError, match=r"scales of torch\.int32"):
        deep_gemm.fp8_gemm_nt((pair[0], rows.view(2, 1)), pair, out)
    groups = (query, torch.rand(2, 64, 1)), (query, torch.rand(2, 1, 1)), out
    with pytest.raises(NotImplementedError, match=r"recipe \(1, 32\)"):
        deep_gemm.m_grouped_fp8_gemm_nt_masked(*groups, rows, 1, recipe_a=(1, 32))
    with pytest.raises(NotImplementedError, match=r"deep_gemm\.fp8_einsum has no kernel"):
        next(one for one in deep_gemm._MEMBERS if one.__name__ == "fp8_einsum")()
    with pytest.raises(NotImplementedError, match="blocks of 32 x 128"):
        deep_gemm.transform_sf_into_required_layout(scales, 64, 128, (32, 128))
