"""Multi-head latent attention, sparse and dense, against its references."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from vllm_kernels.reference import mla as reference

from .hopper import skip_unless_served

ops = torch.ops.vllm_kernels

HEAD, LATENT, KEY_BYTES = 576, 512, 656
# Of a row, in parts of its length: weights of three bits behind the first are off by 2^-4 at most,
# 0.026 in the mean square of equally likely fractions.
FLOAT8_ERROR = 0.07


@pytest.fixture(autouse=True)
def hopper(_gpu: None) -> None:
    skip_unless_served("mla_attention")


def quantized_cache(blocks: int, slots: int) -> torch.Tensor:
    """Random keys in the layout of 656 bytes."""
    values = torch.randn(blocks, slots, LATENT, device="cuda").to(torch.float8_e4m3fn)
    scales = torch.rand(blocks, slots, 4, device="cuda") + 0.3
    rope = torch.randn(blocks, slots, HEAD - LATENT, device="cuda", dtype=torch.bfloat16)
    return torch.cat([part.view(torch.uint8) for part in (values, scales, rope)], -1)


@dataclass
class Problem:
    """One call; what no query selects is NaN."""

    batch: int = 3
    queries: int = 1
    heads: int = 128
    topk: int = 512
    blocks: int = 20
    slots: int = 64
    quantized: bool = True
    sink: bool = False
    lengths: bool = False
    strided: bool = False

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        shape = (self.batch, self.queries, self.heads)
        wide = HEAD + 64 if self.strided else HEAD
        self.query = torch.randn(*shape, wide, device="cuda", dtype=torch.bfloat16)[..., :HEAD]
        self.out = torch.full((*shape, LATENT), torch.nan, device="cuda", dtype=torch.bfloat16)
        rows = (self.batch, self.heads, self.queries)
        self.lse = torch.full(rows, torch.nan, device="cuda")
        self.max_logits = torch.full(rows, torch.nan, device="cuda")
        total = self.blocks * self.slots
        if self.quantized:
            self.cache = quantized_cache(self.blocks, self.slots)
        else:
            shape_of_cache = (self.blocks, self.slots, HEAD)
            self.cache = torch.randn(shape_of_cache, device="cuda", dtype=torch.bfloat16)
        self.indices = torch.randint(
            -total // 8, total, (self.batch, self.queries, self.topk), device="cuda"
        ).int()
        self.indices[self.indices < 0] = -1
        used = torch.zeros(total, dtype=torch.bool, device="cuda")
        used[self.indices[self.indices >= 0].long()] = True
        self.cache.view(torch.uint8).flatten(0, 1)[~used] = 0xFF
        self.topk_length = None
        if self.lengths:
            self.topk_length = torch.randint(0, self.topk + 1, (self.batch,), device="cuda").int()
        self.attn_sink = torch.randn(self.heads, device="cuda") if self.sink else None
        self.scale = HEAD**-0.5

    def arguments(self) -> tuple[object, ...]:
        return (
            self.out, self.lse, self.max_logits, self.query, self.cache, self.indices,
            self.topk_length, self.attn_sink, self.scale,
        )  # fmt: skip

    def check(self) -> None:
        ops.sparse_mla_attention(*self.arguments())
        got = [self.out.clone(), self.lse.clone(), self.max_logits.clone()]
        reference.sparse_mla_attention(*self.arguments())  # type: ignore[arg-type]
        torch.testing.assert_close(got[0], self.out, atol=8e-3, rtol=2e-2)
        torch.testing.assert_close(got[1], self.lse, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(got[2], self.max_logits, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("quantized", [True, False], ids=["e4m3", "bf16"])
@pytest.mark.parametrize("heads", [1, 8, 16, 64, 65, 128])
@pytest.mark.parametrize("topk", [1, 64, 100, 128, 2048])
def test_shapes(quantized: bool, heads: int, topk: int) -> None:
    Problem(heads=heads, topk=topk, quantized=quantized).check()


@pytest.mark.parametrize("quantized", [True, False], ids=["e4m3", "bf16"])
@pytest.mark.parametrize(("batch", "queries"), [(1, 1), (2, 3), (1, 150), (70, 2)])
def test_batches(quantized: bool, batch: int, queries: int) -> None:
    """From many splits of one query to several waves of blocks."""
    Problem(batch=batch, queries=queries, quantized=quantized, sink=True, lengths=True).check()


@pytest.mark.parametrize("slots", [1, 16, 64, 256])
def test_blocks_of_the_cache(slots: int) -> None:
    Problem(blocks=1280 // slots, slots=slots, quantized=False, strided=True).check()


def test_queries_without_a_key() -> None:
    problem = Problem(batch=2, heads=64, sink=True)
    problem.indices[0] = -1
    problem.check()
    assert problem.out[0].count_nonzero() == 0
    assert problem.lse[0].isposinf().all()
    empty = Problem(batch=2, topk=0, lengths=True)
    empty.check()


def test_keys_outside_of_the_cache_are_skipped() -> None:
    problem = Problem(heads=64)
    problem.indices[0, 0, :7] = torch.tensor(
        [1280, 2**31 - 1, -(2**31), -2, 1281, 10**6, 5], device="cuda"
    )
    problem.cache[0, 5] = 0
    problem.check()


def test_large_logits() -> None:
    problem = Problem(heads=64, quantized=False)
    problem.query *= 100
    problem.check()


def test_results_are_the_same_in_graphs_and_again() -> None:
    problem = Problem(batch=2, queries=2)
    ops.sparse_mla_attention(*problem.arguments())
    first = problem.out.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.sparse_mla_attention(*problem.arguments())
    problem.out.fill_(torch.nan)
    graph.replay()
    assert torch.equal(first, problem.out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.0}, "scale is 0, want a number above 0"),
        ({"query": torch.zeros(3, 1, 128, 512)}, "query has shape"),
        ({"indices": torch.zeros(3, 1, 4, dtype=torch.int64)}, "indices is int64, want int32"),
        ({"cache": torch.zeros(3, 64, 600, dtype=torch.uint8)}, "cache has shape"),
        ({"cache": torch.zeros(3, 48, 656, dtype=torch.uint8)}, "want a power of two"),
        ({"attn_sink": torch.zeros(7)}, "attn_sink has shape"),
    ],
    ids=["scale", "query", "indices", "cache", "slots", "sink"],
)
def test_bad_input(change: dict[str, object], message: str) -> None:
    problem = Problem()
    for name, value in change.items():
        moved = value
        if isinstance(value, torch.Tensor):
            moved = value.cuda()
            if name == "query":
                moved = moved.bfloat16()
        setattr(problem, name, moved)
    with pytest.raises(RuntimeError, match=message):
        ops.sparse_mla_attention(*problem.arguments())
    assert problem.out.isnan().all()


@dataclass
class Dense:
    """A batch of any lengths; what no query sees is NaN."""

    lengths: list[int]
    queries: int = 1
    heads: int = 128
    slots: int = 64
    causal: bool = True
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        batch = len(self.lengths)
        shape = (batch, self.queries, self.heads)
        # Of float8 no kernel draws, and none scatters, numbers.
        self.float8 = self.dtype == torch.float8_e4m3fn
        drawn = torch.bfloat16 if self.float8 else self.dtype
        self.query = torch.randn(*shape, HEAD, device="cuda", dtype=drawn).to(self.dtype)
        self.out = torch.full((*shape, LATENT), torch.nan, device="cuda", dtype=drawn)
        self.lse = torch.full((batch, self.heads, self.queries), torch.nan, device="cuda")
        pages = max(1, -(-max(self.lengths, default=0) // self.slots))
        blocks = max(1, batch * pages)
        self.table = torch.randperm(blocks, device="cuda").int()[: batch * pages].view(batch, pages)
        cache = torch.full((blocks, self.slots, HEAD), torch.nan, device="cuda", dtype=drawn)
        for entry, length in enumerate(self.lengths):
            position = torch.arange(length, device="cuda")
            where = (self.table[entry, position // self.slots].long(), position % self.slots)
            keys = torch.randn(length, HEAD, device="cuda", dtype=drawn)
            cache.index_put_(where, keys)
        self.cache = cache.to(self.dtype)
        self.scales: list[torch.Tensor] = []
        if self.float8:
            self.scales = [torch.tensor([x], device="cuda") for x in (0.75, 1.25)]
        self.seq_lens = torch.tensor(self.lengths, device="cuda", dtype=torch.int32)
        self.scale = HEAD**-0.5

    def schedule(self) -> torch.Tensor:
        most = self.table.shape[1] * self.slots
        return ops.mla_schedule(self.seq_lens, self.queries, self.heads, most)

    def arguments(self) -> tuple[object, ...]:
        return (
            self.out, self.lse, self.query, self.cache, self.table, self.seq_lens,
            self.schedule(), self.scale, self.causal, *self.scales,
        )  # fmt: skip

    def check(self) -> None:
        ops.mla_attention(*self.arguments())
        got = [self.out.clone(), self.lse.clone()]
        reference.mla_attention(*self.arguments())  # type: ignore[arg-type]
        if self.float8:
            # Weights of keys have four bits, each as likely too large as too small.
            error = (got[0].double() - self.out.double()).norm(dim=-1)
            assert (error <= FLOAT8_ERROR * self.out.double().norm(dim=-1)).all()
        else:
            torch.testing.assert_close(got[0], self.out, atol=8e-3, rtol=2e-2)
        # Products of float8 keep 13 bits behind the first of each sum (18 of them here).
        apart = 1e-2 if self.float8 else 2e-3
        torch.testing.assert_close(got[1], self.lse, atol=apart, rtol=1e-3)


DTYPES = pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn], ids=["bf16", "f16", "e4m3"]
)


@DTYPES
@pytest.mark.parametrize("heads", [1, 8, 16, 64, 65, 128])
@pytest.mark.parametrize("queries", [1, 2, 5])
def test_dense_shapes(dtype: torch.dtype, heads: int, queries: int) -> None:
    Dense([1, 700, 129, 64], queries, heads, dtype=dtype).check()


@pytest.mark.parametrize(
    "lengths",
    [[20000], [1] * 300, [0, 5, 0, 4000, 0], [9000, 3, 128, 127, 129, 256, 1], [513] * 33],
    ids=["one", "many", "empty", "ragged", "equal"],
)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "all"])
@pytest.mark.parametrize("heads", [32, 40], ids=["one_tile", "two_tiles"])
@DTYPES
def test_dense_batches(lengths: list[int], causal: bool, heads: int, dtype: torch.dtype) -> None:
    """From one entry over all multiprocessors to many entries in a part."""
    Dense(lengths, queries=2, heads=heads, causal=causal, dtype=dtype).check()


@pytest.mark.parametrize("slots", [1, 16, 128])
@DTYPES
def test_dense_blocks_of_the_cache(slots: int, dtype: torch.dtype) -> None:
    Dense([300, 77], slots=slots, heads=16, dtype=dtype).check()


def test_float8_without_scales_is_as_with_ones() -> None:
    """Bit by bit; equal keys have weights without an error, and give their value."""
    problem = Dense([300, 77], heads=16, dtype=torch.float8_e4m3fn)
    problem.scales = [torch.ones(1, device="cuda") for _ in range(2)]
    problem.check()
    first = problem.out.clone()
    problem.scales = []
    problem.check()
    assert torch.equal(first, problem.out)
    key = problem.cache[problem.table[0, 0], 0].clone()
    problem.cache = key.expand(problem.cache.shape).contiguous()
    ops.mla_attention(*problem.arguments())
    torch.testing.assert_close(problem.out, key[:LATENT].bfloat16().expand(problem.out.shape))


@DTYPES
def test_dense_in_graphs_with_other_lengths(dtype: torch.dtype) -> None:
    """Nothing of the lengths is fixed when the graph is captured."""
    problem = Dense([3000, 100, 5, 2000], heads=16, dtype=dtype)
    lengths = problem.seq_lens.clone()
    problem.seq_lens.fill_(1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.mla_attention(*problem.arguments())
    problem.seq_lens.copy_(lengths)
    graph.replay()
    got = problem.out.clone()
    problem.check()  # without a graph
    ops.mla_attention(*problem.arguments())
    assert torch.equal(got, problem.out)


def test_a_block_that_is_not_there_has_no_keys() -> None:
    problem = Dense([256, 256], heads=16)
    problem.table[0, 1] = -1
    problem.table[1, 2] = problem.cache.shape[0]
    problem.check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache": torch.zeros(3, 64, 656, dtype=torch.bfloat16)}, "cache has shape"),
        ({"cache": torch.zeros(3, 64, 576, dtype=torch.float16)}, "cache is float16"),
        ({"table": torch.zeros(5, 4, dtype=torch.int32)}, "block_table has shape"),
        ({"scale": -1.0}, "scale is -1"),
        ({"scales": [torch.ones(1)]}, "query_scale is given, but query is bfloat16"),
    ],
    ids=["width", "dtype", "table", "scale", "query_scale"],
)
def test_dense_bad_input(change: dict[str, object], message: str) -> None:
    problem = Dense([5, 6])
    for name, value in change.items():
        if isinstance(value, list):
            value = [one.cuda() for one in value]
        setattr(problem, name, value.cuda() if isinstance(value, torch.Tensor) else value)
    with pytest.raises(RuntimeError, match=message):
        ops.mla_attention(*problem.arguments())
    assert problem.out.isnan().all()


ENTRY_COST = 4  # in pairs of stages: kEntryCost


def cuts_of(lengths: list[int], parts: int) -> list[list[int]]:
    """Whole entries as they fit, then a piece of the next: csrc/cuda/mla/cuts.cuh."""
    pairs = [-(-length // 128) for length in lengths]
    average = -(-(sum(pairs) + ENTRY_COST * len(pairs)) // parts)
    cuts: list[list[int]] = []
    for more in range(ENTRY_COST + 1):
        share = max(ENTRY_COST + 1, average + more)
        cuts, left = [[0, 0]], share
        for entry, rest in enumerate(pairs):
            unit = 0
            while rest - unit + ENTRY_COST > left:
                unit += max(0, left - ENTRY_COST)
                cuts.append([entry, unit])
                left = share
            left -= rest - unit + ENTRY_COST
        if len(cuts) <= parts:
            break
    return cuts + [[len(pairs), 0]] * (parts + 1 - len(cuts))


@pytest.mark.parametrize("heads", [1, 128, 640])
@pytest.mark.parametrize("batch", [1, 31, 32, 33, 200, 1000])
def test_schedules(batch: int, heads: int) -> None:
    torch.manual_seed(batch)
    lengths = torch.randint(0, 9000, (batch,), dtype=torch.int32) * (torch.rand(batch) < 0.9)
    lengths = lengths.int()
    schedule = ops.mla_schedule(lengths.cuda(), 1, heads, 8192)
    want = cuts_of(lengths.clamp(max=8192).tolist(), schedule.shape[0] - 1)
    assert schedule.tolist() == want


def test_equal_entries_are_divided_in_equal_pieces() -> None:
    parts = ops.mla_schedule(torch.ones(1, device="cuda").int(), 1, 1, 64).shape[0] - 1
    for share in (1, 4):  # of the parts, an entry has so many
        lengths = torch.full((parts // share,), 4096, device="cuda", dtype=torch.int32)
        cuts = ops.mla_schedule(lengths, 1, 1, 4096)[: parts // share * share]
        assert (cuts[:, 1].view(-1, share) == torch.arange(0, 32, 32 // share, device="cuda")).all()


def test_a_schedule_of_another_shape_is_refused() -> None:
    problem = Dense([5, 6])
    with pytest.raises(RuntimeError, match="schedule has 3 rows, want at least"):
        ops.mla_attention(
            problem.out, problem.lse, problem.query, problem.cache, problem.table,
            problem.seq_lens, torch.zeros(3, 2, dtype=torch.int32, device="cuda"), 1.0, True,
        )  # fmt: skip
