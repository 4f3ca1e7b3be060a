"""Float products behind handles against float64 PyTorch, per tier."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from vllm_kernels.engine_api import cpu_kernels

ops = torch.ops.vllm_kernels

# Unit roundoff of c, with room for the float32 sum.
RTOL = {torch.float32: 2e-6, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}


@contextmanager
def handle(b: torch.Tensor) -> Iterator[torch.Tensor]:
    number = ops.create_onednn_mm_handler(b, 32)
    yield torch.tensor([number], dtype=torch.int64)
    ops.release_dnnl_matmul_handler(number)


def multiply(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    c = torch.full((a.shape[0], b.shape[1]), float("nan"), dtype=a.dtype)
    with handle(b) as handler:
        ops.onednn_mm(c, a, bias, handler)
    return c


def check(
    c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None
) -> None:
    """Error bound of a float32 sum of products, plus one rounding to the dtype of c."""
    exact = a.double() @ b.double()
    bound = (a.double().abs() @ b.double().abs()) * 2**-20
    if bias is not None:
        exact += bias.double()
        bound += bias.double().abs() * 2**-23
    bound += RTOL[c.dtype] * exact.abs() + torch.finfo(c.dtype).tiny
    wrong = (c.double() - exact).abs() > bound
    assert c.isfinite().all()
    assert not wrong.any(), (c[wrong][:5], exact[wrong][:5], wrong.nonzero()[:5])


def integers(*shape: int, limit: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randint(-limit, limit + 1, shape).to(dtype)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (1, 64, 64), (2, 31, 33), (5, 63, 65), (7, 896, 130), (16, 97, 200), (33, 257, 71)],
    ids=str,
)
def test_odd_shapes(
    tier: str, dtype: torch.dtype, shape: tuple[int, int, int], biased: bool
) -> None:
    m, k, n = shape
    a, weight = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
    bias = torch.randn(n, dtype=dtype) if biased else None
    check(multiply(a, weight.t(), bias), a, weight.t(), bias)


@pytest.mark.parametrize("leading", [(6, 1), (2, 3, 5), (0, 4)], ids=str)
def test_more_dimensions_of_c(tier: str, dtype: torch.dtype, leading: tuple[int, ...]) -> None:
    """Vision encoders have a batch besides the patches; the engine flattens a alone."""
    a, weight = torch.randn(math.prod(leading), 65, dtype=dtype), torch.randn(33, 65, dtype=dtype)
    c = torch.full((*leading, 33), float("nan"), dtype=dtype)
    with handle(weight.t()) as handler:
        ops.onednn_mm(c, a, None, handler)
    check(c.flatten(0, -2), a, weight.t())


def test_more_dimensions_with_gaps(tier: str) -> None:
    a, weight = torch.randn(6, 8), torch.randn(4, 8)
    c = torch.empty(3, 2, 8)[..., :4]
    with handle(weight.t()) as handler, pytest.raises(RuntimeError, match="c is not contiguous"):
        ops.onednn_mm(c, a, None, handler)


@pytest.mark.parametrize("m", [*range(1, 20), 31, 32, 33, 47, 48, 49, 64, 255, 256, 257, 289])
def test_every_row_count_is_exact_on_integers(tier: str, dtype: torch.dtype, m: int) -> None:
    """Sums of small integers are exact in float32, whatever their order: any bit off is a bug."""
    a, weight = integers(m, 190, limit=2, dtype=dtype), integers(100, 190, limit=2, dtype=dtype)
    bias = integers(100, limit=5, dtype=dtype)
    exact = (a.double() @ weight.double().t() + bias.double()).to(dtype)
    assert torch.equal(multiply(a, weight.t(), bias), exact)


@pytest.mark.parametrize("shape", [(70, 4500, 1000), (270, 2300, 530), (6, 9000, 640)], ids=str)
def test_parts_of_k_and_chunks_of_rows(
    tier: str, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    m, k, n = shape
    a, weight = integers(m, k, limit=1, dtype=dtype), integers(n, k, limit=1, dtype=dtype)
    exact = (a.float() @ weight.float().t()).to(dtype)
    assert torch.equal(multiply(a, weight.t()), exact)


def test_many_passes(tier: str) -> None:
    """More packed rows than one pass of scratch memory holds (K of a large down projection)."""
    a = integers(600, 18000, limit=1, dtype=torch.bfloat16)
    weight = integers(70, 18000, limit=1, dtype=torch.bfloat16)
    exact = (a.float() @ weight.float().t()).bfloat16()
    assert torch.equal(multiply(a, weight.t()), exact)


def test_other_rows_change_no_bits(tier: str, dtype: torch.dtype) -> None:
    """Few and many rows, odd and even ones take other loops."""
    a, weight = torch.randn(61, 301, dtype=dtype), torch.randn(70, 301, dtype=dtype)
    want = multiply(a, weight.t())
    for rows in (1, 2, 3, 6, 9, 12, 13, 25, 37):
        assert torch.equal(multiply(a[:rows], weight.t()), want[:rows]), rows


def test_layouts_of_weights(tier: str, dtype: torch.dtype) -> None:
    a, weight = torch.randn(9, 75, dtype=dtype), torch.randn(140, 75, dtype=dtype)
    want = multiply(a, weight.t())
    wide = torch.randn(300, 200, dtype=dtype)
    sliced = wide[5:285:2, 11:161:2]
    sliced.copy_(weight)
    for b in (weight.t().contiguous(), sliced.t(), weight.flip(1).flip(1).t()):
        assert torch.equal(multiply(a, b), want)


def test_strided_rows(tier: str, dtype: torch.dtype) -> None:
    weight = torch.randn(70, 96, dtype=dtype)
    a = torch.randn(40, 300, dtype=dtype)[::2, 50:146]
    want = multiply(a.contiguous(), weight.t())
    whole = torch.zeros(40, 100, dtype=dtype)
    with handle(weight.t()) as handler:
        ops.onednn_mm(whole[::2, 20:90], a, None, handler)
    assert torch.equal(whole[::2, 20:90], want)
    whole[::2, 20:90] = 0
    assert not whole.any()


@pytest.mark.parametrize("m", [1, 5, 40])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_values_stay_in_their_row(
    tier: str, dtype: torch.dtype, m: int, value: float
) -> None:
    a, weight = torch.randn(m, 51, dtype=dtype), torch.rand(67, 51, dtype=dtype) + 0.5
    want = multiply(a, weight.t())
    a[m // 2, 50] = value
    got = multiply(a, weight.t())
    others = torch.arange(m) != m // 2
    assert torch.equal(got[others], want[others])
    row = got[m // 2]
    assert row.isnan().all() if value != value else (row == value).all()


@pytest.mark.parametrize("m", [1, 40])
def test_non_finite_weights_stay_in_their_column(tier: str, dtype: torch.dtype, m: int) -> None:
    a, weight = torch.rand(m, 51, dtype=dtype) + 0.5, torch.rand(67, 51, dtype=dtype)
    want = multiply(a, weight.t())
    weight[66, 50], weight[3, 0] = float("inf"), float("nan")
    got = multiply(a, weight.t())
    assert (got[:, 66] == float("inf")).all()
    assert got[:, 3].isnan().all()
    others = [n for n in range(67) if n not in (3, 66)]
    assert torch.equal(got[:, others], want[:, others])


def test_largest_values(tier: str, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    a = torch.tensor([[largest, 0.0, 1.0], [largest, largest, 0.0]], dtype=dtype)
    weight = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, largest]], dtype=dtype)
    c = multiply(a, weight.t())
    inf = float("inf")
    assert c.tolist() == [[largest, largest, largest], [largest, inf, 0.0]]


def test_float16_is_summed_in_float32(tier: str) -> None:
    """A float16 sum would stop growing at 2048, and 300 * 300 alone is above its largest value."""
    ones = torch.ones(3, 6000, dtype=torch.float16)
    assert (multiply(ones, ones[:1].t()) == 6000).all()
    a = torch.tensor([[300.0, -300.0, 1.0]], dtype=torch.float16)
    b = torch.tensor([[300.0], [300.0], [5.0]], dtype=torch.float16)
    assert multiply(a, b).item() == 5.0


def test_subnormal_float16(tier: str) -> None:
    a = torch.full((2, 40), 2.0**-24, dtype=torch.float16)
    b = torch.full((40, 3), 1.0, dtype=torch.float16)
    assert (multiply(a, b).double() == 40 * 2.0**-24).all()


@pytest.mark.parametrize("shape", [(0, 5, 7), (3, 5, 0), (0, 0, 0)], ids=str)
def test_empty(tier: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    c = multiply(torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype))
    assert c.shape == (m, n)


@pytest.mark.parametrize("m", [1, 40])
def test_no_depth(tier: str, dtype: torch.dtype, m: int) -> None:
    a, b = torch.empty(m, 0, dtype=dtype), torch.empty(0, 70, dtype=dtype)
    bias = torch.randn(70, dtype=dtype)
    assert torch.equal(multiply(a, b, bias), bias.expand(m, 70))
    assert not multiply(a, b).any()


def test_weights_are_copied_and_serve_every_tier(dtype: torch.dtype) -> None:
    kernels = cpu_kernels()
    assert kernels is not None
    a, weight = integers(20, 77, limit=2, dtype=dtype), integers(90, 77, limit=2, dtype=dtype)
    exact = (a.double() @ weight.double().t()).to(dtype)
    with handle(weight.t()) as handler:
        weight.zero_()
        for name, runnable in kernels.tiers().items():
            if runnable:
                kernels.set_isa(name)
                c = torch.empty(20, 90, dtype=dtype)
                ops.onednn_mm(c, a, None, handler)
                assert torch.equal(c, exact), name
    kernels.set_isa(None)


ENGINE_PROBE = """
import sys
import torch
import vllm_kernels
from vllm_kernels.engine_api import cpu_kernels
ops = torch.ops.vllm_kernels
for tier in sys.argv[1:]:
    cpu_kernels().set_isa(tier)
    print(f"tier={tier}", flush=True)
    for dtype in (torch.float32, torch.bfloat16):
        for rows in (1, 300):
            a, c = torch.ones(rows, 64, dtype=dtype), torch.zeros(rows, 128, dtype=dtype)
            b = torch.ones(64, 128, dtype=dtype)
            handler = torch.tensor([ops.create_onednn_mm_handler(b, 0)])
            ops.onednn_mm(c, a, None, handler)
            assert (c == 64).all()
