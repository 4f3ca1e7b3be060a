"""varlen_attention and merge_attn_states against float64, over the product of their features."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from vllm_kernels.reference.attention import cuda as reference

ops = torch.ops.vllm_kernels
FP8 = torch.float8_e4m3fn

# Of the largest value (about 1): probabilities and output are rounded to T.
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 3e-3}
LSE_TOLERANCE = 2e-3


@dataclass(frozen=True)
class Problem:
    """One batch: ``lengths`` holds (query tokens, keys) of each request."""

    lengths: tuple[tuple[int, int], ...] = ((1, 100),)
    dtype: torch.dtype = torch.bfloat16
    cache: torch.dtype | None = None
    heads: int = 8
    kv_heads: int = 2
    head_size: int = 128
    value_head_size: int | None = None
    block_size: int = 16  # 0: packed keys
    causal: bool = True
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    alibi: int = 0  # dimensions of the slopes
    sinks: torch.dtype | None = None
    dynamic_causal: bool = False
    scales: str = "none"  # "one" value or one per "head"
    splits: int = 0
    max_query_len: int | None = None
    max_seq_len: int | None = None


@dataclass
class Batch:
    """The op's arguments for a Problem."""

    problem: Problem
    args: dict[str, Any] = field(default_factory=dict)

    def run(self, **changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
        args = {**self.args, **changes}
        args["out"].fill_(float("nan"))
        args["softmax_lse"].fill_(float("nan"))
        ops.varlen_attention(**args)
        return args["out"], args["softmax_lse"]

    def expected(self) -> tuple[torch.Tensor, torch.Tensor]:
        def wide(value: Any) -> Any:
            if torch.is_tensor(value) and value.dtype in (
                torch.float32,
                torch.bfloat16,
                torch.float16,
            ):
                return value.double()
            return value

        args = {name: wide(value) for name, value in self.args.items()}
        args["out"] = torch.zeros(self.args["out"].shape, dtype=torch.float64, device="cuda")
        args["softmax_lse"] = torch.zeros_like(self.args["softmax_lse"], dtype=torch.float64)
        reference.varlen_attention(**args)
        return args["out"], args["softmax_lse"]

    def check(self) -> None:
        (out, lse), (want, want_lse) = self.run(), self.expected()
        assert self.problem.dtype == out.dtype
        scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
        atol = TOLERANCE[out.dtype] * scale
        torch.testing.assert_close(out.double(), want, rtol=0, atol=atol)
        torch.testing.assert_close(
            lse.double(),
            want_lse,
            rtol=1e-4,
            atol=LSE_TOLERANCE * (4 if self.args["softcap"] else 1),
        )


def _cache(problem: Problem, pages: list[int], keys: int, size: int) -> torch.Tensor:
    """Poisoned everywhere: NaN in float8 is 0x7f."""
    p = problem
    dtype = p.cache or p.dtype
    shape = (
        (sum(pages) + 3, p.block_size, p.kv_heads, size)
        if p.block_size
        else (keys, p.kv_heads, size)
    )
    if dtype in (FP8, torch.uint8):
        return torch.full(shape, 0x7F, dtype=torch.uint8, device="cuda").view(dtype)
    return torch.full(shape, float("nan"), dtype=dtype, device="cuda")


def _fill(cache: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    new = torch.randn((len(rows), *cache.shape[-2:]), device="cuda")
    if cache.dtype in (FP8, torch.uint8):
        flat = cache.view(torch.uint8).flatten(0, cache.dim() - 3)
        flat[rows] = new.to(FP8).view(torch.uint8)
        return flat.view(cache.dtype).view(cache.shape)
    flat = cache.flatten(0, cache.dim() - 3)
    flat[rows] = new.to(cache.dtype)
    return flat.view(cache.shape)


def _visible(p: Problem, queries: int, keys: int, causal: bool) -> tuple[int, int]:
    """Keys [begin, end) that some query of the request sees."""
    left, right = p.window
    if causal:
        right = 0 if right < 0 else min(right, 0)
    begin = 0 if left < 0 else max(0, keys - queries - left)
    end = keys if right < 0 else min(keys, keys + right)
    return min(begin, end), end


def make(p: Problem) -> Batch:
    """Pages in random order; what no query may see is poisoned, its table entries too."""
    requests = len(p.lengths)
    size, value_size = p.head_size, p.value_head_size or p.head_size
    block = p.block_size or 1
    pages = [-(-keys // block) if p.block_size else 0 for _, keys in p.lengths]
    total = sum(keys for _, keys in p.lengths)
    key, value = _cache(p, pages, total, size), _cache(p, pages, total, value_size)
    dynamic = torch.tensor([i % 2 == 0 for i in range(requests)], device="cuda")
    table = torch.full((requests, max(pages, default=0) + 2), -1, dtype=torch.int32, device="cuda")
    order = torch.randperm(sum(pages) + 3, device="cuda")[: sum(pages)]
    first_page, first_key = 0, 0
    for row, (queries, keys) in enumerate(p.lengths):
        causal = bool(dynamic[row]) if p.dynamic_causal else p.causal
        begin, end = _visible(p, queries, keys, causal)
        positions = torch.arange(begin, end, device="cuda") if queries else None
        if p.block_size:
            mine = order[first_page : first_page + pages[row]]
            first_page += pages[row]
            if positions is not None and begin < end:
                visible = torch.arange(begin // block, -(-end // block), device="cuda")
                table[row, visible] = mine[visible].int()
                rows = mine[positions // block] * block + positions % block
                key, value = _fill(key, rows), _fill(value, rows)
        elif positions is not None:
            key, value = _fill(key, first_key + positions), _fill(value, first_key + positions)
        first_key += keys
    tokens = sum(queries for queries, _ in p.lengths)
    query_lens = torch.tensor([0] + [queries for queries, _ in p.lengths]).cumsum(0)
    key_lens = torch.tensor([0] + [keys for _, keys in p.lengths]).cumsum(0)
    scales: dict[str, torch.Tensor | None] = {"k_scale": None, "v_scale": None}
    if p.scales != "none":
        for name in scales:
            shape = (1,) if p.scales == "one" else (1, p.kv_heads)
            scale = torch.rand(shape, device="cuda") + 0.5
            scales[name] = scale if p.scales == "one" else scale.expand(requests, p.kv_heads)
    slopes = torch.rand(*((requests,) * (p.alibi - 1)), p.heads, device="cuda") * 0.1
    return Batch(
        p,
        {
            "out": torch.empty(tokens, p.heads, value_size, dtype=p.dtype, device="cuda"),
            "query": torch.randn(tokens, p.heads, size, device="cuda").to(p.dtype),
            "key": key,
            "value": value,
            "query_start_loc": query_lens.to("cuda", torch.int32),
            "seq_lens": key_lens.diff().to("cuda", torch.int32) if p.block_size else None,
            "key_start_loc": None if p.block_size else key_lens.to("cuda", torch.int32),
            "block_table": table if p.block_size else None,
            "max_query_len": p.max_query_len or max((q for q, _ in p.lengths), default=0),
            "max_seq_len": p.max_seq_len or max((k for _, k in p.lengths), default=0),
            "scale": size**-0.5,
            "causal": p.causal,
            "window_left": p.window[0],
            "window_right": p.window[1],
            "softcap": p.softcap,
            "alibi_slopes": slopes if p.alibi else None,
            "sinks": torch.randn(p.heads, device="cuda").to(p.sinks) if p.sinks else None,
            **scales,
            "softmax_lse": torch.empty(p.heads, tokens, device="cuda"),
            "dynamic_causal": dynamic if p.dynamic_causal else None,
            "num_splits": p.splits,
        },
    )


DECODE = ((1, 1), (1, 15), (1, 16), (1, 17), (1, 127), (1, 1000), (1, 0), (1, 4097))
PREFILL = ((1, 1), (17, 17), (127, 127), (128, 300), (300, 1000), (3, 700), (0, 5), (129, 129))
HEAD_SIZES = (64, 80, 96, 112, 128, 192, 256, 40, 100, 33)


@pytest.mark.parametrize("head_size", HEAD_SIZES)
@pytest.mark.parametrize("cache", [None, FP8], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("lengths", [DECODE, PREFILL], ids=["decode", "mixed"])
def test_head_sizes(
    lengths: tuple[tuple[int, int], ...],
    dtype: torch.dtype,
    cache: torch.dtype | None,
    head_size: int,
) -> None:
    scales = "head" if cache else "none"
    make(Problem(lengths, dtype, cache, head_size=head_size, scales=scales)).check()


@pytest.mark.parametrize("block_size", [0, 1, 7, 16, 32, 48, 64, 128, 256, 528])
@pytest.mark.parametrize("cache", [None, torch.uint8], ids=str)
@pytest.mark.parametrize("lengths", [DECODE, PREFILL], ids=["decode", "mixed"])
def test_block_sizes(
    lengths: tuple[tuple[int, int], ...], cache: torch.dtype | None, block_size: int
) -> None:
    make(Problem(lengths, torch.float16, cache, block_size=block_size, head_size=64)).check()


@pytest.mark.parametrize("heads", [(1, 1), (7, 1), (12, 4), (16, 16), (28, 4), (20, 1), (71, 1)])
@pytest.mark.parametrize("lengths", [DECODE, PREFILL], ids=["decode", "mixed"])
def test_heads(lengths: tuple[tuple[int, int], ...], heads: tuple[int, int]) -> None:
    make(Problem(lengths, heads=heads[0], kv_heads=heads[1])).check()


FEATURES = (
    {"causal": False},
    {"window": (0, -1)},
    {"window": (100, -1)},
    {"causal": False, "window": (50, 20)},
    {"causal": False, "window": (-1, 3)},
    {"softcap": 20.0},
    {"alibi": 1},
    {"alibi": 2},
    {"sinks": torch.float32},
    {"sinks": torch.bfloat16},
    {"dynamic_causal": True},
    {"value_head_size": 64},
    {"head_size": 192, "value_head_size": 128, "kv_heads": 8, "block_size": 0},
    {"splits": 1},
    {"splits": 7},
    {"splits": 256},
    {"max_seq_len": 131072},
    {"max_query_len": 8192},
    {"softcap": 5.0, "alibi": 1, "sinks": torch.float32, "window": (300, -1)},
)


@pytest.mark.parametrize("features", FEATURES, ids=str)
@pytest.mark.parametrize("lengths", [DECODE, PREFILL], ids=["decode", "mixed"])
def test_features(lengths: tuple[tuple[int, int], ...], features: dict[str, Any]) -> None:
    make(replace(Problem(lengths), **features)).check()


@pytest.mark.parametrize("head_size", [64, 128, 192, 256])
@pytest.mark.parametrize("block_size", [0, 16])
@pytest.mark.parametrize("causal", [True, False])
def test_long_prefill(head_size: int, block_size: int, causal: bool) -> None:
    lengths = ((2048, 2048), (1000, 3000), (5, 900))
    make(
        Problem(
            lengths, heads=4, kv_heads=2, head_size=head_size, block_size=block_size, causal=causal
        )
    ).check()


def test_random_batches() -> None:
    rng = random.Random(5)  # noqa: S311  test data
    for _ in range(40):
        lengths = []
        for _ in range(rng.randint(1, 5)):
            queries = rng.choice([1, 1, 2, 5, rng.randint(0, 200)])
            lengths.append((queries, queries + rng.choice([0, rng.randint(0, 600)])))
        if not sum(queries for queries, _ in lengths):
            continue
        kv_heads = rng.randint(1, 4)
        cache = rng.choice([None, None, FP8])
        make(
            Problem(
                tuple(lengths),
                rng.choice([torch.bfloat16, torch.float16]),
                cache,
                heads=kv_heads * rng.randint(1, 9),
                kv_heads=kv_heads,
                head_size=rng.choice(HEAD_SIZES),
                block_size=rng.choice([0, 16, 32, 64, 24]),
                causal=rng.random() < 0.7,
                window=(rng.choice([-1, -1, 33]), -1),
                softcap=rng.choice([0.0, 0.0, 10.0]),
                alibi=rng.choice([0, 0, 1]),
                sinks=rng.choice([None, torch.float32]),
                scales=rng.choice(["none", "one", "head"]) if cache else "none",
                splits=rng.choice([0, 0, 3]),
            )
        ).check()


@pytest.mark.parametrize("lengths", [((5, 70), (1, 33)), ((200, 300), (70, 70))], ids=str)
def test_strided_cache_and_queries(lengths: tuple[tuple[int, int], ...]) -> None:
    """K and V as halves of one buffer in other orders, query as a slice of a fused projection."""
    batch = make(Problem(lengths, heads=4, kv_heads=2))
    want = batch.run()[0].clone()
    key, value = batch.args["key"], batch.args["value"]
    both = torch.empty(key.shape[0], 2, 2, 16, 128, dtype=key.dtype, device="cuda")
    both[:, 0], both[:, 1] = key.transpose(1, 2), value.transpose(1, 2)
    halves = torch.cat((key, value), -1)
    query = batch.args["query"]
    fused = torch.cat((query, query), 1)[:, :4]
    for k, v in (
        (both[:, 0].transpose(1, 2), both[:, 1].transpose(1, 2)),
        (halves[..., :128], halves[..., 128:]),
    ):
        assert torch.equal(batch.run(key=k, value=v, query=fused)[0], want)
    # Rows that are not multiples of 16 bytes apart take the element-wise path.
    odd = torch.empty(*key.shape[:-1], 129, dtype=key.dtype, device="cuda")
    odd_query = torch.empty(*query.shape[:-1], 131, dtype=key.dtype, device="cuda")
    odd[..., :128], odd_query[..., :128] = key, query
    out = torch.empty(len(query), 4, 129, dtype=key.dtype, device="cuda")[..., :128]
    got = batch.run(key=odd[..., :128], query=odd_query[..., :128], out=out)[0]
    # Another kernel, another order of sums.
    torch.testing.assert_close(got, want, rtol=0, atol=2e-2)


def test_padding_is_not_written() -> None:
    batch = make(Problem(((1, 40), (3, 90))))
    args = dict(batch.args)
    args["query"] = torch.cat((args["query"], torch.full_like(args["query"], float("nan"))))
    args["out"] = torch.zeros_like(args["query"])
    args["softmax_lse"] = torch.zeros(8, 8, device="cuda")
    ops.varlen_attention(**args)
    want, want_lse = batch.run()
    assert torch.equal(args["out"][:4], want)
    assert torch.equal(args["softmax_lse"][:, :4], want_lse)
    assert not args["out"][4:].any()


def test_extreme_values() -> None:
    batch = make(Problem(((1, 500), (64, 200)), torch.float16))
    batch.args["query"].mul_(100)
    batch.check()
    batch.args["query"][0, 0, 0] = float("inf")
    out, _ = batch.run()
    assert not out[0, 0].isfinite().any()
    assert out[1:].isfinite().all()
    assert out[0, 1:].isfinite().all()


def test_graph() -> None:
    """One captured graph serves other lengths, tables and values."""
    problem = Problem(((1, 100), (1, 700), (1, 3)), max_seq_len=4096, splits=4)
    batch, other = make(problem), make(replace(problem, lengths=((1, 7), (1, 90), (1, 710))))
    for tensors in (batch.args, other.args):
        tensors["block_table"] = torch.nn.functional.pad(tensors["block_table"], (0, 9))[:, :47]
        blocks = tensors["key"].shape[0]
        for name in ("key", "value"):
            tensors[name] = torch.cat((tensors[name],) * 3)[: 60 if blocks < 60 else blocks]
    rows = min(len(batch.args["key"]), len(other.args["key"]))
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        batch.run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch.run()
    graph.replay()
    (want, want_lse) = batch.expected()
    torch.testing.assert_close(batch.args["out"].double(), want, rtol=0, atol=2e-2)
    torch.testing.assert_close(batch.args["softmax_lse"].double(), want_lse, rtol=1e-4, atol=2e-3)
    for name in ("query", "seq_lens", "block_table"):
        batch.args[name].copy_(other.args[name])
    for name in ("key", "value"):
        batch.args[name][:rows].copy_(other.args[name][:rows])
    graph.replay()
    want, want_lse = batch.expected()
    torch.testing.assert_close(batch.args["out"].double(), want, rtol=0, atol=2e-2)


def test_deterministic() -> None:
    batch = make(Problem(DECODE + PREFILL))
    first = batch.run()[0].clone()
    for _ in range(3):
        assert torch.equal(batch.run()[0], first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 1.0, "softcap": -1.0}, "softcap is -1, want 0"),
        ({"window_left": -2}, "window_left is -2, want -1"),
        ({"seq_lens": None}, "seq_lens is missing"),
        ({"block_table": None}, "key has shape"),
        ({"num_splits": -1}, "num_splits is -1"),
        ({"k_scale": True}, "k_scale is given, but key is bfloat16"),
        ({"query": True}, "query has 3 heads, want a multiple of the 2 heads of key"),
    ],
    ids=str,
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    batch = make(Problem(((1, 40), (3, 90))))
    if "k_scale" in changes:
        changes = {"k_scale": torch.ones(1, device="cuda")}
    if "query" in changes:
        changes = {name: batch.args[name][:, :3].contiguous() for name in ("query", "out")}
    with pytest.raises(RuntimeError, match=message):
        batch.run(**changes)


def test_numbers_of_blocks_that_are_not_there() -> None:
    """They read nothing outside of the cache, and leave the other requests as they are."""
    for block_size, lengths in ((16, ((1, 100), (1, 70))), (7, ((90, 100), (40, 70)))):
        batch = make(Problem(lengths, block_size=block_size))
        want = batch.run()[0].clone()
        table = batch.args["block_table"].clone()
        wild = [-1, -(2**31), 2**31 - 1, batch.args["key"].shape[0]]
        table[0] = torch.tensor(wild * table.shape[1], device="cuda")[: table.shape[1]]
        got = batch.run(block_table=table)[0]
        torch.cuda.synchronize()
        first = lengths[0][0]
        torch.testing.assert_close(got[first:], want[first:])


def test_cache_without_blocks() -> None:
    batch = make(Problem(((5, 70),), block_size=16))
    nothing = {name: batch.args[name][:0] for name in ("key", "value")}
    with pytest.raises(RuntimeError, match=r"^varlen_attention: key has no blocks, want some for"):
        batch.run(**nothing)
    out, lse = batch.run(**nothing, max_seq_len=0)
    assert int(out.count_nonzero()) == 0
    assert bool((lse == -float("inf")).all())


MERGES = ((65, 5, 0), (1, 1, 64), (3, 5, 128), (17, 8, 100), (127, 2, 33), (512, 16, 128))


@pytest.mark.parametrize("shape", MERGES, ids=str)
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_merge(dtype: torch.dtype, quantised: bool, shape: tuple[int, int, int]) -> None:
    tokens, heads, _ = shape
    prefix, suffix = (torch.randn(shape, device="cuda").to(dtype) for _ in range(2))
    lse = torch.randn(2, heads, tokens, device="cuda") * 3
    lse[0].masked_fill_(torch.rand(heads, tokens, device="cuda") < 0.1, float("inf"))
    lse[1].masked_fill_(torch.rand(heads, tokens, device="cuda") < 0.1, -float("inf"))
    scale = torch.tensor([0.01], device="cuda") if quantised else None
    for count in (None, 0, tokens // 2):
        got, want = (
            torch.empty(shape, dtype=FP8 if quantised else dtype, device="cuda") for _ in "ab"
        )
        got_lse, want_lse = (torch.full_like(lse[0], float("nan")) for _ in "ab")
        args = (prefix, lse[0], suffix, lse[1], count, scale)
        ops.merge_attn_states(got, got_lse, *args)
        reference.merge_attn_states(want, want_lse, *args)
        if quantised:
            # One step of float8 where the rounding of the sum differs.
            torch.testing.assert_close(got.float(), want.float(), rtol=0.13, atol=0.01)
        else:
            torch.testing.assert_close(got, want)
        torch.testing.assert_close(got_lse, want_lse)


def test_split_and_merge_is_whole() -> None:
    """Attention over two halves of the keys, merged, is attention over all."""
    whole = make(Problem(((9, 400),), block_size=0, causal=False))
    want, want_lse = (x.clone() for x in whole.run())
    parts = []
    for first, last in ((0, 150), (150, 400)):
        bounds = torch.tensor([0, last - first], dtype=torch.int32, device="cuda")
        keys = {name: whole.args[name][first:last] for name in ("key", "value")}
        parts.append([x.clone() for x in whole.run(key_start_loc=bounds, **keys)])
    out, lse = torch.empty_like(want), torch.empty_like(want_lse)
    ops.merge_attn_states(out, lse, *parts[0], *parts[1], None, None)
    torch.testing.assert_close(out, want, rtol=0, atol=2e-2)
    torch.testing.assert_close(lse, want_lse, rtol=1e-4, atol=1e-3)
