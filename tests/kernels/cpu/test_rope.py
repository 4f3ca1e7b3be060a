"""rotary_embedding as a multiplication of complex numbers in float64, per tier."""

from __future__ import annotations

import pytest
import torch

ops = torch.ops.vllm_kernels

RTOL = {torch.float32: 2**-22, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
MAX_POSITION = 64


def cos_sin(rot_dim: int, dtype: torch.dtype) -> torch.Tensor:
    angle = torch.outer(
        torch.arange(MAX_POSITION, dtype=torch.float64),
        10000.0 ** -(torch.arange(rot_dim // 2, dtype=torch.float64) * 2 / rot_dim),
    )
    return torch.cat((angle.cos(), angle.sin()), -1).to(dtype)


def expected(
    positions: torch.Tensor,
    heads: torch.Tensor,  # [tokens, heads, head_size]
    cache: torch.Tensor,
    is_neox: bool,
    offset: int,
    inverse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The exact result, and the magnitudes that rounding errors scale with."""
    rot_dim = cache.shape[1]
    cos, sin = cache[positions.flatten()].double().chunk(2, -1)
    turn = torch.complex(cos, -sin if inverse else sin).unsqueeze(1)
    part = heads[..., offset : offset + rot_dim].double()
    pairs = part.unflatten(-1, (2, -1)).mT if is_neox else part.unflatten(-1, (-1, 2))
    turned = torch.view_as_real(torch.complex(pairs[..., 0], pairs[..., 1]) * turn)
    size = pairs.abs().sum(-1, keepdim=True).expand_as(pairs)
    result, bound = heads.double().clone(), torch.zeros_like(heads, dtype=torch.float64)
    for target, value in ((result, turned), (bound, size)):
        flat = value.mT.flatten(-2) if is_neox else value.flatten(-2)
        target[..., offset : offset + rot_dim] = flat
    return result, bound


def check(actual: torch.Tensor, exact: tuple[torch.Tensor, torch.Tensor]) -> None:
    want, size = exact
    bound = RTOL[actual.dtype] * want.abs() + 2**-22 * size + 1e-7 * (actual.dtype.itemsize == 2)
    error = (actual.double() - want).abs()
    assert bool((error <= bound).all()), (error - bound).max()
    assert torch.equal(actual[size == 0].double(), want[size == 0])  # not rotated: untouched


@pytest.mark.parametrize("is_neox", [True, False], ids=["neox", "gptj"])
@pytest.mark.parametrize("wide_cache", [False, True], ids=["cache-own", "cache-f32"])
@pytest.mark.parametrize(
    ("tokens", "head_size", "rot_dim", "offset"),
    [
        (1, 128, 128, 0),
        (5, 64, 64, 0),
        (3, 96, 40, 0),
        (300, 80, 32, 48),
        (2, 7, 2, 3),
        (0, 64, 64, 0),
    ],
)
@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
def test_rotary(
    tier: str,
    dtype: torch.dtype,
    tokens: int,
    head_size: int,
    rot_dim: int,
    offset: int,
    is_neox: bool,
    wide_cache: bool,
    inverse: bool,
) -> None:
    positions = torch.randint(0, MAX_POSITION, (tokens,))
    query = torch.randn(tokens, 4 * head_size).to(dtype)
    key = torch.randn(tokens, 2 * head_size).to(dtype)
    cache = cos_sin(rot_dim, torch.float32 if wide_cache else dtype)
    exact = [
        expected(positions, heads.unflatten(1, (-1, head_size)), cache, is_neox, offset, inverse)
        for heads in (query, key)
    ]
    ops.rotary_embedding(positions, query, key, head_size, cache, is_neox, offset, inverse)
    check(query.unflatten(1, (-1, head_size)), exact[0])
    check(key.unflatten(1, (-1, head_size)), exact[1])


@pytest.mark.parametrize("is_neox", [True, False], ids=["neox", "gptj"])
def test_strided(tier: str, dtype: torch.dtype, is_neox: bool) -> None:
    """Slices of a fused projection; 3-D with gaps between heads (DeepSeek: 64 of 192); no key."""
    tokens, head_size = 6, 64
    positions = torch.randint(0, MAX_POSITION, (tokens,))
    cache = cos_sin(head_size, torch.float32)
    qkv = torch.randn(tokens, 8 * head_size).to(dtype)
    before = qkv.clone()
    query, key, _ = qkv.split((4 * head_size, 2 * head_size, 2 * head_size), -1)
    exact = [
        expected(positions, x.reshape(tokens, -1, head_size), cache, is_neox, 0, False)
        for x in (query, key)
    ]
    ops.rotary_embedding(positions, query, key, head_size, cache, is_neox)
    check(query.reshape(tokens, -1, head_size), exact[0])
    check(key.reshape(tokens, -1, head_size), exact[1])
    assert torch.equal(qkv[:, 6 * head_size :], before[:, 6 * head_size :])

    wide = torch.randn(tokens, 4, 192).to(dtype)
    before = wide.clone()
    part = wide[..., 128:]
    assert part.stride() == (768, 192, 1)
    one = expected(positions, part, cache, is_neox, 0, False)
    ops.rotary_embedding(positions, part, None, head_size, cache, is_neox)
    check(part, one)
    assert torch.equal(wide[..., :128], before[..., :128])


def test_token_dimensions(tier: str) -> None:
    """Positions of two dimensions against flat and against two-dimensional tokens."""
    positions = torch.randint(0, MAX_POSITION, (2, 3))
    cache = cos_sin(32, torch.float32)
    flat = torch.randn(6, 4 * 32)
    want = flat.clone()
    ops.rotary_embedding(positions.flatten(), want, None, 32, cache, True)
    for shape in [(6, 128), (6, 4, 32), (2, 3, 128), (2, 3, 4, 32)]:
        query = flat.clone().view(shape)
        ops.rotary_embedding(positions, query, None, 32, cache, True)
        assert torch.equal(query.view(6, 128), want), shape
    strided = torch.empty(3, 2, 128).transpose(0, 1).copy_(flat.view(2, 3, 128))
    ops.rotary_embedding(positions, strided, None, 32, cache, True)
    assert torch.equal(strided.reshape(6, 128), want)


def test_extreme_values(tier: str, dtype: torch.dtype) -> None:
    """Infinities and NaNs stay in their pair; position 0 leaves every finite value as it is."""
    query = torch.zeros(1, 64, dtype=dtype)
    cache = cos_sin(64, torch.float32)
    tiny = torch.finfo(dtype).smallest_normal / 4
    values = [torch.finfo(dtype).max, -torch.finfo(dtype).max, tiny, -tiny, 0.0]
    query[0, : len(values)] = torch.tensor(values, dtype=dtype)
    want = query.clone()
    ops.rotary_embedding(torch.tensor([0]), query, None, 64, cache, True)
    assert torch.equal(query, want)
    query[0, 3], query[0, 4] = float("inf"), float("nan")
    ops.rotary_embedding(torch.tensor([1]), query, None, 64, cache, True)
    assert query[0, [3, 35]].isinf().all()
    assert query[0, [4, 36]].isnan().all()
    rest = [i for i in range(64) if i % 32 not in (3, 4)]
    assert query[0, rest].isfinite().all()


def test_matches_reference(tier: str, dtype: torch.dtype) -> None:
    from vllm_kernels.reference.rope import rotary_embedding

    positions = torch.randint(0, MAX_POSITION, (2, 3))
    for is_neox in (True, False):
        wide = torch.randn(6, 4, 96).to(dtype)
        query, key = wide[..., 20:84], torch.randn(2, 3, 128).to(dtype)
        other_query, other_key = wide.clone()[..., 20:84], key.clone()
        arguments = (64, cos_sin(48, dtype), is_neox, 8, True)
        ops.rotary_embedding(positions, query, key, *arguments)
        rotary_embedding(positions, other_query, other_key, *arguments)
        torch.testing.assert_close(query, other_query)
        torch.testing.assert_close(key, other_key)


def test_bad_input(subtests: pytest.Subtests) -> None:
    positions = torch.arange(4)
    query, key = torch.randn(4, 128), torch.randn(4, 64)
    cache = cos_sin(32, torch.float32)
    good = {
        "positions": positions,
        "query": query,
        "key": key,
        "head_size": 32,
        "cos_sin_cache": cache,
        "is_neox": True,
        "rope_dim_offset": 0,
        "inverse": False,
    }
    op = "rotary_embedding: "
    cases = [
        ({"positions": positions.int()}, "positions is int32, want int64"),
        ({"positions": torch.arange(8)[::2]}, "positions is not contiguous"),
        ({"positions": torch.tensor([0, 1, 64, 2])}, "positions has 64 at index 2, want 0 to 63"),
        ({"positions": torch.tensor([-1, 1, 2, 2])}, "positions has -1 at index 0, want 0 to 63"),
        ({"positions": torch.arange(3)}, r"query has shape \[4, 128\], want .* 3 tokens"),
        ({"query": query.double()}, "query is float64, want float32 or bfloat16 or float16"),
        ({"query": query.half()}, "key is float32, want float16 as query"),
        ({"query": torch.randn(128, 4).T}, "query has stride 4 in its last dimension, want 1"),
        (
            {"query": torch.randn(4, 100)},
            r"query has shape \[4, 100\], want a multiple",
        ),
        (
            {"query": torch.randn(4, 4, 16)},
            r"query has shape \[4, 4, 16\], want 32 in dimension -1",
        ),
        ({"query": torch.randn(4)}, r"query has shape \[4\], want"),
        ({"key": torch.randn(3, 64)}, r"key has shape \[3, 64\], want .* 4 tokens"),
        ({"head_size": 0}, "head_size is 0, want more than 0"),
        ({"head_size": 16}, "want it and the 32 rotated components within head_size 16"),
        ({"rope_dim_offset": 1}, "rope_dim_offset is 1, want"),
        ({"rope_dim_offset": -1}, "rope_dim_offset is -1, want"),
        ({"cos_sin_cache": cache.bfloat16()}, "cos_sin_cache is bfloat16, want float32 as query"),
        ({"cos_sin_cache": cache[:, :31]}, r"cos_sin_cache has shape \[64, 31\], want an even"),
        ({"cos_sin_cache": cache[0]}, r"cos_sin_cache has shape \[32\], want 2 dimensions"),
        ({"cos_sin_cache": cache[:, ::2]}, "cos_sin_cache has stride 2 in its last dimension"),
    ]
    before = query.clone()
    for change, message in cases:
        with subtests.test(message), pytest.raises(RuntimeError, match=op + ".*" + message):
            ops.rotary_embedding(*{**good, **change}.values())
    assert torch.equal(query, before)
