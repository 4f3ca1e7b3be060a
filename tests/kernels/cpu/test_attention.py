"""cpu_attention_with_kv_cache against float64, per tier, over the product of its features."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from ..common.sampled import with_dtypes
from .attention import DECODE, MIXED, PREFILL, TOLERANCE, Problem, make


def test_reference_agrees_with_sdpa() -> None:
    """The reference that the kernels are held to is itself held to PyTorch's own attention."""
    batch = make(Problem(((20, 20),), heads=6, kv_heads=2), torch.float32)
    caches = (batch.args["key_cache"], batch.args["value_cache"])
    pages = batch.args["block_table"][0, :2].long()
    key, value = (cache[pages].transpose(0, 1).flatten(1, 2)[:, :20].double() for cache in caches)
    query = batch.args["query"].transpose(0, 1).double()
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(3, 0), value.repeat_interleave(3, 0), is_causal=True
    )
    torch.testing.assert_close(batch.expected(), expected.transpose(0, 1))


@pytest.mark.parametrize("lengths", [DECODE, PREFILL, MIXED], ids=["decode", "prefill", "mixed"])
@pytest.mark.parametrize("head_size", [32, 40, 64, 80, 96, 112, 128, 192, 256, 576])
def test_head_sizes(
    tier: str, dtype: torch.dtype, lengths: tuple[tuple[int, int], ...], head_size: int
) -> None:
    make(Problem(lengths, heads=4, kv_heads=2, head_size=head_size), dtype).check()


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (6, 2), (7, 1), (24, 3), (71, 1)])
def test_groups(tier: str, dtype: torch.dtype, heads: int, kv_heads: int) -> None:
    make(Problem(MIXED, heads=heads, kv_heads=kv_heads), dtype).check()


@pytest.mark.parametrize("block_size", [16, 32, 48, 64, 128])
def test_block_sizes(tier: str, dtype: torch.dtype, block_size: int) -> None:
    make(Problem(MIXED, block_size=block_size), dtype).check()


FEATURES = {
    "plain": Problem(),
    "bidirectional": Problem(causal=False),
    "window": Problem(window=37),
    "window 1": Problem(window=1),
    "wide window": Problem(window=10_000),
    "bidirectional window": Problem(causal=False, window=20),
    "softcap": Problem(softcap=1.5),
    "alibi": Problem(alibi=True),
    "sinks": Problem(sinks=torch.float32),
    "bfloat16 sinks": Problem(sinks=torch.bfloat16),
    "float16 sinks": Problem(sinks=torch.float16),
    "dynamic causal": Problem(dynamic_causal=True),
    "negative scale": Problem(scale=-0.2),
    "zero scale": Problem(scale=0.0),
    "all": Problem(window=50, softcap=3.0, alibi=True, sinks=torch.float32, dynamic_causal=True),
}


@pytest.mark.parametrize("problem", FEATURES.values(), ids=FEATURES)
def test_features(tier: str, dtype: torch.dtype, problem: Problem) -> None:
    make(replace(problem, lengths=MIXED), dtype).check()


@pytest.mark.parametrize("case", range(25))
def test_random_combinations(tier: str, dtype: torch.dtype, case: int) -> None:
    rng = random.Random(case)  # noqa: S311  test data
    lengths = []
    for _ in range(rng.randint(1, 5)):
        queries = rng.choice([1, 1, 2, 5, rng.randint(1, 150)])
        lengths.append((queries, queries + rng.choice([0, 1, rng.randint(0, 400)])))
    kv_heads = rng.choice([1, 2, 3])
    problem = Problem(
        lengths=tuple(lengths),
        kv_heads=kv_heads,
        heads=kv_heads * rng.choice([1, 2, 4, 5, 9, 16]),
        head_size=rng.choice([8, 32, 40, 64, 72, 80, 128, 160]),
        block_size=rng.choice([16, 32, 128]),
        causal=rng.random() < 0.7,
        window=rng.choice([-1, -1, 1, 16, 100]),
        softcap=rng.choice([0.0, 0.0, 2.0, 30.0]),
        alibi=rng.random() < 0.3,
        sinks=rng.choice([None, torch.float32, torch.bfloat16]),
        dynamic_causal=rng.random() < 0.3,
    )
    make(problem, dtype).check()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("lengths", [((1, 3000),), ((2, 2500), (1, 40)), ((70, 1100),)])
