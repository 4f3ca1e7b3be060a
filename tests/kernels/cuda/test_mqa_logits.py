"""Logits of the indexer of sparse attention, against their reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from vllm_kernels.reference import mqa_logits as reference

from .hopper import skip_unless_served

ops = torch.ops.vllm_kernels

DEPTH, SLOTS = 128, 64


@pytest.fixture(autouse=True)
def hopper(_gpu: None) -> None:
    skip_unless_served("mqa_logits")


def float8(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").to(torch.float8_e4m3fn)


def compare(got: torch.Tensor, want: torch.Tensor) -> None:
    """Tensor cores keep 14 bits of a product of about 11; a logit sums 64, which may cancel."""
    torch.testing.assert_close(got, want, atol=64 * 11 * 2.0**-13, rtol=2e-3, equal_nan=True)


@dataclass
class Rows:
    """Queries with the keys that each sees, in one tensor; what none sees is NaN."""

    rows: int = 100
    keys: int = 1000
    heads: int = 64
    from_start: bool = False
    causal: bool = True
    strided: bool = False
    blocks: int = 0

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        apart = self.heads + 4 if self.strided else self.heads
        self.query = float8(self.rows, apart, DEPTH)[:, : self.heads]
        self.weights = torch.randn(self.rows, apart, device="cuda")[:, : self.heads]
        self.key_values = float8(self.keys, DEPTH)
        self.key_scales = torch.rand(self.keys, device="cuda") + 0.1
        self.starts = torch.randint(-3, self.keys + 1, (self.rows,), device="cuda").int()
        self.ends = torch.randint(0, self.keys + 4, (self.rows,), device="cuda").int()
        if self.causal:
            self.starts.zero_()
            last = torch.arange(self.rows, device="cuda").int() + 1 + self.keys - self.rows
            self.ends = last.clamp(min=0)
        width = (self.keys + 3) // 4 * 4
        whole = torch.full((self.rows, width), torch.nan, device="cuda")
        self.logits = whole[:, : self.keys]

    def arguments(self) -> tuple[object, ...]:
        return (
            self.logits, self.query, self.key_values, self.key_scales, self.weights, self.starts,
            self.ends, self.from_start, self.blocks,
        )  # fmt: skip

    def check(self) -> None:
        ops.mqa_logits(*self.arguments())
        got = self.logits.clone()
        self.logits.fill_(torch.nan)
        reference.mqa_logits(*self.arguments())  # type: ignore[arg-type]
        compare(got, self.logits)


@pytest.mark.parametrize("heads", [32, 64])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 130])
@pytest.mark.parametrize("keys", [1, 63, 64, 65, 700, 5000])
def test_shapes(heads: int, rows: int, keys: int) -> None:
    Rows(rows, keys, heads).check()


@pytest.mark.parametrize("from_start", [False, True], ids=["column", "start"])
@pytest.mark.parametrize("heads", [32, 64])
def test_ranges_of_any_kind(from_start: bool, heads: int) -> None:
    """Also empty ones, and ones that leave the keys."""
    Rows(300, 1111, heads, from_start=from_start, causal=False, strided=True).check()


@pytest.mark.parametrize("blocks", [1, 7, 1000])
def test_few_blocks(blocks: int) -> None:
    Rows(200, 3000, blocks=blocks).check()


def test_fewer_columns_than_keys() -> None:
    for from_start in (False, True):
        problem = Rows(50, 900, from_start=from_start, causal=False)
        problem.logits = problem.logits[:, :333]
        problem.check()


def test_nothing_to_do() -> None:
    for rows, keys in ((0, 10), (10, 0)):
        Rows(rows, keys, causal=False).check()
    problem = Rows(20, 100, causal=False)
    problem.ends.copy_(problem.starts)
    problem.check()
    assert problem.logits.isnan().all()


def test_many_rows_and_keys() -> None:
    """Several works a block, against rows at both ends and in between."""
    problem = Rows(2048, 20000)
    ops.mqa_logits(*problem.arguments())
    for row in (0, 1, 777, 1500, 2047):
        end = int(problem.ends[row])
        scores = problem.key_values[:end].float() @ problem.query[row].float().T
        want = (scores.relu() * problem.weights[row]).sum(-1) * problem.key_scales[:end]
        compare(problem.logits[row, :end], want)
        assert problem.logits[row, end:].isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": (100, 48, DEPTH)}, "query has 48 heads, want 32 or 64"),
        ({"query": (100, 64, 64)}, "query has shape"),
        ({"key_values": (1000, 64)}, "keys has shape"),
        ({"blocks": -1}, "blocks is -1"),
    ],
    ids=["heads", "depth", "keys", "blocks"],
)
def test_bad_input(change: dict[str, object], message: str) -> None:
    problem = Rows()
    for name, value in change.items():
        setattr(problem, name, float8(*value) if isinstance(value, tuple) else value)
    with pytest.raises(RuntimeError, match=message):
        ops.mqa_logits(*problem.arguments())
    assert problem.logits.isnan().all()


@dataclass
class Paged:
    """Requests of any lengths; what no query sees is NaN."""

    lengths: list[int]
    queries: int = 1
    heads: int = 64
    slots: int = 64
    parts: int = 132
    one_length: bool = False
    columns: int = 0
    padding: int = 0  # bytes between pages

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        batch = len(self.lengths)
        self.query = float8(batch * self.queries, self.heads, DEPTH)
        self.weights = torch.randn(batch * self.queries, self.heads, device="cuda")
        longest = max(self.lengths, default=0)
        width = max(1, -(-longest // self.slots))
        pages = max(1, batch * width)
        page_bytes = self.slots * (DEPTH + 4)
        whole = torch.full((pages, page_bytes + self.padding), 0xFF, dtype=torch.uint8)
        numbers = torch.randperm(pages)[: batch * width].view(batch, width)
        for entry, length in enumerate(self.lengths):
            position = torch.arange(length)
            page, slot = numbers[entry, position // self.slots], position % self.slots
            values = torch.randn(length, DEPTH).to(torch.float8_e4m3fn).view(torch.uint8)
            scales = (torch.rand(length) + 0.1).view(torch.uint8).view(length, 4)
            inside = whole[:, :page_bytes]
            keys = inside[:, : self.slots * DEPTH].unflatten(1, (self.slots, DEPTH))
            keys[page, slot] = values
            inside[:, self.slots * DEPTH :].unflatten(1, (self.slots, 4))[page, slot] = scales
        self.cache = whole.cuda()[:, :page_bytes].unflatten(1, (self.slots, DEPTH + 4))
        self.table = numbers.int().cuda()
        self.context_lens = torch.tensor(self.lengths, dtype=torch.int32, device="cuda")[:, None]
        if not self.one_length:
            # The last query sees all keys, those before it less.
            back = torch.arange(self.queries - 1, -1, -1, device="cuda").int()
            self.context_lens = (self.context_lens - back).clamp(min=0)
        width = (self.columns or longest) + 5
        self.logits = torch.full((batch * self.queries, width), torch.nan, device="cuda")
        if self.columns:
            self.logits = self.logits[:, : self.columns]

    def schedule(self) -> torch.Tensor:
        schedule = torch.empty(self.parts + 1, 2, dtype=torch.int32, device="cuda")
        ops.paged_mqa_logits_schedule(schedule, self.context_lens)
        return schedule

    def arguments(self) -> tuple[object, ...]:
        return (
            self.logits, self.query, self.cache, self.weights, self.context_lens, self.table,
            self.schedule(),
        )  # fmt: skip

    def check(self) -> None:
        ops.paged_mqa_logits(*self.arguments())
        got = self.logits.clone()
        self.logits.fill_(torch.nan)
        reference.paged_mqa_logits(*self.arguments())  # type: ignore[arg-type]
        compare(got, self.logits)


@pytest.mark.parametrize("heads", [32, 64])
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("one_length", [False, True], ids=["each", "one"])
def test_queries(heads: int, queries: int, one_length: bool) -> None:
    Paged([1, 700, 129, 64, 0], queries, heads, one_length=one_length).check()


@pytest.mark.parametrize(
    "lengths",
    [[20000], [1] * 300, [0, 5, 0, 4000, 0], [9000, 3, 128, 127, 129, 256, 1], [513] * 33, [0]],
    ids=["one", "many", "empty", "ragged", "equal", "none"],
)
@pytest.mark.parametrize("parts", [1, 66, 132, 300])
def test_batches(lengths: list[int], parts: int) -> None:
    """From one request over all multiprocessors to many requests in a part."""
    Paged(lengths, queries=2, parts=parts).check()


@pytest.mark.parametrize("slots", [8, 16, 32, 64])
@pytest.mark.parametrize("padding", [0, 32])
def test_pages(slots: int, padding: int) -> None:
    Paged([3000, 77, 31], slots=slots, padding=padding).check()


def test_fewer_columns_than_a_request_has_keys() -> None:
    Paged([500, 70], columns=100).check()


def test_in_graphs_with_other_lengths() -> None:
    """Nothing of the lengths is fixed when the graph is captured."""
    problem = Paged([3000, 100, 5, 2000], queries=2)
    lengths = problem.context_lens.clone()
    problem.context_lens.fill_(1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.paged_mqa_logits(*problem.arguments())
    problem.context_lens.copy_(lengths)
    problem.logits.fill_(torch.nan)
    graph.replay()
    got = problem.logits.clone()
    problem.check()
    compare(got, problem.logits)


def test_a_page_that_is_not_there_is_not_read() -> None:
    problem = Paged([256, 256])
    problem.table[0, 1], problem.table[1, 2] = -1, problem.cache.shape[0]
    ops.paged_mqa_logits(*problem.arguments())
    got = problem.logits.clone()
    problem.logits.fill_(torch.nan)
    reference.paged_mqa_logits(*problem.arguments())  # type: ignore[arg-type]
    for row, page in ((0, 1), (1, 2)):
        problem.logits[row, page * 64 : page * 64 + 64] = 0
        got[row, page * 64 : page * 64 + 64] = 0
    compare(got, problem.logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache": torch.zeros(3, 64, 128, dtype=torch.uint8)}, "cache has shape"),
        ({"cache": torch.zeros(3, 48, 132, dtype=torch.uint8)}, "pages of 48 slots"),
        ({"table": torch.zeros(5, 4, dtype=torch.int32)}, "block_table has shape"),
        ({"context_lens": torch.zeros(2, 3, dtype=torch.int32)}, "context_lens has shape"),
        ({"context_lens": torch.zeros(3, 1, dtype=torch.int32)}, "for 3 batch entries"),
    ],
    ids=["width", "slots", "table", "lengths", "batch"],
)
def test_bad_pages(change: dict[str, torch.Tensor], message: str) -> None:
    problem = Paged([5, 6], queries=2)
    schedule = problem.schedule()
    for name, value in change.items():
        setattr(problem, name, value.cuda())
    with pytest.raises(RuntimeError, match=message):
        ops.paged_mqa_logits(*problem.arguments()[:-1], schedule)
    assert problem.logits.isnan().all()


def test_pages_that_are_not_contiguous_are_refused() -> None:
    problem = Paged([5, 6])
    wide = torch.zeros(3, SLOTS, DEPTH + 12, dtype=torch.uint8, device="cuda")
    problem.cache = wide[..., : DEPTH + 4]
    with pytest.raises(RuntimeError, match="want contiguous pages"):
        ops.paged_mqa_logits(*problem.arguments())
    assert problem.logits.isnan().all()
