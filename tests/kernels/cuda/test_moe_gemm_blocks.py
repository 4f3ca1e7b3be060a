"""The experts' products with scales of blocks, against the references."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from vllm_kernels.reference.moe_gemm import blocks as reference

from .hopper import skip_unless_served

ops = torch.ops.vllm_kernels

SHAPES = [(8, 16), (48, 80), (136, 128), (304, 272), (512, 640), (1040, 1936)]


@pytest.fixture(autouse=True)
def hopper(request: pytest.FixtureRequest, _gpu: None) -> None:
    skip_unless_served("grouped_mm_labelled")


def e4m3(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda").clamp(-448, 448).to(torch.float8_e4m3fn)


def scales(*shape: int) -> torch.Tensor:
    return torch.rand(shape, device="cuda") * 0.1 + 0.01


def by_columns(values: torch.Tensor, gap: int = 0) -> torch.Tensor:
    """The same with rows next to each other, ``gap`` elements behind each column."""
    *batch, rows, columns = values.shape
    whole = values.new_full((*batch, columns, rows + gap), torch.nan)
    copy = whole.mT[..., :rows, :]
    return copy.copy_(values)


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """To the rounding of the result and of the tensor cores' sums; NaN where nothing is written."""
    assert torch.equal(ours.isnan(), expected.isnan())
    used = expected[~expected.isnan()].float()
    spread = float(used.std()) if used.numel() > 1 else 1.0
    torch.testing.assert_close(
        ours.float(), expected.float(), rtol=1e-2, atol=1e-2 * spread, equal_nan=True
    )


