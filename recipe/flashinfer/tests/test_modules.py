"""FlashInfer's compiled modules on a GPU, against PyTorch; without a GPU, that they load.

Runs in the installed package, where nothing may be compiled or downloaded.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import tempfile
from pathlib import Path

import pytest
import torch

os.environ.setdefault("FLASHINFER_WORKSPACE_BASE", tempfile.mkdtemp())
os.environ.setdefault("FLASHINFER_DISABLE_JIT", "1")
if not torch.cuda.is_available():
    os.environ.setdefault("FLASHINFER_CUDA_ARCH_LIST", "9.0a")

import flashinfer
import flashinfer_jit_cache
import tvm_ffi

AOT = Path(flashinfer_jit_cache.get_jit_cache_dir())
MODULES = json.loads((AOT / "modules.json").read_text())["modules"]
BFLOAT16 = torch.bfloat16
PREFILL = "batch_prefill_with_kv_cache_dtype_q_bf16_dtype_kv_bf16_dtype_o_bf16_dtype_idx_i32"

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(autouse=True)
def on_gpu() -> None:
    torch.manual_seed(1)
    if torch.cuda.is_available():
        torch.set_default_device("cuda")


@pytest.mark.parametrize("name", MODULES)
def test_loads(name: str) -> None:
    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")
    assert tvm_ffi.load_module(str(AOT / name / f"{name}.so")) is not None


@pytest.mark.parametrize("word", ["sampling", "page", "rope", "norm"])
def test_found_by_flashinfer(word: str) -> None:
    """Under the name that FlashInfer asks for: it would compile or refuse otherwise."""
    generators = importlib.import_module(f"flashinfer.jit.{word}")
    spec = getattr(generators, f"gen_{word}_module")()
    assert spec.name in MODULES
    assert spec.build_and_load() is not None


def probabilities(rows: int, size: int) -> torch.Tensor:
    return torch.softmax(3 * torch.randn(rows, size), dim=-1)


def top_p_kept(probs: torch.Tensor, p: float) -> torch.Tensor:
    """What the smallest set of tokens whose probability reaches ``p`` keeps."""
    ordered, order = probs.double().sort(descending=True, dim=-1)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probs, dtype=torch.bool).scatter(1, order, before < p)


def top_k_kept(probs: torch.Tensor, k: int) -> torch.Tensor:
    return probs >= probs.topk(k, dim=-1).values[:, -1:]


def far_from(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """How many standard deviations the statistic of Pearson is above its mean."""
    draws = counts.sum()
    likely = expected * draws >= 5
    cells = torch.cat([counts[likely], counts[~likely].sum()[None]]).double()
    means = torch.cat([expected[likely], expected[~likely].sum()[None]]).double() * draws
    cells, means = cells[means > 0], means[means > 0]
    degrees = len(cells) - 1
    if not degrees:  # one token alone is likely
        return 0.0
    statistic = ((cells - means) ** 2 / means).sum()
    return float((statistic - degrees) / math.sqrt(2 * degrees))


def drawn(sample, probs: torch.Tensor, *filters: torch.Tensor) -> torch.Tensor:
    """Counts of tokens from many draws of one row."""
    rows = 20000
    many = probs.expand(rows, -1).contiguous()
    columns = [value.expand(rows).contiguous() for value in filters]
    tokens = torch.cat([sample(many, *columns, deterministic=True) for _ in range(10)])
    return torch.bincount(tokens.long(), minlength=probs.shape[-1])


def check_draws(counts: torch.Tensor, probs: torch.Tensor, kept: torch.Tensor) -> None:
    """Tokens that are kept are drawn by their probabilities, no others at all."""
    assert not counts[~kept].any()
    expected = torch.where(kept, probs, 0)
    assert abs(far_from(counts, expected / expected.sum())) < 6


@gpu
@pytest.mark.parametrize("size", [17, 1000, 4099])
def test_distribution(size: int) -> None:
    probs = probabilities(1, size)
    counts = drawn(flashinfer.sampling.sampling_from_probs, probs)
    assert abs(far_from(counts, probs[0])) < 6


@gpu
@pytest.mark.parametrize("p", [0.1, 0.5, 0.95])
def test_top_p_distribution(p: float) -> None:
    probs = probabilities(1, 1000)
    kept = top_p_kept(probs, p)[0]
    counts = drawn(flashinfer.sampling.top_p_sampling_from_probs, probs, torch.tensor([p]))
    check_draws(counts, probs[0], kept)


@gpu
@pytest.mark.parametrize("k", [1, 20, 300])
def test_top_k_distribution(k: int) -> None:
    probs = probabilities(1, 1000)
    kept = top_k_kept(probs, k)[0]
    limit = torch.tensor([k], dtype=torch.int32)
    counts = drawn(flashinfer.sampling.top_k_sampling_from_probs, probs, limit)
    check_draws(counts, probs[0], kept)


@gpu
def test_top_k_and_top_p_distribution() -> None:
    """As the engine calls it: logits, limits of each row."""
    logits = 3 * torch.randn(1, 32003)
    kept = top_k_kept(logits.softmax(-1), 50)
    masked = torch.where(kept, logits, -torch.inf).softmax(-1)
    kept = top_p_kept(masked, 0.9)[0]
    rows, calls = 4000, 20
    k = torch.full((rows,), 50, dtype=torch.int32)
    p = torch.full((rows,), 0.9)
    many = logits.expand(rows, -1).contiguous()
    sample = flashinfer.sampling.top_k_top_p_sampling_from_logits
    tokens = torch.cat([sample(many, k, p, deterministic=True) for _ in range(calls)])
    counts = torch.bincount(tokens.long(), minlength=logits.shape[-1])
    check_draws(counts, masked[0], kept)


@gpu
@pytest.mark.parametrize("size", [100, 32000, 128256])
def test_renormalised(size: int) -> None:
    probs = probabilities(7, size)
    for name, found, kept in (
        ("top-p", flashinfer.sampling.top_p_renorm_probs(probs, 0.9), top_p_kept(probs, 0.9)),
        ("top-k", flashinfer.sampling.top_k_renorm_probs(probs, 50), top_k_kept(probs, 50)),
    ):
        wanted = torch.where(kept, probs.double(), 0)
        wanted /= wanted.sum(-1, keepdim=True)
        # Sums of float32 decide on which side the token at the edge of a top-p set falls.
        assert ((found > 0) != kept).sum(-1).max() <= (1 if name == "top-p" else 0), name
        assert (found.double() - wanted).abs().max() < 1e-4, name
        assert (found.double().sum(-1) - 1).abs().max() < 1e-5, name


@gpu
def test_masked_logits() -> None:
    logits = torch.randn(5, 32001)
    found = flashinfer.sampling.top_k_mask_logits(logits, 40)
    assert torch.equal(found, torch.where(top_k_kept(logits, 40), logits, -torch.inf))


@gpu
@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_pages(layout: str) -> None:
    heads, size, page, lengths = 3, 128, 16, [1, 33, 16]
    pages = [math.ceil(length / page) for length in lengths]
    order = torch.randperm(sum(pages), device="cpu").int()
    shape = (len(order), 2, page, heads, size)
    if layout == "HND":
        shape = (len(order), 2, heads, page, size)
    cache = torch.zeros(shape, dtype=BFLOAT16)
    keys, values = torch.randn(2, sum(lengths), heads, size, dtype=BFLOAT16)
    begins = torch.tensor([0, *pages], device="cpu").cumsum(0).int().cuda()
    last = torch.tensor([(length - 1) % page + 1 for length in lengths], dtype=torch.int32)
    batch = torch.cat([torch.full((n,), i, dtype=torch.int32) for i, n in enumerate(lengths)])
    positions = torch.cat([torch.arange(n, dtype=torch.int32) for n in lengths])
    flashinfer.page.append_paged_kv_cache(
        keys, values, batch, positions, cache, order.cuda(), begins, last, kv_layout=layout
    )
    wanted = torch.zeros(shape, dtype=BFLOAT16)
    by_token = wanted if layout == "NHD" else wanted.transpose(2, 3)
    for row, (request, position) in enumerate(zip(batch.tolist(), positions.tolist(), strict=True)):
        at = int(order[int(begins[request]) + position // page])
        by_token[at, 0, position % page] = keys[row]
        by_token[at, 1, position % page] = values[row]
    assert torch.equal(cache, wanted)


def rotated(x: torch.Tensor, angles: torch.Tensor, neox: bool) -> torch.Tensor:
    """``x`` [tokens, heads, size] in float64."""
    size = 2 * angles.shape[-1]
    x, cos, sin = x.double(), angles.cos()[:, None], angles.sin()[:, None]
    turned, rest = x[..., :size], x[..., size:]
    if neox:
        a, b = turned.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)
    a, b = turned[..., ::2], turned[..., 1::2]
    pairs = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    return torch.cat([pairs, rest], -1)


@gpu
@pytest.mark.parametrize("neox", [True, False])
@pytest.mark.parametrize("dtype", [BFLOAT16, torch.float16])
def test_rope(neox: bool, dtype: torch.dtype) -> None:
    tokens, size, turned = 37, 128, 64
    queries = torch.randn(tokens, 8 * size, dtype=dtype)
    keys = torch.randn(tokens, 2 * size, dtype=dtype)
    positions = torch.randint(0, 4096, (tokens,))
    rates = 10000.0 ** (-torch.arange(0, turned, 2, dtype=torch.float64) / turned)
    angles = torch.arange(4096, dtype=torch.float64)[:, None] * rates
    table = torch.cat([angles.cos(), angles.sin()], -1).float()
    found = flashinfer.rope.apply_rope_with_cos_sin_cache(
        positions, queries, keys, size, table, is_neox=neox
    )
    for x, y in zip((queries, keys), found, strict=True):
        wanted = rotated(x.view(tokens, -1, size), angles[positions], neox).view_as(x)
        torch.testing.assert_close(y.double(), wanted, rtol=2e-2, atol=2e-2)
        assert (y.double() - wanted).abs().mean() < 2e-3


@gpu
@pytest.mark.parametrize("size", [64, 1000, 8192])
@pytest.mark.parametrize("dtype", [BFLOAT16, torch.float16])
def test_norm(size: int, dtype: torch.dtype) -> None:
    x, residual = torch.randn(2, 33, size, dtype=dtype)
    weight = torch.randn(size, dtype=dtype)

    def normalised(value: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
        value = value.double()
        scale = (value.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return value * scale * (weight.double() + shift)

    close = {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(flashinfer.norm.rmsnorm(x, weight).double(), normalised(x), **close)
    found = flashinfer.norm.gemma_rmsnorm(x, weight).double()
    torch.testing.assert_close(found, normalised(x, 1.0), **close)
    total = x.double() + residual.double()
    flashinfer.norm.fused_add_rmsnorm(x, residual, weight)
    torch.testing.assert_close(residual.double(), total, **close)
    torch.testing.assert_close(x.double(), normalised(total), **close)


def attended(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Causal attention of one request, [tokens, heads, size], in float64."""
    group = queries.shape[1] // keys.shape[1]
    q, k, v = (x.double().transpose(0, 1) for x in (queries, keys, values))
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    scores = q @ k.transpose(1, 2) / math.sqrt(queries.shape[-1])
    hidden = torch.ones_like(scores[0], dtype=torch.bool).triu(1 + k.shape[1] - q.shape[1])
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(0, 1)