"""


def test_onednn_serves_the_best_tier_only() -> None:
    """oneDNN cannot be forced to a tier once it runs, so a forced tier must never reach it."""
    kernels = cpu_kernels()
    assert kernels is not None
    tiers = [name for name, runnable in kernels.tiers().items() if runnable]
    run = subprocess.run(
        [sys.executable, "-c", ENGINE_PROBE, *tiers, tiers[0]],
        env={**os.environ, "ONEDNN_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    _, *outputs = run.stdout.split("tier=")
    products = [output.count(",matmul,") for output in outputs]
    # float32 with many rows where oneDNN has a kernel for the layout, and nothing else.
    want = 1 if "avx512" in tiers else 0
    assert products == [0] * (len(tiers) - 1) + [want, 0], run.stdout


def test_acl_is_not_used() -> None:
    assert ops.is_onednn_acl_supported() is False


# Handles


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer keeps freed memory"
)
@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer keeps freed memory"
)
def test_release_frees_the_memory() -> None:
    weight = torch.zeros(4096, 2048)  # 32 MiB packed
    with handle(weight.t()):
        pass
    before = resident_bytes()
    for _ in range(8):
        with handle(weight.t()):
            assert resident_bytes() - before > 24 << 20
    assert resident_bytes() - before < 24 << 20


def test_unknown_and_released_handles() -> None:
    c, a = torch.empty(1, 2), torch.empty(1, 3)
    number = ops.create_onednn_mm_handler(torch.empty(3, 2), 0)
    ops.release_dnnl_matmul_handler(number)
    for call in (
        lambda: ops.onednn_mm(c, a, None, torch.tensor([number])),
        lambda: ops.release_dnnl_matmul_handler(number),
    ):
        with pytest.raises(RuntimeError, match=f"handle {number} was released"):
            call()
    for bad in (0, -1, 1 << 62, number + 1000):
        with pytest.raises(RuntimeError, match=f"onednn_mm: handle {bad} is none of those"):
            ops.onednn_mm(c, a, None, torch.tensor([bad]))
    assert ops.create_onednn_mm_handler(torch.empty(3, 2), 0) > number


@pytest.mark.parametrize(
    "handler", [torch.tensor([1.0]), torch.tensor([1, 2]), torch.empty(0, dtype=torch.int64)]
)
def test_handler_tensor_is_one_int64(handler: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"handler_tensor .* want a CPU tensor of one int64"):
        ops.onednn_mm(torch.empty(1, 2), torch.empty(1, 3), None, handler)


def test_threads_share_and_release_handles() -> None:
    """Products from several threads, each on a handle of all, while others come and go."""
    count, shape = 4, (30, 300, 200)
    m, k, n = shape
    a = [integers(m, k, limit=1, dtype=torch.bfloat16) for _ in range(count)]
    weights = [integers(n, k, limit=1, dtype=torch.bfloat16) for _ in range(count)]
    exact = [[(x.float() @ w.float().t()).bfloat16() for w in weights] for x in a]
    shared = [torch.tensor([ops.create_onednn_mm_handler(w.t(), 0)]) for w in weights]
    failures: list[str] = []

    def work(thread: int) -> None:
        try:
            for turn in range(40):
                other = (thread + turn) % count
                c = torch.empty(m, n, dtype=torch.bfloat16)
                ops.onednn_mm(c, a[thread], None, shared[other])
                own = multiply(a[thread], weights[thread].t())
                if not torch.equal(c, exact[thread][other]):
                    failures.append(f"thread {thread}: shared handle {other}")
                if not torch.equal(own, exact[thread][thread]):
                    failures.append(f"thread {thread}: own handle")
        except RuntimeError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for handler in shared:
        ops.release_dnnl_matmul_handler(int(handler))
    assert not failures, failures


# Bad input: one sentence that names op and argument


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (torch.empty(3, 2, dtype=torch.float64), "b is float64, want float32 or bfloat16"),
        (torch.empty(3, 2, dtype=torch.int8), "b is int8, want float32"),
        (torch.empty(3), r"b has shape \[3\], want 2 dimensions"),
        (torch.empty(3, 2, 1), r"b has shape \[3, 2, 1\], want 2 dimensions"),
    ],
)
def test_bad_weights(b: torch.Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"create_onednn_mm_handler: {message}"):
        ops.create_onednn_mm_handler(b, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"a": torch.empty(4, 3, dtype=torch.bfloat16)}, "a is bfloat16, want float32"),
        ({"a": torch.empty(4, 5)}, r"a has shape \[4, 5\], want 3 in dimension 1"),
        ({"a": torch.empty(3)}, r"a has shape \[3\], want 2 dimensions"),
        ({"a": torch.empty(3, 4).t()}, "a has stride 4 in its last dimension, want 1"),
        ({"c": torch.empty(4, 2, dtype=torch.float16)}, "c is float16, want float32 as a"),
        ({"c": torch.empty(5, 2)}, r"c has shape \[5, 2\], want 4 in dimension 0"),
        ({"c": torch.empty(4, 7)}, r"c has shape \[4, 7\], want 2 in dimension 1"),
        ({"c": torch.empty(2, 4).t()}, "c has stride 4 in its last dimension, want 1"),
        ({"bias": torch.empty(3)}, r"bias has shape \[3\], want 2 in dimension 0"),
        ({"bias": torch.empty(1, 2)}, r"bias has shape \[1, 2\], want 1 dimensions"),
        ({"bias": torch.empty(2).bfloat16()}, "bias is bfloat16, want float32 as c"),
        ({"bias": torch.empty(4)[::2]}, "bias is not contiguous"),
    ],
)
def test_bad_operands(changed: dict[str, torch.Tensor], message: str) -> None:
    good = {"c": torch.empty(4, 2), "a": torch.empty(4, 3), "bias": torch.empty(2)}
    with handle(torch.empty(3, 2)) as handler, pytest.raises(RuntimeError) as error:
        ops.onednn_mm(**{**good, **changed}, handler_tensor=handler)
    error.match(f"onednn_mm: {message}")


def test_scaled_handle_is_refused() -> None:
    number = ops.create_onednn_scaled_mm_handler(
        torch.zeros(3, 2, dtype=torch.int8), torch.ones(1), torch.float32, True, False, 0
    )
    with pytest.raises(RuntimeError, match=r"onednn_mm: handle .* holds int8 weights with scales"):
        ops.onednn_mm(torch.empty(1, 2), torch.empty(1, 3), None, torch.tensor([number]))
    ops.release_dnnl_matmul_handler(number)
