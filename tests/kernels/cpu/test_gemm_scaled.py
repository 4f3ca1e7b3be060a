"""int8 products with scales and zero points (W8A8) against float64 PyTorch, per tier."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

ops = torch.ops.vllm_kernels

RTOL = {torch.float32: 1e-6, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
SHAPES = [(1, 1, 1), (1, 64, 64), (3, 33, 70), (16, 130, 129), (35, 257, 65), (300, 1100, 200)]


def random_int8(*shape: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8)


@dataclass
class Problem:
    """One product and how it is quantized; `weight` is [N, K], as a checkpoint holds it."""

    a: torch.Tensor
    weight: torch.Tensor
    a_scales: torch.Tensor
    b_scales: torch.Tensor
    dynamic: bool
    azp: torch.Tensor | None = None
    azp_adj: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    dtype: torch.dtype = torch.float32
    c: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.a.shape[0], self.weight.shape[0])
        self.c = torch.full(shape, float("nan"), dtype=self.dtype)

    def run(self) -> torch.Tensor:
        number = ops.create_onednn_scaled_mm_handler(
            self.weight.t(), self.b_scales, self.dtype, self.dynamic, self.azp is not None, 32
        )
        try:
            ops.onednn_scaled_mm(
                self.c,
                self.a,
                self.a_scales,
                self.azp,
                self.azp_adj,
                self.bias,
                torch.tensor([number]),
            )
        finally:
            ops.release_dnnl_matmul_handler(number)
        return self.c

    def check(self) -> None:
        """Exact sums in float64; the bound is that of each float32 operation on its operands."""
        b_scales = self.b_scales.double().reshape(-1)
        exact = (self.a.double() @ self.weight.double().t()) * b_scales
        size = exact.abs()
        if self.azp is not None:
            adj = self.weight.double().sum(1) * b_scales
            correction = self.azp.double().reshape(-1, 1) * adj
            exact, size = exact - correction, size + correction.abs()
        a_scales = self.a_scales.double().reshape(-1, 1)
        exact, size = exact * a_scales, size * a_scales
        if self.bias is not None:
            exact, size = exact + self.bias.double(), size + self.bias.double().abs()
        bound = size * 2**-21 + exact.abs() * RTOL[self.dtype] + torch.finfo(self.dtype).tiny
        got = self.run().double()
        wrong = ~((got - exact).abs() <= bound)
        assert not wrong.any(), (got[wrong][:5], exact[wrong][:5], wrong.nonzero()[:5])


def problem(
    m: int, k: int, n: int, dynamic: bool, azp: bool, channels: bool, dtype: torch.dtype
) -> Problem:
    rows = (m, 1) if dynamic else (1,)
    weight = random_int8(n, k)
    b_scales = torch.rand(n, 1) * 1e-2 if channels else torch.rand(1) * 1e-2
    return Problem(
        a=random_int8(m, k),
        weight=weight,
        a_scales=torch.rand(rows) * 1e-2,
        b_scales=b_scales,
        dynamic=dynamic,
        azp=torch.randint(-128, 128, rows, dtype=torch.int32) if azp else None,
        azp_adj=(weight.float().sum(1, keepdim=True) * b_scales).t().contiguous() if azp else None,
        bias=torch.randn(n, dtype=dtype) if n % 2 else None,
        dtype=dtype,
    )


@pytest.mark.parametrize("channels", [True, False], ids=["per-channel", "per-tensor"])
@pytest.mark.parametrize("azp", [False, True], ids=["symmetric", "azp"])
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_schemes(
    tier: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    dynamic: bool,
    azp: bool,
    channels: bool,
) -> None:
    problem(*shape, dynamic, azp, channels, dtype).check()


def unscaled(a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return Problem(a, weight, torch.ones(1), torch.ones(1), dynamic=False).run()


@pytest.mark.parametrize("m", [*range(1, 20), 32, 33, 48, 257])
def test_sums_are_exact(tier: str, m: int) -> None:
    a, weight = random_int8(m, 300), random_int8(90, 300)
    assert torch.equal(unscaled(a, weight), (a.double() @ weight.double().t()).float())


@pytest.mark.parametrize("m", [1, 3, 17, 40])
@pytest.mark.parametrize(("a", "b"), [(-128, -128), (-128, 127), (127, -128), (127, 127)])
def test_extremes_do_not_saturate(tier: str, m: int, a: int, b: int) -> None:
    """Pairs of such products exceed int16, where a saturating instruction would clip them."""
    k = 65536
    c = unscaled(torch.full((m, k), a, dtype=torch.int8), torch.full((3, k), b, dtype=torch.int8))
    assert (c == float(a * b * k)).all()


def test_zero_points_outside_int8(tier: str) -> None:
    """Rows far from zero have zero points far below -128; int32 would overflow in azp * sum b."""
    m, k, n = 5, 4096, 66
    weight = torch.full((n, k), 127, dtype=torch.int8)
    azp = torch.tensor([[-128], [-1403], [-250_000], [8_000_000], [0]], dtype=torch.int32)
    for dynamic in (True, False):
        Problem(
            random_int8(m, k),
            weight,
            torch.rand(m if dynamic else 1),
            torch.rand(n),
            dynamic,
            azp if dynamic else azp[2],
        ).check()


def test_adjustment_is_taken_as_passed(tier: str) -> None:
    a, weight = random_int8(4, 50), random_int8(20, 50)
    a_scales, b_scales = torch.rand(4, 1), torch.rand(20)
    azp = torch.tensor([[3], [-7], [0], [100]], dtype=torch.int32)
    sums = torch.randint(-999, 999, (20,), dtype=torch.int32)
    product = (a.double() @ weight.double().t()) * b_scales.double()
    want = a_scales.double() * (product - azp.double() * (sums.double() * b_scales.double()))
    for adj in (sums, sums * b_scales, (sums * b_scales).view(1, 20)):
        got = Problem(a, weight, a_scales, b_scales, True, azp, adj).run()
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-2)


def test_adjustment_is_optional_and_unused_where_static(tier: str) -> None:
    whole = problem(6, 80, 70, dynamic=True, azp=True, channels=True, dtype=torch.float32)
    want = whole.run().clone()
    whole.azp_adj = None
    torch.testing.assert_close(whole.run(), want, rtol=1e-5, atol=1e-4)
    static = problem(6, 80, 70, dynamic=False, azp=True, channels=True, dtype=torch.float32)
    static.azp_adj = torch.full((70,), float("nan"))
    static.check()


def test_scales_and_zero_points_of_rank_zero(tier: str) -> None:
    """The engine keeps static scales as tensors without dimensions."""
    Problem(
        random_int8(5, 70),
        random_int8(30, 70),
        torch.tensor(0.5),
        torch.tensor(0.25),
        False,
        torch.tensor(7, dtype=torch.int32),
    ).check()


def test_layouts(tier: str) -> None:
    a, weight = random_int8(20, 140)[::2, 30:107], random_int8(67, 77)
    want = (a.double() @ weight.double().t()).float()
    assert torch.equal(unscaled(a, weight), want)
    assert torch.equal(unscaled(a, weight.t().contiguous().t()), want)


def test_non_finite_scales(tier: str) -> None:
    a, weight = torch.ones(2, 8, dtype=torch.int8), torch.ones(3, 8, dtype=torch.int8)
    scales = torch.tensor([1.0, float("inf"), float("nan")])
    c = Problem(a, weight, torch.ones(2), scales, dynamic=True).run()
    assert (c[:, 0] == 8).all()
    assert (c[:, 1] == float("inf")).all()
    assert c[:, 2].isnan().all()


@pytest.mark.parametrize("shape", [(0, 5, 7), (3, 5, 0), (4, 0, 9)], ids=str)
@pytest.mark.parametrize("azp", [False, True])
def test_empty(tier: str, shape: tuple[int, int, int], azp: bool) -> None:
    m, k, n = shape
    case = problem(m, k, n, True, azp, True, torch.float32)
    case.bias = torch.randn(n)
    assert torch.equal(case.run(), case.bias.expand(m, n) if k == 0 else torch.empty(m, n))


# Bad input: one sentence that names op and argument


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"b": torch.zeros(4, 3)}, "b is float32, want int8"),
        ({"b": torch.zeros(4, dtype=torch.int8)}, r"b has shape \[4\], want 2 dimensions"),
        ({"b_scales": torch.ones(4)}, "b_scales has 4 values, want 1 or one per column of b"),
        ({"b_scales": torch.ones(3).double()}, "b_scales is float64, want float32"),
        ({"b_scales": torch.ones(6)[::2]}, "b_scales is not contiguous"),
        ({"output_type": torch.int8}, "output_type is int8, want float32, bfloat16 or float16"),
    ],
)
def test_bad_weights(changed: dict[str, object], message: str) -> None:
    good = {
        "b": torch.zeros(4, 3, dtype=torch.int8),
        "b_scales": torch.ones(3),
        "output_type": torch.float32,
        "dynamic_act_quant": True,
        "use_azp": False,
        "primitive_cache_size": 0,
    }
    with pytest.raises(RuntimeError, match=f"create_onednn_scaled_mm_handler: {message}"):
        ops.create_onednn_scaled_mm_handler(**{**good, **changed})


@pytest.mark.parametrize(
    ("dynamic", "changed", "message"),
    [
        (True, {"a": torch.zeros(2, 4)}, "a is float32, want int8"),
        (True, {"a": torch.zeros(2, 5).char()}, r"a has shape \[2, 5\], want 4 in dimension 1"),
        (True, {"c": torch.zeros(2, 3).int()}, "c is int32, want float32 or bfloat16 or float16"),
        (True, {"c": torch.zeros(3, 3)}, r"c has shape \[3, 3\], want 2 in dimension 0"),
        (True, {"a_scales": torch.ones(3)}, "a_scales has 3 values, want 1 or one per row of a"),
        (False, {"a_scales": torch.ones(2)}, "a_scales has 2 values, want 1; the handle was"),
        (True, {"a_scales": torch.ones(2).half()}, "a_scales is float16, want float32"),
        (True, {"azp": None}, "azp is absent, but the handle was created with use_azp=True"),
        (True, {"azp": torch.ones(2)}, "azp is float32, want int32"),
        (False, {"azp": torch.ones(2).int()}, "azp has 2 values, want 1; the handle was"),
        (True, {"azp_adj": torch.ones(2)}, r"azp_adj has 2 values, want one per column \(3\)"),
        (True, {"azp_adj": torch.ones(3).half()}, "azp_adj is float16, want float32 or int32"),
        (True, {"bias": torch.ones(3).half()}, "bias is float16, want float32 as c"),
        (True, {"bias": torch.ones(4)}, r"bias has shape \[4\], want 3 in dimension 0"),
    ],
)
def test_bad_operands(dynamic: bool, changed: dict[str, torch.Tensor], message: str) -> None:
    good = {
        "c": torch.zeros(2, 3),
        "a": torch.zeros(2, 4, dtype=torch.int8),
        "a_scales": torch.ones(1),
        "azp": torch.ones(1, dtype=torch.int32),
        "azp_adj": None,
        "bias": None,
    }
    number = ops.create_onednn_scaled_mm_handler(
        torch.zeros(4, 3, dtype=torch.int8), torch.ones(1), torch.float32, dynamic, True, 0
    )
    try:
        with pytest.raises(RuntimeError, match=f"onednn_scaled_mm: {message}"):
            ops.onednn_scaled_mm(**{**good, **changed}, handler_tensor=torch.tensor([number]))
    finally:
        ops.release_dnnl_matmul_handler(number)


def test_handle_of_the_other_kind_and_unwanted_zero_points() -> None:
    c, a = torch.empty(1, 2), torch.zeros(1, 3, dtype=torch.int8)
    plain = ops.create_onednn_mm_handler(torch.empty(3, 2), 0)
    with pytest.raises(RuntimeError, match=r"onednn_scaled_mm: handle .* without scales"):
        ops.onednn_scaled_mm(c, a, torch.ones(1), None, None, None, torch.tensor([plain]))
    ops.release_dnnl_matmul_handler(plain)
    symmetric = ops.create_onednn_scaled_mm_handler(
        a.new_zeros(3, 2), torch.ones(1), torch.float32, True, False, 0
    )
    azp = torch.ones(1, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"azp is given, but .* use_azp=False"):
        ops.onednn_scaled_mm(c, a, torch.ones(1), azp, None, None, torch.tensor([symmetric]))
    ops.release_dnnl_matmul_handler(symmetric)
