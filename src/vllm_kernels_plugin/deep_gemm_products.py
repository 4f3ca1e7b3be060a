"""DeepGEMM's products with scales for blocks, and the layouts that they take, for deep_gemm.py.

Names, arguments, shapes and results are upstream's. What has no kernel is refused in a sentence.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

from vllm_kernels_plugin.errors import no_kernel

BLOCK = 128  # elements that share a scale
TMA_BYTES = 16
# Rows of the contiguous layout that have one expert. At the start they are the most: the engine
# asserts that they are as many as a block of scales, and sets fewer where these are enough.
ROWS = (16, 64, BLOCK)

Tensor: TypeAlias = torch.Tensor
Scaled: TypeAlias = tuple[Tensor, Tensor]

_rows = ROWS[-1]


def fp8_gemm_nt(
    a: Scaled,
    b: Scaled,
    d: Tensor,
    c: Tensor | None = None,
    recipe: tuple[int, ...] | None = None,
    recipe_a: tuple[int, ...] | None = None,
    recipe_b: tuple[int, ...] | None = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
) -> None:
    """Write ``a @ b.T`` to ``d``, by the kernel of ``cutlass_scaled_mm``.

    Args:
        a: float8 e4m3 ``[m, k]``, and float32 ``[m, ceil(k / 128)]`` of any strides.
        b: float8 e4m3 ``[n, k]``, and float32 ``[ceil(n / 128), ceil(k / 128)]``. n and k are
            multiples of 16.
        d: bfloat16 or float16 ``[m, n]``.
        recipe: (1, 128, 128), as are the other two, or None.
        compiled_dims: Not needed: nothing is compiled.
        disable_ue8m0_cast: Not needed: scales stay as they are on this GPU.

    Raises:
        NotImplementedError: A sum with ``c``, other blocks, packed scales.
    """
    name = "fp8_gemm_nt"
    if c is not None:
        no_kernel(name, "a sum with c")
    (left, left_scales), (right, right_scales) = _blocks(name, a, b, recipe, recipe_a, recipe_b)
    left_scales = get_mn_major_tma_aligned_tensor(left_scales)
    torch.ops.vllm_kernels.cutlass_scaled_mm(d, left, right.T, left_scales, right_scales.T, None)


def m_grouped_fp8_gemm_nt_contiguous(
    a: Scaled,
    b: Scaled,
    d: Tensor,
    m_indices: Tensor,
    recipe: tuple[int, ...] | None = None,
    recipe_a: tuple[int, ...] | None = None,
    recipe_b: tuple[int, ...] | None = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
    use_psum_layout: bool = False,
    expected_m_for_psum_layout: int | None = None,
) -> None:
    """Write each row of ``a`` times its expert's weights to ``d``.

    Args:
        a: float8 e4m3 ``[m, k]``, and float32 ``[m, ceil(k / 128)]`` of any strides.
        b: float8 e4m3 ``[experts, n, k]``, and float32 ``[experts, ceil(n / 128), ceil(k / 128)]``.
        d: bfloat16 ``[m, n]``. Of a block's rows behind its last one with an expert nothing is
            written.
        m_indices: int32 ``[m]``, the expert of each row, -1 for none: the same for as many rows as
            :func:`get_mk_alignment_for_contiguous_layout` says. With ``use_psum_layout`` int32
            ``[experts]``: where each expert's rows end. The first one's start at 0, the others' at
            the next multiple of that number.
        recipe: (1, 128, 128), as are the other two, or None.
        compiled_dims: Not needed: nothing is compiled.
        disable_ue8m0_cast: Not needed: scales stay as they are on this GPU.
        expected_m_for_psum_layout: About how many rows an expert has; not needed.

    Raises:
        NotImplementedError: Other blocks, packed scales.
    """
    name = "m_grouped_fp8_gemm_nt_contiguous"
    (left, left_scales), (right, right_scales) = _blocks(name, a, b, recipe, recipe_a, recipe_b)
    labels = _labels(m_indices, left.shape[0], _rows) if use_psum_layout else m_indices
    torch.ops.vllm_kernels.grouped_mm_labelled(
        d, left, left_scales, right, right_scales, labels, _rows
    )


def _labels(ends: Tensor, rows: int, alignment: int) -> Tensor:
    """The expert of each row, -1 for none, by where the experts' rows end."""
    row = torch.arange(rows, dtype=torch.int32, device=ends.device)
    # The first expert that ends behind the row; one more than there are where none does.
    expert = torch.searchsorted(ends, row, right=True, out_int32=True)
    starts = torch.zeros(len(ends) + 1, dtype=torch.int32, device=ends.device)
    starts[1:] = (ends + (alignment - 1)) // alignment * alignment
    found = (expert < len(ends)) & (row >= starts[expert])
    return torch.where(found, expert, -1)