def test_split_along_keys(
    tier: str, dtype: torch.dtype, lengths: tuple[tuple[int, int], ...], threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for sinks in (None, torch.float32):
            make(Problem(lengths, heads=4, kv_heads=1, sinks=sinks, head_size=80), dtype).check()
    finally:
        torch.set_num_threads(before)


LONG = {
    "groups of 4": Problem(((1, 1040), (200, 1040)), heads=16, kv_heads=4, head_size=32),
    "prompts together": Problem(
        ((100, 1030), (1, 40), (100, 1040), (40, 1024)), heads=16, kv_heads=4, head_size=32
    ),
    "groups of 7": Problem(((240, 1024),), heads=14, kv_heads=2, head_size=32, alibi=True),
    "wide heads": Problem(((160, 1030),), heads=16, kv_heads=2, head_size=160, window=1025),
}


@with_dtypes("name", LONG)
def test_long_tiles(tier: str, dtype: torch.dtype, name: str) -> None:
    """So many rows and keys that each of two threads takes larger tiles, not all of them whole.

    Two, because an emulated CPU has as many, whatever this process sets.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        make(LONG[name], dtype).check()
    finally:
        torch.set_num_threads(before)


def test_large_logits_do_not_overflow(tier: str, dtype: torch.dtype) -> None:
    """Products far beyond exp's range: the softmax becomes an argmax."""
    batch = make(Problem(((1, 300), (40, 300)), scale=1.0), dtype)
    for name in ("query", "key_cache"):
        batch.args[name] *= 30
    # Near ties among huge logits: rounding of float32 products decides them.
    torch.testing.assert_close(batch.run().double(), batch.expected(), rtol=0, atol=5e-2)


def test_tiny_inputs(tier: str, dtype: torch.dtype) -> None:
    batch = make(Problem(((1, 50), (20, 90))), dtype)
    batch.args["query"] *= torch.finfo(dtype).tiny
    batch.check()


@pytest.mark.parametrize("queries", [1, 30])
def test_nan_and_infinity_stay_in_their_row(tier: str, dtype: torch.dtype, queries: int) -> None:
    batch = make(Problem(((queries, 100),), heads=8, kv_heads=2), dtype)
    batch.args["query"][0, 1] = float("nan")
    batch.args["query"][0, 5, 3] = float("inf")
    bad = torch.zeros(queries, 8, dtype=torch.bool)
    bad[0, 1] = bad[0, 5] = True
    output = batch.run()
    assert output[bad].isnan().all()
    good = ~bad
    torch.testing.assert_close(
        output[good].double(), batch.expected()[good], rtol=0, atol=TOLERANCE[dtype]
    )


def test_rows_without_visible_keys_are_zero(tier: str, dtype: torch.dtype) -> None:
    """Sinks of -inf change nothing; sinks of +1e4 take all the weight."""
    batch = make(Problem(((1, 64), (30, 64)), sinks=torch.float32), dtype)
    batch.args["s_aux"].fill_(float("-inf"))
    batch.check()
    batch.args["s_aux"].fill_(1e4)
    assert (batch.run() == 0).all()


def test_tokens_past_the_last_request_stay(tier: str, dtype: torch.dtype) -> None:
    batch = make(Problem(((2, 20), (3, 30))), dtype)
    batch.args["query_start_loc"][-1] = 4
    output = batch.run()
    assert output[:4].isfinite().all()
    assert output[4].isnan().all()


def test_freed_pages_outside_the_window(tier: str, dtype: torch.dtype) -> None:
    batch = make(Problem(((1, 200), (20, 200)), window=30), dtype)
    expected = batch.expected()
    batch.args["block_table"][:, :9] = -1  # keys 0..143; the first query sees 151..
    torch.testing.assert_close(batch.run().double(), expected, rtol=0, atol=TOLERANCE[dtype])


def test_empty_batch(tier: str, dtype: torch.dtype) -> None:
    assert make(Problem(lengths=()), dtype).run().numel() == 0
    assert make(Problem(lengths=((0, 0), (0, 17))), dtype).run().numel() == 0


def test_result_does_not_depend_on_the_batch(tier: str, dtype: torch.dtype) -> None:
    """A request alone gives the bits that it gives among others."""
    batch = make(Problem(((1, 90), (20, 120), (1, 33))), dtype)
    together = batch.run().clone()
    starts = batch.args["query_start_loc"].tolist()
    for row in range(3):
        tokens = slice(starts[row], starts[row + 1])
        count = starts[row + 1] - starts[row]
        alone = torch.empty_like(together[tokens])
        batch.run(
            query=batch.args["query"][tokens],
            output=alone,
            query_start_loc=torch.tensor([0, count], dtype=torch.int32),
            seq_lens=batch.args["seq_lens"][row : row + 1],
            block_table=batch.args["block_table"][row : row + 1],
        )
        assert torch.equal(alone, together[tokens])
