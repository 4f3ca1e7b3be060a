"""cpu_attention_with_kv_cache against float64, per tier, over the product of its features."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from vllm_kernels.reference.attention import cpu as reference

ops = torch.ops.vllm_kernels

# Of the largest value (about 1): products of T, probabilities rounded to bfloat16 in the tiers
# with bfloat16 products, and the rounding of the output.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


FLOAT8 = {
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class Problem:
    """One batch: `lengths` holds (query tokens, keys) of each request."""

    lengths: tuple[tuple[int, int], ...] = ((1, 100),)
    heads: int = 8
    kv_heads: int = 2
    head_size: int = 64
    block_size: int = 16
    causal: bool = True
    window: int = -1
    softcap: float = 0.0
    alibi: bool = False
    sinks: torch.dtype | None = None
    dynamic_causal: bool = False
    scale: float | None = None
    poison: float = float("nan")  # in every cache slot that no query may see
    cache: str = "auto"  # kv_cache_dtype


@dataclass
class Batch:
    """The op's arguments for a Problem."""

    problem: Problem
    args: dict[str, Any] = field(default_factory=dict)

    def run(self, **changes: Any) -> torch.Tensor:
        ops.cpu_attention_with_kv_cache(**{**self.args, **changes})
        output = self.args["output"]
        assert isinstance(output, torch.Tensor)
        return output

    def expected(self) -> torch.Tensor:
        wide = {
            name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in self.args.items()
        }
        if self.args["key_cache"].dtype == torch.float8_e4m3fn:
            wide |= {name: self.args[name] for name in ("key_cache", "value_cache")}
        wide["output"] = torch.zeros(self.args["output"].shape, dtype=torch.float64)
        reference.cpu_attention_with_kv_cache(**wide)
        assert isinstance(wide["output"], torch.Tensor)
        return wide["output"]

    def check(self) -> None:
        actual, expected = self.run().double(), self.expected()
        torch.testing.assert_close(
            actual, expected, rtol=0, atol=TOLERANCE[self.args["query"].dtype]
        )


