"""Weights of 4 bits with float8 activations, against products in float64.

Weights and scales are made as the engine makes them of a checkpoint: signed words along K, float8
scales of groups, float32 ones of channels and tokens.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vllm_kernels.reference.wna16 import w4a8 as reference

ops = torch.ops.vllm_kernels

FLOAT8 = torch.float8_e4m3fn
GROUP = 128
# Two roundings to bfloat16, of sums in float32.
RTOL = 2 * 2.0**-8


def words_of(q: torch.Tensor) -> torch.Tensor:
    """Signed weights [K, N] as int32 words [K / 8, N], low bits first."""
    k, n = q.shape
    shifts = 4 * torch.arange(8, device=q.device)[None, :, None]
    packed = ((q.long() & 15).view(k // 8, 8, n) << shifts).sum(1)
    return (
        (packed & 0xFFFFFFFF).to(torch.int64).where(packed < 2**31, packed - 2**32).to(torch.int32)
    )


def made(k: int, n: int, group: int = GROUP) -> tuple[torch.Tensor, ...]:
    """Weights, words, scales of groups and of channels."""
    q = torch.randint(-8, 8, (k, n), device="cuda")
    scales = (torch.rand(k // group, n, device="cuda") * 50 + 0.1).to(FLOAT8)
    channels = torch.rand(n, device="cuda") * 1e-3 + 1e-5
    return q, words_of(q), scales, channels


def activations(m: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    a = (torch.randn(m, k, device="cuda") * 40).to(FLOAT8)
    return a, torch.rand(m, 1, device="cuda") * 1e-2 + 1e-4


def exact(
    a: torch.Tensor, tokens: torch.Tensor, weights: tuple[torch.Tensor, ...], group: int = GROUP
) -> torch.Tensor:
    q, _, scales, channels = weights
    weight = q.double() * scales.double().repeat_interleave(group, 0)
    return a.double() @ weight * channels.double() * tokens.double()


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    # Sums in float32 of up to thousands of products that cancel.
    atol = float(expected.abs().amax()) * 1e-4 if expected.numel() else 0.0
    torch.testing.assert_close(actual.double(), expected, rtol=RTOL, atol=atol)


@pytest.mark.parametrize(("k", "n"), [(128, 128), (512, 384), (4096, 256), (1024, 4096)])
@pytest.mark.parametrize("m", [0, 1, 7, 16, 17, 33, 64, 200, 3000])
def test_product(m: int, k: int, n: int) -> None:
    weights = made(k, n)
    a, tokens = activations(m, k)
    encoded = ops.cutlass_encode_and_reorder_int4b(weights[1].t().contiguous().t())
    packed = ops.cutlass_pack_scale_fp8(weights[2])
    c = ops.cutlass_w4a8_mm(a, encoded, packed, GROUP, weights[3], tokens, None, None)
    assert c.dtype == torch.bfloat16
    close(c, exact(a, tokens, weights))


@pytest.mark.parametrize("group", [64, 256])
def test_other_groups_and_strided_activations(group: int) -> None:
    weights = made(512, 256, group)
    wide, tokens = activations(40, 512 + 32)
    a = wide[:, 16 : 16 + 512]
    encoded = ops.cutlass_encode_and_reorder_int4b(weights[1])
    packed = ops.cutlass_pack_scale_fp8(weights[2])
    for rows in (3, 40):
        c = ops.cutlass_w4a8_mm(
            a[:rows], encoded, packed, group, weights[3], tokens[:rows], torch.bfloat16, "any"
        )
        close(c, exact(a[:rows], tokens[:rows], weights, group))


def test_preparation() -> None:
    """Bit for bit as the reference, which has another way there."""
    _, words, scales, _ = made(384, 192)
    turned = words.t().contiguous().t()
    for one in (words, turned):
        ours = ops.cutlass_encode_and_reorder_int4b(one)
        assert torch.equal(ours, reference.cutlass_encode_and_reorder_int4b(one))
    for one in (scales, scales[:1].contiguous(), scales.expand(3, -1, -1).contiguous()):
        ours, theirs = ops.cutlass_pack_scale_fp8(one), reference.cutlass_pack_scale_fp8(one)
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))
    experts = torch.stack([words.t(), words.flip(0).t(), words.t() * 3])
    ours, strides = ops.cutlass_encode_and_reorder_int4b_grouped(experts)
    theirs, lengths = reference.cutlass_encode_and_reorder_int4b_grouped(experts)
    assert torch.equal(ours, theirs)
    assert torch.equal(strides, lengths)


@pytest.mark.parametrize(
    "counts",
    [[1], [0, 3, 0, 1], [5, 40, 0, 130, 7], [300] * 8, [1] * 200, [2000, 0, 1]],
    ids=lambda counts: f"{len(counts)}x{counts[0]}",
)
@pytest.mark.parametrize("spare", [0, 5])
def test_experts(counts: list[int], spare: int) -> None:
    """Rows of no expert, the last ones, stay as they are."""
    k, n, experts = 256, 384, len(counts)
    weights = [made(k, n) for _ in range(experts)]
    rows = sum(counts)
    a, tokens = activations(rows + spare, k)
    encoded, strides = ops.cutlass_encode_and_reorder_int4b_grouped(
        torch.stack([one[1].t() for one in weights]).contiguous()
    )
    packed = ops.cutlass_pack_scale_fp8(torch.stack([one[2] for one in weights]))
    channels = torch.stack([one[3] for one in weights])[..., None]
    sizes = torch.tensor([[n, count, k] for count in counts], device="cuda", dtype=torch.int32)
    offsets = sizes[:, 1].long().cumsum(0) - sizes[:, 1]
    c = torch.full((rows + spare, n), 7.0, dtype=torch.bfloat16, device="cuda")
    none = torch.zeros(experts, dtype=torch.int64, device="cuda")
    ops.cutlass_w4a8_moe_mm(
        c,
        a,
        encoded,
        tokens,
        channels,
        packed,
        GROUP,
        offsets,
        sizes,
        none,
        strides,
        none,
        none,
        None,
    )
    for one, first, count in zip(weights, offsets.tolist(), counts, strict=True):
        part = slice(first, first + count)
        close(c[part], exact(a[part], tokens[part], one))
    assert bool((c[rows:] == 7).all())


def test_graph() -> None:
    weights = made(512, 256)
    a, tokens = activations(4, 512)
    encoded = ops.cutlass_encode_and_reorder_int4b(weights[1])
    packed = ops.cutlass_pack_scale_fp8(weights[2])
    arguments = (encoded, packed, GROUP, weights[3], tokens, None, None)
    ops.cutlass_w4a8_mm(a, *arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        c = ops.cutlass_w4a8_mm(a, *arguments)
    a.copy_(activations(4, 512)[0])
    graph.replay()
    close(c, exact(a, tokens, weights))


def test_bad_input(subtests: pytest.Subtests) -> None:
    _, words, scales, channels = made(256, 128)
    a, tokens = activations(2, 256)
    encoded, packed = (
        ops.cutlass_encode_and_reorder_int4b(words),
        ops.cutlass_pack_scale_fp8(scales),
    )
    encode, scale, mm = (
        "cutlass_encode_and_reorder_int4b",
        "cutlass_pack_scale_fp8",
        "cutlass_w4a8_mm",
    )
    given = [a, encoded, packed, 128, channels, tokens, None, None]

    def but(place: int, value: object) -> tuple[Any, ...]:
        return (*given[:place], value, *given[place + 1 :])

    cases: list[tuple[str, tuple[Any, ...], str]] = [
        (encode, (words[:4],), "b has 32 rows and 128 columns, want multiples of 64"),
        (encode, (words.float(),), "b is float32, want int32"),
        (scale, (scales.float(),), "scales is float32, want float8_e4m3fn"),
        (mm, but(3, 64), "group_scales is for 2 groups of 64, want those of 256 rows"),
        (mm, but(2, packed.view(torch.uint8)), "group_scales is not float8_e4m3fn"),
        (mm, but(6, torch.float16), "out_type is not bfloat16"),
        (mm, but(0, a.half()), "a is float16, want float8_e4m3fn"),
        (mm, but(4, channels[:5]), r"channel_scales has shape \[5\], want 128 elements"),
        (mm, but(0, a[:, :128]), "B has other rows than A has columns"),
    ]
    for name, arguments, message in cases:
        with subtests.test(message), pytest.raises(RuntimeError, match=f"{name}: {message}"):
            getattr(ops, name)(*arguments)


@pytest.mark.no_gpu
def test_reference() -> None:
    """Of the packed layouts, the product that the unpacked numbers give."""
    torch.manual_seed(1)
    q = torch.randint(-8, 8, (256, 128))
    scales = (torch.rand(2, 128) * 50).to(FLOAT8)
    channels, tokens = torch.rand(128), torch.rand(3, 1)
    a = (torch.randn(3, 256) * 9).to(FLOAT8)
    encoded = reference.cutlass_encode_and_reorder_int4b(words_of(q))
    packed = reference.cutlass_pack_scale_fp8(scales)
    c = reference.cutlass_w4a8_mm(a, encoded, packed, 128, channels, tokens, None, None)
    close(c, exact(a, tokens, (q, q, scales, channels)))