@dataclass
class Labelled:
    """``counts``: rows of each expert in turn, each filled up to ``alignment``."""

    counts: list[int]
    n: int
    k: int
    alignment: int = 128
    spare: int = 0  # blocks of nobody, behind the others

    def __post_init__(self) -> None:
        labels: list[int] = []
        for expert, count in enumerate(self.counts):
            labels += [expert] * count + [-1] * (-count % self.alignment)
        labels += [-1] * (self.spare * self.alignment)
        rows, experts, chunks = len(labels), len(self.counts), -(-self.k // 128)
        self.labels = torch.tensor(labels, dtype=torch.int32, device="cuda")
        self.out = torch.full((rows, self.n), torch.nan, dtype=torch.bfloat16, device="cuda")
        self.a, self.b = e4m3(rows, self.k), e4m3(experts, self.n, self.k)
        self.a_scales = scales(rows, chunks)
        self.b_scales = scales(experts, -(-self.n // 128), chunks)

    def arguments(self) -> list[torch.Tensor | int]:
        return [self.a, self.a_scales, self.b, self.b_scales, self.labels, self.alignment]

    def check(self) -> None:
        expected = self.out.clone()
        reference.grouped_mm_labelled(expected, *self.arguments())  # type: ignore[arg-type]
        ops.grouped_mm_labelled(self.out, *self.arguments())
        close(self.out, expected)


@dataclass
class Counted:
    """``counts`` of ``rows`` rows of each expert."""

    counts: list[int]
    rows: int
    n: int
    k: int
    expected: int

    def __post_init__(self) -> None:
        experts, chunks = len(self.counts), -(-self.k // 128)
        self.used = torch.tensor(self.counts, dtype=torch.int32, device="cuda")
        shape = (experts, self.rows, self.n)
        self.out = torch.full(shape, torch.nan, dtype=torch.bfloat16, device="cuda")
        self.a, self.b = e4m3(experts, self.rows, self.k), e4m3(experts, self.n, self.k)
        self.a_scales = scales(experts, self.rows, chunks)
        self.b_scales = scales(experts, -(-self.n // 128), chunks)

    def arguments(self) -> list[torch.Tensor | int]:
        return [self.a, self.a_scales, self.b, self.b_scales, self.used, self.expected]

    def check(self) -> None:
        expected = self.out.clone()
        reference.grouped_mm_counted(expected, *self.arguments())  # type: ignore[arg-type]
        ops.grouped_mm_counted(self.out, *self.arguments())
        close(self.out, expected)


COUNTS = {
    "one": [1],
    "few": [1, 0, 3, 2, 0, 0, 17, 4],
    "odd": [33, 0, 127, 1, 65, 17],
    "many": [(7 * i) % 5 for i in range(64)],
    "large": [300, 129, 0, 511, 64, 257, 1, 1000],
}


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("alignment", [16, 48, 64, 128, 256])
def test_labelled(counts: list[int], n: int, k: int, alignment: int) -> None:
    torch.manual_seed(0)
    Labelled(counts, n, k, alignment, spare=1).check()


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("expected", [1, 64, 100, 512])
def test_counted(counts: list[int], n: int, k: int, expected: int) -> None:
    torch.manual_seed(0)
    Counted(counts, max(counts) + 3, n, k, expected).check()


# Rows that an H200 has rounds of tiles of 256 weights for, and of 192 (PlanRows() says which).
@pytest.mark.parametrize("counts", [[128] * 33, [128] * 20 + [1965]], ids=["256", "192"])
@pytest.mark.parametrize("n", [4096, 4104])
def test_tiles_of_many_weights(counts: list[int], n: int) -> None:
    Labelled(counts, n, 272).check()
    most = max(counts)
    Counted([most - 5] * (-(-len(counts) * 128 // most)), most, n, 272, most).check()


@pytest.mark.parametrize("form", ["rows", "columns", "apart"])
def test_scales_of_any_strides(form: str) -> None:
    change = {
        "rows": lambda x: x,
        "columns": by_columns,
        "apart": lambda x: by_columns(x, gap=3),
    }[form]
    labelled = Labelled([40, 3, 130], 272, 528)
    labelled.a_scales = change(labelled.a_scales)
    labelled.b_scales = change(labelled.b_scales)
    labelled.check()
    counted = Counted([40, 3, 130], 133, 272, 528, 60)
    counted.a_scales = change(counted.a_scales)
    counted.b_scales = change(counted.b_scales)
    counted.check()


def test_strided_rows() -> None:
    labelled = Labelled([40, 3, 130], 144, 80)
    rows = len(labelled.a)
    labelled.a = e4m3(rows, 256)[:, 32:112]
    labelled.b = e4m3(3, 160, 128)[:, 8:152, 16:96]
    whole = torch.full((rows, 320), torch.nan, dtype=torch.bfloat16, device="cuda")
    labelled.out = whole[:, 64:208]
    labelled.check()
    assert whole[:, :64].isnan().all()
    assert whole[:, 208:].isnan().all()


def test_labels_and_counts_that_cannot_be() -> None:
    """Never outside of the tensors: the host does not see them."""
    labelled = Labelled([40, 3, 130], 144, 80)
    labelled.labels[:128] = 3
    labelled.labels[128:256] = 2**31 - 1
    labelled.check()
    counted = Counted([40, 3, 5], 40, 144, 80, 60)
    counted.used[1], counted.used[2] = -7, 1_000_000
    counted.check()


def test_rows_of_a_cut_block() -> None:
    labelled = Labelled([100, 130], 256, 384)
    rows = 128 + 130
    labelled.labels, labelled.a = labelled.labels[:rows], labelled.a[:rows]
    labelled.a_scales, labelled.out = labelled.a_scales[:rows], labelled.out[:rows]
    labelled.check()


def test_nothing_to_do() -> None:
    empty = Labelled([0, 0], 64, 64)
    ops.grouped_mm_labelled(empty.out, *empty.arguments())
    nobody = Labelled([0, 0], 64, 64, spare=2)
    ops.grouped_mm_labelled(nobody.out, *nobody.arguments())
    assert nobody.out.isnan().all()
    unused = Counted([0, 0], 9, 64, 64, 1)
    ops.grouped_mm_counted(unused.out, *unused.arguments())
    assert unused.out.isnan().all()


def test_capture() -> None:
    """In a CUDA graph, with counts that change between replays."""
    counted = Counted([30, 1, 0, 9], 40, 272, 144, 16)
    counted.check()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.grouped_mm_counted(counted.out, *counted.arguments())
    counted.used.copy_(torch.tensor([0, 12, 28, 0], device="cuda"))
    expected = torch.full_like(counted.out, torch.nan)
    counted.out.fill_(torch.nan)
    reference.grouped_mm_counted(expected, *counted.arguments())  # type: ignore[arg-type]
    graph.replay()
    close(counted.out, expected)


@pytest.mark.parametrize(
    ("at", "change", "message"),
    [
        (0, lambda x: x.bfloat16(), "a is bfloat16, want"),
        (0, lambda x: x[:, :-16], "b has shape"),
        (1, lambda x: x[:, :-1], "a_scales has shape"),
        (1, lambda x: x.double(), "a_scales is float64, want float32"),
        (2, lambda x: x.mT, "b has stride 256 in its last dimension, want 1"),
        (3, lambda x: x[:, :-1], "b_scales has shape"),
        (3, lambda x: x[:-1], "b_scales has shape"),
        (4, lambda x: x[:-1], "labels has shape"),
        (4, lambda x: x.long(), "labels is int64, want int32"),
        (5, lambda x: 24, "alignment is 24, want a multiple of 16"),
        (5, lambda x: 0, "alignment is 0, want a multiple of 16"),
    ],
)
def test_bad_input_is_refused(at: int, change: object, message: str) -> None:
    problem = Labelled([5, 4, 3], 144, 256)
    arguments = problem.arguments()
    arguments[at] = change(arguments[at])  # type: ignore[operator]
    with pytest.raises(RuntimeError, match=f"^grouped_mm_labelled: {message}"):
        ops.grouped_mm_labelled(problem.out, *arguments)


def test_bad_counts_are_refused() -> None:
    problem = Counted([5, 4, 3], 8, 144, 256, 1)
    arguments = problem.arguments()
    with pytest.raises(RuntimeError, match=r"^grouped_mm_counted: counts has shape \[2\]"):
        ops.grouped_mm_counted(problem.out, *arguments[:4], problem.used[:2], 1)
    with pytest.raises(RuntimeError, match=r"^grouped_mm_counted: out is float16, want"):
        ops.grouped_mm_counted(problem.out.half(), *arguments)