def compiled(size: int, backend: str) -> bool:
    prefix = f"{PREFILL}_head_dim_qk_{size}_"
    sm90 = backend == "fa3"
    return any(name.startswith(prefix) and name.endswith("_sm90") == sm90 for name in MODULES)


@gpu
@pytest.mark.parametrize("backend", ["fa2", "fa3"])
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("requests", [[(1, 1)], [(7, 7), (1, 300), (130, 257)], [(1, 900)] * 5])
def test_prefill(backend: str, size: int, requests: list[tuple[int, int]]) -> None:
    """Requests of (queries, keys); with one query each it is decoding."""
    if not compiled(size, backend):
        pytest.skip(f"the set has no {backend} of heads of {size}")
    heads, kv_heads, page = 8, 2, 16
    pages = [math.ceil(keys / page) for _, keys in requests]
    order = torch.randperm(sum(pages), device="cpu").int().cuda()
    cache = torch.randn(len(order), 2, page, kv_heads, size, dtype=BFLOAT16)

    def summed(numbers: list[int]) -> torch.Tensor:
        return torch.tensor([0, *numbers], device="cpu").cumsum(0).int().cuda()

    starts, begins = summed([queries for queries, _ in requests]), summed(pages)
    last = torch.tensor([(keys - 1) % page + 1 for _, keys in requests], dtype=torch.int32)
    queries = torch.randn(int(starts[-1]), heads, size, dtype=BFLOAT16)
    workspace = torch.zeros(256 << 20, dtype=torch.uint8)
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD", backend=backend)
    wrapper.plan(
        starts, begins, order, last, heads, kv_heads, size, page,
        causal=True, q_data_type=BFLOAT16, kv_data_type=BFLOAT16,
    )  # fmt: skip
    found = wrapper.run(queries, cache)
    for i, (count, keys) in enumerate(requests):
        own = order[begins[i] : begins[i + 1]].long()
        k, v = (cache[own, part].flatten(0, 1)[:keys] for part in (0, 1))
        rows = slice(int(starts[i]), int(starts[i]) + count)
        wanted = attended(queries[rows], k, v)
        torch.testing.assert_close(found[rows].double(), wanted, rtol=2e-2, atol=2e-2)