def make(problem: Problem, dtype: torch.dtype) -> Batch:
    """Caches as the engine's: K and V are halves of one buffer; pages in random order."""
    p = problem
    requests = len(p.lengths)
    pages = [-(-keys // p.block_size) for _, keys in p.lengths]
    blocks = sum(pages) + 3
    shape = (blocks, p.kv_heads, 2, p.block_size, p.head_size)
    both = torch.full(shape, p.poison, dtype=FLOAT8.get(p.cache, dtype))
    order = torch.randperm(blocks)[: sum(pages)].split(pages)
    table = torch.full((requests, max(pages, default=0) + 1), -1, dtype=torch.int32)
    for row, (mine, (_, keys)) in enumerate(zip(order, p.lengths, strict=True)):
        table[row, : len(mine)] = mine
        for page, block in enumerate(mine.tolist()):
            used = min(p.block_size, keys - page * p.block_size)
            drawn = torch.randn(p.kv_heads, 2, used, p.head_size)
            both[block, :, :, :used] = drawn.to(both.dtype)
    tokens = sum(queries for queries, _ in p.lengths)
    # A slice of a fused q/k/v projection: neither contiguous nor aligned.
    fused = torch.randn(tokens, p.heads + 1, p.head_size).to(dtype)
    output = torch.full((tokens, p.heads, p.head_size + 8), float("nan"), dtype=dtype)
    starts = torch.tensor([0, *(queries for queries, _ in p.lengths)], dtype=torch.int32)
    args = {
        "query": fused[:, 1:],
        "key_cache": both[:, :, 0],
        "value_cache": both[:, :, 1],
        "output": output[..., : p.head_size],
        "query_start_loc": starts.cumsum(0, dtype=torch.int32),
        "seq_lens": torch.tensor([keys for _, keys in p.lengths], dtype=torch.int32),
        "scale": p.head_size**-0.5 if p.scale is None else p.scale,
        "causal": p.causal,
        "alibi_slopes": -torch.rand(p.heads) * 0.2 if p.alibi else None,
        "sliding_window_size": p.window,
        "block_table": table,
        "softcap": p.softcap,
        "scheduler_metadata": torch.zeros(16, dtype=torch.int8),
        "s_aux": torch.randn(p.heads).to(p.sinks) if p.sinks else None,
        "dynamic_causal": torch.arange(requests) % 2 == 0 if p.dynamic_causal else None,
    }
    if p.cache != "auto":
        bytes_ = {name: args[name].view(torch.uint8) for name in ("key_cache", "value_cache")}
        args |= {**bytes_, "k_scale": 0.75, "v_scale": 1.5, "kv_cache_dtype": p.cache}
    return Batch(problem, args)


DECODE = ((1, 1), (1, 15), (1, 16), (1, 17), (1, 333))
PREFILL = ((5, 5), (33, 33), (70, 200), (16, 300))
MIXED = ((1, 70), (40, 40), (0, 0), (3, 129), (1, 1), (65, 260))


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


@pytest.mark.parametrize("cache", FLOAT8)
@pytest.mark.parametrize(
    "problem",
    [
        Problem(((1, 1), (1, 15), (1, 16), (1, 17), (1, 333))),
        Problem(((3, 3), (70, 200), (1, 64)), head_size=80),
        Problem(((1, 129), (5, 40)), heads=32, kv_heads=1, head_size=128, block_size=128),
        Problem(((20, 90), (1, 500)), window=33, softcap=5.0, sinks=torch.float32),
        Problem(((9, 70), (1, 31)), alibi=True, dynamic_causal=True, head_size=24, block_size=32),
    ],
)
def test_caches_of_8_bits(tier: str, dtype: torch.dtype, problem: Problem, cache: str) -> None:
    """NaN stands in every slot that no query sees, as everywhere here."""
    make(replace(problem, cache=cache), dtype).check()


@pytest.mark.parametrize("cache", ["fp8_e4m3", "fp8_e5m2"])
def test_every_code_of_8_bits(tier: str, dtype: torch.dtype, cache: str) -> None:
    """One key: its value comes out as it is stored, NaN and infinities too."""
    batch = make(
        Problem(((1, 1), (40, 40)), heads=1, kv_heads=1, head_size=256, cache=cache), dtype
    )
    codes = torch.arange(256, dtype=torch.uint8)
    block = int(batch.args["block_table"][0, 0])
    batch.args["key_cache"][block, 0, 0] = 0
    batch.args["value_cache"][block, 0, 0] = codes
    found = batch.run(v_scale=0.5)[0, 0].float()
    expected = (codes.view(FLOAT8[cache]).float() * 0.5).to(dtype).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_float8_tensors_are_served_as_bytes_are(tier: str) -> None:
    batch = make(Problem(((1, 40), (12, 50)), cache="fp8"), torch.bfloat16)
    expected = batch.run().clone()
    for name in ("key_cache", "value_cache"):
        batch.args[name] = batch.args[name].view(torch.float8_e4m3fn)
    assert torch.equal(batch.run(), expected)


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


def set_at(name: str, index: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(args: dict[str, Any]) -> None:
        args[name][index] = value

    return change


def put(name: str, make_value: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(args: dict[str, Any]) -> None:
        args[name] = make_value(args[name])

    return change


BAD = {
    "query_start_loc\\[0\\] and \\[1\\] are 9 and 2": set_at("query_start_loc", 0, 9),
    "query_start_loc\\[1\\] and \\[2\\] are 2 and 99.*5 tokens": set_at("query_start_loc", 2, 99),
    "seq_lens\\[1\\] is 2, want at least the request's 3 query tokens": set_at("seq_lens", 1, 2),
    "request 0 has 9999 keys, but block_table has room for 64": set_at("seq_lens", 0, 9999),
    "block_table\\[1, 2\\] is 77, want 0 to 7": set_at("block_table", (1, 2), 77),
    "block_table\\[0, 0\\] is -1, want 0 to 7": set_at("block_table", (0, 0), -1),
    "query is int32, want float32 or bfloat16 or float16": put("query", lambda x: x.int()),
    "query has shape .*, want 3 dimensions": put("query", lambda x: x[0]),
    "query has stride .* in its last dimension, want 1": put(
        "query", lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)
    ),
    "output is float64, want float32 as query": put("output", lambda x: x.double()),
    "output has shape .* as query": put("output", lambda x: x[:-1]),
    "key_cache is float16, want float32 as query": put("key_cache", lambda x: x.half()),
    "key_cache has shape .*, want 4 dimensions": put("key_cache", lambda x: x[0]),
    "key_cache has shape .*, want 64 in dimension 3": put("key_cache", lambda x: x[..., :32]),
    "value_cache has shape .* as key_cache": put("value_cache", lambda x: x[:-1]),
    "block_table is int64, want int32": put("block_table", lambda x: x.long()),
    "block_table has shape .*, want at least 2 in dimension 0": put("block_table", lambda x: x[:1]),
    "seq_lens is int64, want int32": put("seq_lens", lambda x: x.long()),
    "seq_lens has shape \\[1\\], want at least 2": put("seq_lens", lambda x: x[:1]),
    "query_start_loc is empty": put("query_start_loc", lambda x: x[:0]),
    "query has 8 heads, want a multiple of the 3 heads of key_cache": put(
        "key_cache", lambda x: x[:, :1].expand(-1, 3, -1, -1)
    ),
    "blocks of 8 slots, want a multiple of 16": put("key_cache", lambda x: x[:, :, :8]),
    "sliding_window_size is 0, want -1": put("sliding_window_size", lambda _: 0),
    "softcap is -1, want 0": put("softcap", lambda _: -1.0),
    "alibi_slopes is float64, want float32": put(
        "alibi_slopes", lambda _: torch.zeros(8, dtype=torch.float64)
    ),
    "alibi_slopes has shape \\[7\\], want 8": put("alibi_slopes", lambda _: torch.zeros(7)),
    "s_aux has shape \\[7\\], want 8": put("s_aux", lambda _: torch.zeros(7)),
    "dynamic_causal is int32, want bool": put(
        "dynamic_causal", lambda _: torch.zeros(2, dtype=torch.int32)
    ),
    "dynamic_causal has shape \\[1\\], want at least 2": put(
        "dynamic_causal", lambda _: torch.zeros(1, dtype=torch.bool)
    ),
    'kv_cache_dtype is "int4", want auto, fp8, fp8_e4m3 or': put(
        "kv_cache_dtype", lambda _: "int4"
    ),
    "key_cache is float32, want uint8 or float8_e4m3fn": put("kv_cache_dtype", lambda _: "fp8"),
    "key_cache is float32, want uint8": put("kv_cache_dtype", lambda _: "fp8_e5m2"),
}


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_of_a_cache_are_positive_numbers(scale: float) -> None:
    batch = make(Problem(cache="fp8"), torch.float32)
    with pytest.raises(RuntimeError, match=r"v_scale is \S+, want a positive number"):
        batch.run(v_scale=scale)
    plain = make(Problem(), torch.float32)
    plain.args |= {"k_scale": scale, "v_scale": scale}
    assert not plain.run().isnan().any(), "a plain cache has no scales"


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_in_one_sentence(message: str) -> None:
    batch = make(Problem(((2, 20), (3, 40))), torch.float32)
    args = {"kv_cache_dtype": "auto", **batch.args}
    BAD[message](args)
    value = args["value_cache"]
    if args["key_cache"].shape[1:] != value.shape[1:] and args["key_cache"].dim() == 4:
        args["value_cache"] = args["key_cache"]
    with pytest.raises(RuntimeError, match=f"^cpu_attention_with_kv_cache: .*{message}"):
        ops.cpu_attention_with_kv_cache(**args)
    assert batch.args["output"].isnan().all(), "a refused call must not write"


def test_head_size_must_be_a_multiple_of_eight() -> None:
    batch = make(Problem(head_size=36), torch.float32)
    with pytest.raises(RuntimeError, match="head size is 36, want a multiple of 8 up to 1024"):
        batch.run()


def metadata(**changes: Any) -> torch.Tensor:
    args = {
        "num_req": 2,
        "num_heads_q": 8,
        "num_heads_kv": 2,
        "head_dim": 64,
        "seq_lens": torch.tensor([1, 5], dtype=torch.int32),
        "dtype": torch.bfloat16,
        "query_start_loc": torch.tensor([0, 1, 2], dtype=torch.int32),
        "casual": True,
        "window_size": -1,
        "isa_hint": "vec",
        "enable_kv_split": True,
        "dynamic_causal": None,
    }
    result = ops.get_scheduler_metadata(**{**args, **changes})
    assert isinstance(result, torch.Tensor)
    return result


def test_metadata_serves_the_attention_call(tier: str) -> None:
    batch = make(Problem(), torch.bfloat16)
    batch.args["scheduler_metadata"] = metadata()
    batch.check()


def test_metadata_refuses_heads_that_do_not_divide() -> None:
    with pytest.raises(RuntimeError, match=r"num_heads_q is 7, want a positive multiple of .* 2"):
        metadata(num_heads_q=7)


def test_has_isa(tier: str) -> None:
    assert ops.cpu_attn_has_isa("vec")
    assert ops.cpu_attn_has_isa("vec16")
    assert ops.cpu_attn_has_isa("amx") == (tier == "amx")
    assert not ops.cpu_attn_has_isa("neon")