def m_grouped_fp8_gemm_nt_masked(
    a: Scaled,
    b: Scaled,
    d: Tensor,
    masked_m: Tensor,
    expected_m: int,
    recipe: tuple[int, ...] | None = None,
    recipe_a: tuple[int, ...] | None = None,
    recipe_b: tuple[int, ...] | None = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
) -> None:
    """Write the first rows of each expert times its weights to ``d``.

    Args:
        a: float8 e4m3 ``[experts, m, k]``, and float32 ``[experts, m, ceil(k / 128)]`` of any
            strides.
        b: float8 e4m3 ``[experts, n, k]``, and float32 ``[experts, ceil(n / 128), ceil(k / 128)]``.
        d: bfloat16 ``[experts, m, n]``; other rows stay as they are.
        masked_m: int32 ``[experts]``, rows of each.
        expected_m: About how many, which decides on speed alone.
        recipe: (1, 128, 128), as are the other two, or None.
        compiled_dims: Not needed: nothing is compiled.
        disable_ue8m0_cast: Not needed: scales stay as they are on this GPU.

    Raises:
        NotImplementedError: Other blocks, packed scales.
    """
    name = "m_grouped_fp8_gemm_nt_masked"
    (left, left_scales), (right, right_scales) = _blocks(name, a, b, recipe, recipe_a, recipe_b)
    torch.ops.vllm_kernels.grouped_mm_counted(
        d, left, left_scales, right, right_scales, masked_m, expected_m
    )


def fp8_m_grouped_gemm_nt_masked(*rest: Any, **named: Any) -> None:
    """:func:`m_grouped_fp8_gemm_nt_masked`, as older callers spell it."""
    m_grouped_fp8_gemm_nt_masked(*rest, **named)


def _blocks(
    name: str, a: Scaled, b: Scaled, *recipes: tuple[int, ...] | None
) -> tuple[Scaled, Scaled]:
    """Both operands, with scales of the one kind that there is."""
    for recipe in recipes:
        if recipe is not None and tuple(recipe) not in ((1, 128, 128), (1, 128), (128, 128)):
            no_kernel(name, f"the recipe {tuple(recipe)} (only (1, 128, 128))")
    for _, scales in (a, b):
        _check_float(name, scales)
    return a, b


def _check_float(name: str, scales: Tensor) -> None:
    if scales.dtype != torch.float32:
        no_kernel(name, f"scales of {scales.dtype} (only torch.float32)")


# Layouts of scales


def get_tma_aligned_size(x: int, element_size: int) -> int:
    """``x`` elements of so many bytes, rounded up to multiples of 16 bytes."""
    step = TMA_BYTES // element_size
    return -(-x // step) * step


def get_mn_major_tma_aligned_tensor(sf: Tensor) -> Tensor:
    """Scales ``[..., rows, columns]``, float32, with columns contiguous and 16-byte aligned.

    Returns:
        ``sf`` itself where it is so already.
    """
    rows, columns = sf.shape[-2:]
    distance = get_tma_aligned_size(rows, sf.element_size())
    batch = sf.shape[:-2]
    aligned = sf.data_ptr() % TMA_BYTES == 0 and sf.stride()[-2:] == (1, distance)
    whole = not batch or sf.shape[0] == 1 or sf.stride(0) == distance * columns
    if aligned and whole:
        return sf
    copy = sf.new_empty((*batch, columns, distance)).mT[..., :rows, :]
    return copy.copy_(sf)


def transform_sf_into_required_layout(
    sf: Tensor,
    mn: int,
    k: int,
    recipe: tuple[int, ...],
    num_groups: int | None = None,
    is_sfa: bool | None = None,
    disable_ue8m0_cast: bool = False,
) -> Tensor:
    """Scales as the products take them.

    Args:
        sf: float32 ``[ceil(mn / rows), ceil(k / columns)]`` or that for each group.
        recipe: (rows, columns), or (rows of a, rows of b, columns).
        is_sfa: Whether they are of a; only with three numbers.

    Returns:
        Scales of single rows by columns (:func:`get_mn_major_tma_aligned_tensor`), those of blocks
        as they are, contiguous.

    Raises:
        NotImplementedError: Other blocks, packed scales.
        ValueError: A shape that does not belong to ``mn`` and ``k``.
    """
    name = "transform_sf_into_required_layout"
    rows, columns = recipe if len(recipe) == 2 else (recipe[0 if is_sfa else 1], recipe[2])
    if (rows, columns) not in ((1, BLOCK), (BLOCK, BLOCK)):
        no_kernel(name, f"blocks of {rows} x {columns} (only 1 x 128 and 128 x 128)")
    _check_float(name, sf)
    shape = (-(-mn // rows), -(-k // columns))
    wanted = shape if num_groups is None else (num_groups, *shape)
    if tuple(sf.shape) != wanted:
        raise ValueError(
            f"{name}: sf has shape {list(sf.shape)}, want {list(wanted)} for {mn} x {k} in blocks "
            f"of {rows} x {columns}"
        )
    return get_mn_major_tma_aligned_tensor(sf) if rows == 1 else sf.contiguous()


# The contiguous layout


def get_mk_alignment_for_contiguous_layout() -> int:
    """Rows of the contiguous layout that have one expert."""
    return _rows


def set_mk_alignment_for_contiguous_layout(rows: int) -> None:
    """Have the next products take the contiguous layout with so many rows of one expert.

    Raises:
        ValueError: No multiple of 16.
    """
    global _rows
    if rows <= 0 or rows % ROWS[0] != 0:
        raise ValueError(
            f"set_mk_alignment_for_contiguous_layout: {rows} rows, want a multiple of {ROWS[0]}"
        )
    _rows = rows


def get_theoretical_mk_alignment_for_contiguous_layout(
    expected_m: int | None = None, num_groups: int | None = None
) -> int:
    """Rows of one expert that waste little where experts have ``expected_m / num_groups`` rows."""
    if expected_m is None:
        return ROWS[-1]
    mean = -(-expected_m // (num_groups or 1))
    return next((rows for rows in ROWS if mean <= rows), ROWS[-1])
