"""Every family that is compiled for AMD GPUs, emulated with waves of 32 and 64 lanes.

The references say what is right. No AMD GPU has run these kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch

from vllm_kernels.reference import activation, norm, quant, rope
from vllm_kernels.reference.cache import kv
from vllm_kernels.reference.moe_routing import order, topk
from vllm_kernels.reference.sampling import select

from .emulated import call, compile_family

FLOAT8 = torch.float8_e4m3fn
Family = Callable[[str], ctypes.CDLL]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Family:
    found: dict[str, ctypes.CDLL] = {}

    def load(name: str) -> ctypes.CDLL:
        if name not in found:
            found[name] = compile_family(name, tmp_path_factory.mktemp(name))
        return found[name]

    return load


@pytest.fixture(params=[32, 64], ids=["wave32", "wave64"])
def family(request: pytest.FixtureRequest, compiled: Family) -> Family:
    """Function from a family to its library, on a GPU with waves of that many lanes."""

    def load(name: str) -> ctypes.CDLL:
        library = compiled(name)
        ctypes.c_int.in_dll(library, "vk_emulated_wave").value = request.param
        return library

    return load


def near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to a rounding of the type, or up to one step of a few quantised values."""
    assert actual.dtype == expected.dtype
    if actual.dtype in (torch.bfloat16, torch.float16):
        torch.testing.assert_close(actual, expected, rtol=1.6e-2, atol=1e-3)
    elif actual.dtype == FLOAT8:
        ours, theirs = actual.float(), expected.float()
        assert torch.equal(ours.isnan(), theirs.isnan())
        different = ours.nan_to_num() != theirs.nan_to_num()
        assert different.float().mean() < 0.01
        torch.testing.assert_close(ours.nan_to_num(), theirs.nan_to_num(), rtol=0.13, atol=2**-8)
    else:
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 64), (5, 257), (2, 1024), (1, 5120)])
def test_norm(family: Family, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    library = family("norm")
    x, weight = torch.randn(shape).to(dtype), torch.randn(shape[1]).to(dtype)
    residual = torch.randn(shape).to(dtype)
    ours, theirs = torch.empty_like(x), torch.empty_like(x)
    call(library, "rms_norm", ours, x, weight, 1e-6)
    norm.rms_norm(theirs, x, weight, 1e-6)
    near(ours, theirs)
    ours, theirs = x.clone(), x.clone()
    other = residual.clone()
    call(library, "fused_add_rms_norm", ours, residual, weight, 1e-6)
    norm.fused_add_rms_norm(theirs, other, weight, 1e-6)
    near(ours, theirs)
    assert torch.equal(residual, other)


@pytest.mark.parametrize("quantized", [FLOAT8, torch.int8])
def test_norm_per_token(family: Family, dtype: torch.dtype, quantized: torch.dtype) -> None:
    library = family("norm")
    x, weight = torch.randn(3, 640).to(dtype), torch.randn(640).to(dtype)
    ours, theirs = (torch.empty(3, 640, dtype=quantized) for _ in range(2))
    scale, other = torch.empty(3, 1), torch.empty(3, 1)
    call(library, "rms_norm_dynamic_per_token_quant", ours, x, weight, scale, 1e-6, None, None)
    norm.rms_norm_dynamic_per_token_quant(theirs, x, weight, other, 1e-6, None, None)
    near(scale, other)
    if quantized == torch.int8:
        assert (ours.int() - theirs.int()).abs().max() <= 1
    else:
        near(ours, theirs)


@pytest.mark.parametrize("op", ["silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"])
@pytest.mark.parametrize("width", [64, 99])
def test_activation(family: Family, dtype: torch.dtype, op: str, width: int) -> None:
    """Against float64: PyTorch's float32 loses the tails that the kernels keep."""
    x = torch.randn(5, 2 * width).mul(4).to(dtype)
    ours = torch.empty(5, width, dtype=dtype)
    theirs = torch.empty(5, width, dtype=torch.float64)
    call(family("activation"), op, ours, x)
    getattr(activation, op)(theirs, x.double())
    near(ours, theirs.to(dtype))


def test_normal_distribution_of_float32_keeps_its_tail(family: Family) -> None:
    x = torch.cat([torch.linspace(-12, 12, 4000), torch.tensor([float("inf"), 0.0])])
    ours = torch.empty_like(x)[None]
    call(family("activation"), "gelu_and_mul", ours, torch.cat([x, torch.ones_like(x)])[None])
    exact = torch.special.erfc(x.double() / -(2**0.5)) / 2 * x.double()
    torch.testing.assert_close(ours[0].double(), exact, rtol=2e-6, atol=0.0)


def test_activation_of_rows_in_use(family: Family, dtype: torch.dtype) -> None:
    experts, rows, width = 5, 6, 384
    x = torch.randn(experts, rows, 2 * width).to(dtype)
    counts = torch.tensor([2, 0, 9, 1, -1], dtype=torch.int32)
    found = []
    for module in (None, activation):
        quantized = torch.full((experts, rows, width), 3.0).to(FLOAT8)
        scales = torch.full((experts, width // 128, rows), 7.0).mT
        arguments = (x, counts, quantized, scales, False)
        if module is None:
            call(family("activation"), "persistent_masked_m_silu_mul_quant", *arguments)
        else:
            module.persistent_masked_m_silu_mul_quant(*arguments)
        found.append((quantized, scales))
    for ours, theirs in zip(*found, strict=True):
        near(ours, theirs)


@pytest.mark.parametrize("neox", [True, False])
def test_rope(family: Family, dtype: torch.dtype, neox: bool) -> None:
    positions = torch.tensor([0, 3, 77, 5])
    cache = torch.randn(128, 64).to(dtype)
    query, key = torch.randn(4, 8 * 64).to(dtype), torch.randn(4, 2 * 64).to(dtype)
    others = query.clone(), key.clone()
    call(family("rope"), "rotary_embedding", positions, query, key, 64, cache, neox, 0, False)
    rope.rotary_embedding(positions, *others, 64, cache, neox, 0, False)
    near(query, others[0])
    near(key, others[1])


def test_quant(family: Family, dtype: torch.dtype) -> None:
    library = family("quant")
    x = torch.cat([torch.randn(4, 300), torch.full((1, 300), 1e-9), torch.zeros(1, 300)]).to(dtype)
    ours, theirs = torch.empty(6, 300, dtype=FLOAT8), torch.empty(6, 300, dtype=FLOAT8)
    scale, other = torch.zeros(1), torch.zeros(1)
    call(library, "dynamic_scaled_fp8_quant", ours, x, scale)
    quant.dynamic_scaled_fp8_quant(theirs, x, other)
    near(scale, other)
    near(ours, theirs)
    scales, others = torch.empty(6, 1), torch.empty(6, 1)
    call(library, "dynamic_per_token_scaled_fp8_quant", ours, x, scales, None)
    quant.dynamic_per_token_scaled_fp8_quant(theirs, x, others, None)
    near(scales, others)
    near(ours, theirs)


def test_float8_values_of_every_kind(family: Family) -> None:
    """All of float8's numbers, what lies half way between two of them, and what is too large."""
    every = torch.arange(256, dtype=torch.uint8).view(FLOAT8).float()
    numbers = every[~every.isnan()].sort().values
    middles = (numbers[1:] + numbers[:-1]) / 2
    x = torch.cat([numbers, middles, middles.nextafter(torch.tensor(1e9)), torch.tensor([1e9])])
    ours, scale = torch.empty(1, x.numel(), dtype=FLOAT8), torch.ones(1)
    call(family("quant"), "static_scaled_fp8_quant", ours, x[None], scale, None)
    expected = x.clamp(-448, 448).to(FLOAT8)
    assert torch.equal(ours[0].float(), expected.float())


def test_int8_by_a_scale_of_0(family: Family) -> None:
    x = torch.tensor([[3.0, -0.25, 0.0, float("inf"), float("nan")]])
    ours = torch.full(x.shape, 5, dtype=torch.int8)
    call(family("quant"), "static_scaled_int8_quant", ours, x, torch.zeros(1), None)
    assert ours.tolist() == [[127, -128, 0, 127, 0]]


@pytest.mark.parametrize("kind", ["auto", "fp8"])
def test_cache(family: Family, dtype: torch.dtype, kind: str) -> None:
    key, value = (torch.randn(5, 2, 64).to(dtype) for _ in range(2))
    slots = torch.tensor([3, -1, 17, 40, 8])
    stored = torch.uint8 if kind == "fp8" else dtype
    caches = [torch.zeros(4, 16, 2, 64, dtype=stored) for _ in range(4)]
    scales = torch.tensor([0.5]), torch.tensor([0.25])
    call(family("cache"), "reshape_and_cache_flash", key, value, *caches[:2], slots, kind, *scales)
    kv.reshape_and_cache_flash(key, value, caches[2], caches[3], slots, kind, *scales)
    for ours, theirs in zip(caches[:2], caches[2:], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("experts", [8, 60, 256])
def test_routing(family: Family, dtype: torch.dtype, experts: int) -> None:
    logits = torch.randn(9, experts).to(dtype)
    outs = [(torch.empty(9, 4), torch.empty(9, 4).int(), torch.empty(9, 4).int()) for _ in range(2)]
    library = family("moe_routing")
    call(library, "topk_softmax", *outs[0], logits, True, None)
    weights, indices, rows = outs[1]
    topk.topk_softmax(weights, indices, rows, logits, True, None)
    near(outs[0][0], outs[1][0])
    assert torch.equal(outs[0][1], outs[1][1])


@pytest.mark.parametrize(("tokens", "experts"), [(7, 8), (400, 60), (9000, 16)])
def test_sort_by_expert(family: Family, tokens: int, experts: int) -> None:
    """As many entries as one block sorts, and more."""
    ids = torch.randint(experts, (tokens, 2), dtype=torch.int32)
    room = tokens * 2 + experts * 15
    outs = [
        (
            torch.empty(room, dtype=torch.int32),
            torch.empty((room + 15) // 16, dtype=torch.int32),
            torch.empty(1, dtype=torch.int32),
            torch.empty(tokens * 2, dtype=torch.int32),
        )
        for _ in range(2)
    ]
    library = family("moe_routing")
    size = library.vk_cuda_moe_sort_workspace
    size.restype = ctypes.c_int64
    bytes_needed = size(ctypes.c_int64(ids.numel()), ctypes.c_int64(experts))
    workspace = torch.empty(bytes_needed, dtype=torch.int8)
    call(
        library, "moe_align_block_size", ids, experts, 16, *outs[0][:3], None, outs[0][3], workspace
    )
    order.moe_align_block_size(ids, experts, 16, *outs[1][:3], None, outs[1][3])
    used = int(outs[1][2])
    assert torch.equal(outs[0][2], outs[1][2])
    assert torch.equal(outs[0][0][:used], outs[1][0][:used])
    assert torch.equal(outs[0][1][: used // 16], outs[1][1][: used // 16])
    assert torch.equal(outs[0][3], outs[1][3])


def test_indices_that_name_nothing(family: Family) -> None:
    library = family("moe_routing")
    x, weights = torch.randn(3, 264), torch.rand(3, 2)
    index = torch.tensor([0, 3, -1, 2, 2**31 - 1, -(2**31)], dtype=torch.int32)
    ours, theirs = (torch.full((6, 264), -77.0) for _ in range(2))
    call(library, "shuffle_rows", x, index, ours)
    order.shuffle_rows(x, index, theirs)
    assert torch.equal(ours, theirs)
    for end in (2, 3, 2**40):
        ours, theirs = (torch.full((3, 264), float("nan")) for _ in range(2))
        arguments = (x, weights, index, torch.tensor([0, end]), 2)
        call(library, "moe_unpermute", *arguments, ours)
        order.moe_unpermute(*arguments, theirs)
        torch.testing.assert_close(ours, theirs)
    counts = torch.tensor([-1000, 3, 2**31 - 1, -(2**31), 5], dtype=torch.int32)
    sizes = (516, 129, 1)  # more than full experts would take, which stays
    outputs = [[torch.full((n,), -77, dtype=torch.int32) for n in sizes] for _ in range(2)]
    call(library, "batched_moe_align_block_size", 8, 4, counts, *outputs[0])
    order.batched_moe_align_block_size(8, 4, counts, *outputs[1])
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("result", [torch.float32, torch.bfloat16])
def test_matrix_product_of_a_router(family: Family, result: torch.dtype) -> None:
    a, b = torch.randn(5, 7168).bfloat16(), torch.randn(256, 7168).bfloat16()
    ours, theirs = (torch.empty(5, 256, dtype=result) for _ in range(2))
    call(family("moe_routing"), "small_gemm", "dsv3_router_gemm", ours, a, b)
    order.dsv3_router_gemm(theirs, a, b)
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=2e-3)


def test_top_k(family: Family) -> None:
    logits = torch.randn(3, 5000)
    starts = torch.tensor([0, 5, 100], dtype=torch.int32)
    ends = torch.tensor([5000, 700, 4100], dtype=torch.int32)
    ours = torch.empty(3, 512, dtype=torch.int32)
    call(family("sampling"), "top_k_per_row_prefill", logits, starts, ends, ours, 3, 5000, 1, 512)
    for row in range(3):
        valid = logits[row, starts[row] : ends[row]]
        assert set(ours[row].tolist()) == set(valid.topk(512).indices.tolist())


def test_penalties(family: Family, dtype: torch.dtype) -> None:
    logits = torch.randn(3, 1000).to(dtype)
    other = logits.clone()
    prompt, output = (torch.rand(3, 1000) < 0.1 for _ in range(2))
    penalties = torch.tensor([1.0, 1.3, 0.7]).to(dtype)
    arguments = (prompt, output, penalties)
    call(family("sampling"), "apply_repetition_penalties", logits, *arguments)
    select.apply_repetition_penalties_(other, *arguments)
    near(logits, other)
