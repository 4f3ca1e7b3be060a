"""bmm_cpu against float64 PyTorch, per tier."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ..common.sampled import with_dtypes
from .test_packed import E4M3, check

ops = torch.ops.vllm_kernels
# Matrices, rows, K, columns: fewer and more matrices than threads; whole panels and narrower ones.
SHAPES = [(16, 1, 128, 512), (3, 5, 512, 128), (1, 40, 130, 70), (2, 3, 33, 7), (20, 17, 64, 64)]


def operands(
    batches: int, m: int, k: int, n: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the engine passes them: heads of tokens, transposed, with a gap behind each."""
    a = torch.randn(m, batches, k + 8).to(dtype)[..., :k].transpose(0, 1)
    out = torch.full((m, batches, n + 4), float("nan"), dtype=dtype)[..., :n].transpose(0, 1)
    return a, out


@with_dtypes("shape", SHAPES)
def test_products(tier: str, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    batches, m, k, n = shape
    a, out = operands(batches, m, k, n, dtype)
    weight = torch.randn(batches, n, k).to(dtype)
    ops.bmm_cpu(out, a, ops.convert_weight_packed(weight), True, None)
    for i in range(batches):
        check(out[i], a[i], weight[i])
    behind = out.transpose(0, 1).as_strided((m, batches, 4), out.transpose(0, 1).stride(), n)
    assert behind.isnan().all()
    # Packed in the call, from weights in another order.
    plain = torch.empty_like(out)
    ops.bmm_cpu(plain, a, weight.transpose(1, 2).contiguous().transpose(1, 2), False, None)
    assert torch.equal(plain, out)


@with_dtypes("shape", SHAPES)
def test_float8(tier: str, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    batches, m, k, n = shape
    a, out = operands(batches, m, k, n, dtype)
    weight, scale = (torch.randn(batches, n, k) * 20).to(E4M3), torch.tensor(0.0123)
    for packed, is_packed in ((ops.convert_weight_packed(weight), True), (weight, False)):
        ops.bmm_cpu(out, a, packed, is_packed, scale)
        for i in range(batches):
            check(out[i], a[i], weight[i].double() * scale.double())


def test_many_threads(tier: str) -> None:
    """The result does not depend on how the matrices are shared out."""
    a, out = operands(12, 9, 96, 130, torch.bfloat16)
    packed = ops.convert_weight_packed(torch.randn(12, 130, 96).bfloat16())
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 4, 13):
            torch.set_num_threads(count)
            ops.bmm_cpu(out, a, packed, True, None)
            found.append(out.clone())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)])
def test_nothing_to_do(tier: str, shape: tuple[int, int, int, int]) -> None:
    batches, m, k, n = shape
    out = torch.ones(batches, m, n)
    ops.bmm_cpu(out, torch.zeros(batches, m, k), torch.zeros(batches, n, k), False, None)
    assert not out.any()


BAD: dict[str, dict[str, Any]] = {
    "mat1 is int8, want float32": {"mat1": torch.zeros(2, 3, 8, dtype=torch.int8)},
    "mat1 has shape": {"mat1": torch.zeros(3, 8)},
    "mat2 is bfloat16, want float32 as mat1": {"mat2": torch.zeros(2, 4, 8).bfloat16()},
    "mat2 has shape .*, want 2 in dimension 0": {"mat2": torch.zeros(3, 4, 8)},
    "mat2 has shape .*, want 8 in dimension 2": {"mat2": torch.zeros(2, 4, 9)},
    "mat2 .*contiguous": {"mat2": torch.zeros(2, 8, 4).transpose(1, 2)},
    "out is float16, want float32 as mat1": {"out": torch.zeros(2, 3, 4).half()},
    "out has shape .*, want 4 in dimension 2": {"out": torch.zeros(2, 3, 5)},
    "mat2 of shape .* needs more memory than this machine has": {
        "mat1": torch.zeros(2, 3, 1 << 20),
        "mat2": torch.zeros(1, 1, 1).expand(2, 1 << 20, 1 << 20),
        "out": torch.full((2, 3, 1 << 20), 7.0),
        "is_vnni": False,
    },
    "scale is given, want none": {"scale": torch.ones(())},
    "scale is missing, want one with mat2 of float8": {"mat2": torch.zeros(2, 4, 8).to(E4M3)},
    "scale has 2 values, want 1": {
        "mat2": torch.zeros(2, 4, 8).to(E4M3),
        "scale": torch.ones(2),
    },
    "scale is float64, want float32": {
        "mat2": torch.zeros(2, 4, 8).to(E4M3),
        "scale": torch.ones(()).double(),
    },
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_in_one_sentence(message: str) -> None:
    args: dict[str, Any] = {
        "out": torch.full((2, 3, 4), 7.0),
        "mat1": torch.zeros(2, 3, 8),
        "mat2": torch.zeros(2, 4, 8),
        "is_vnni": True,
        "scale": None,
    }
    args.update(BAD[message])
    before = args["out"].clone()
    with pytest.raises(RuntimeError, match=f"^bmm_cpu: {message}"):
        ops.bmm_cpu(**args)
    assert torch.equal(args["out"], before), "a refused call must not write"
