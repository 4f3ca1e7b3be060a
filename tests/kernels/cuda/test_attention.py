"""varlen_attention against float64, over the product of its features."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from .attention import FP8, Problem, make

ops = torch.ops.vllm_kernels

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


@pytest.mark.parametrize("head_size", [64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("largest", [4, 40])
def test_growing_maxima(largest: int, dtype: torch.dtype, head_size: int) -> None:
    """Scores that grow from tile to tile, in whichever order the tiles are read."""
    batch = make(Problem(((2048, 2048),), dtype, None, block_size=0, head_size=head_size))
    ramp = torch.linspace(0.1, largest, 1024, device="cuda")
    batch.args["key"].mul_(torch.cat((ramp.flip(0), ramp))[:, None, None].to(dtype))
    batch.check()


@pytest.mark.parametrize("head_size", [64, 128, 192, 256])
@pytest.mark.parametrize("lengths", [((1000, 1000),), ((129, 700), (300, 517))], ids=str)
def test_maxima_that_jump(lengths: tuple[tuple[int, int], ...], head_size: int) -> None:
    """By more than the exponents of a float, with rows of no request in a tile of queries."""
    problem = Problem(lengths, heads=6, kv_heads=2, block_size=0, head_size=head_size)
    for large in (slice(None, 1), slice(None, 450), slice(450, None)):
        batch = make(problem)
        batch.args["key"][large].mul_(100)
        batch.check()


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


def test_table_without_columns() -> None:
    batch = make(Problem(((5, 70), (1, 9)), block_size=16))
    out, lse = batch.run(block_table=batch.args["block_table"][:, :0].contiguous())
    assert int(out.count_nonzero()) == 0
    assert bool((lse == -float("inf")).all())


def test_no_heads() -> None:
    batch = make(Problem(((5, 70),), block_size=16))
    query = batch.args["query"][:, :0]
    out, lse = torch.empty_like(query), query.new_empty((0, len(query)), dtype=torch.float32)
    batch.run(query=query, out=out, softmax_lse=lse)


def test_cache_without_blocks() -> None:
    batch = make(Problem(((5, 70),), block_size=16))
    nothing = {name: batch.args[name][:0] for name in ("key", "value")}
    with pytest.raises(RuntimeError, match=r"^varlen_attention: key has no blocks, want some for"):
        batch.run(**nothing)
    out, lse = batch.run(**nothing, max_seq_len=0)
    assert int(out.count_nonzero()) == 0
    assert bool((lse == -float("inf")).all())
