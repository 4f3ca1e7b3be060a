"""References of products with weights of 4 or 8 bits and activations of 16.

Repacked weights: words.py. GPTQ: Frantar et al. 2022; AWQ: Lin et al. 2023;
the product on repacked weights: "MARLIN", Frantar et al. 2024.
"""

from __future__ import annotations

import torch

from vllm_kernels.reference.float4 import e2m1
from vllm_kernels.reference.wna16.words import awq_columns, repack, split, unpack, unrepack

# The engine's ids of scalar types: exponent, mantissa, sign, bias, finite only, kind of NaN.
U4 = 4 << 8 | 1 << 50
U4B8 = 4 << 8 | 8 << 17 | 1 << 50
U8B128 = 8 << 8 | 128 << 17 | 1 << 50
FP8_E4M3 = 4 | 3 << 8 | 1 << 16 | 1 << 49 | 2 << 50
FP4_E2M1 = 2 | 1 << 8 | 1 << 16 | 1 << 49
_BITS = {U4: 4, U4B8: 4, U8B128: 8, FP8_E4M3: 8, FP4_E2M1: 4}
_NAMES = "uint4b8, uint4 with zero points, uint8b128, float8_e4m3fn and float4_e2m1"
# The factor that the engine gives NVFP4's global scales, as powers of two.
NVFP4_FACTOR = {torch.float16: 7, torch.bfloat16: 119}


def _check_repack(op: str, size_k: int, size_n: int, num_bits: int, is_a_8bit: bool) -> None:
    if is_a_8bit:
        raise RuntimeError(f"{op}: no kernel for activations of 8 bits (is_a_8bit)")
    if num_bits not in (4, 8):
        raise RuntimeError(f"{op}: num_bits is {num_bits}, want 4 or 8")
    if size_k % 64 or size_n % 64:
        raise RuntimeError(f"{op}: size_k x size_n is {size_k} x {size_n}, want multiples of 64")


def gptq_marlin_repack(
    b_q_weight: torch.Tensor,
    perm: torch.Tensor,
    size_k: int,
    size_n: int,
    num_bits: int,
    is_a_8bit: bool,
) -> torch.Tensor:
    """Repacked GPTQ weights, [size_k / 16, size_n * num_bits / 2] int32, for ``marlin_gemm``.

    Args:
        b_q_weight: [size_k * num_bits / 32, size_n], int32, packed along K.
        perm: [size_k] int32: row of ``b_q_weight`` for each row of the result; empty: as it is.
        size_k, size_n: Multiples of 64.
        num_bits: 4 or 8.
        is_a_8bit: Layout for 8-bit activations: RuntimeError, there is no kernel.
    """
    _check_repack("gptq_marlin_repack", size_k, size_n, num_bits, is_a_8bit)
    q = unpack(b_q_weight, num_bits, 0)
    return repack(q[perm.long()] if perm.numel() else q, num_bits)


def awq_marlin_repack(
    b_q_weight: torch.Tensor, size_k: int, size_n: int, num_bits: int, is_a_8bit: bool
) -> torch.Tensor:
    """As ``gptq_marlin_repack`` for AWQ weights [size_k, size_n * num_bits / 32]."""
    _check_repack("awq_marlin_repack", size_k, size_n, num_bits, is_a_8bit)
    return repack(awq_columns(b_q_weight, num_bits), num_bits)


def _unpermute_scales(scales: torch.Tensor, per_channel: bool) -> torch.Tensor:
    """Scales, zero points or a bias in the order of the columns again (last dimension)."""
    shape = (-1, 4, 4, 2) if per_channel else (-1, 8, 8)
    blocks = split(scales, -1, shape)
    return blocks.transpose(1 - len(shape), 2 - len(shape)).flatten(-len(shape))


def _fp8(bits: torch.Tensor) -> torch.Tensor:
    return bits.to(torch.uint8).view(torch.float8_e4m3fn).double()


def _fp4_scales(
    b_scales: torch.Tensor, global_scale: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Scales [groups, N] of MXFP4 or NVFP4, float64, for activations of ``dtype``."""
    if b_scales.dtype == torch.float8_e8m0fnu:
        exponents = b_scales.view(torch.uint8).int() - 127
        values = torch.ldexp(torch.ones_like(exponents, dtype=torch.float64), exponents)
    elif b_scales.dtype == torch.float8_e4m3fn:
        if global_scale is None or not global_scale.numel():
            raise RuntimeError("marlin_gemm: global_scale is absent, but NVFP4 weights want one")
        halves = (b_scales.view(torch.uint8).short() << 7).view(torch.float16).double()
        exponent = -7 - NVFP4_FACTOR[dtype]
        values = halves * (global_scale.double().reshape(()) * 2.0**exponent)
    else:
        raise RuntimeError(
            f"marlin_gemm: no kernel for float4_e2m1 weights with scales of {b_scales.dtype}"
        )
    fours = split(values, -1, (-1, 4))[..., [0, 2, 1, 3]]
    return _unpermute_scales(fours.flatten(-2), False)


def _marlin_weight(
    dtype: torch.dtype,
    b_q_weight: torch.Tensor,
    b_scales: torch.Tensor,
    global_scale: torch.Tensor | None,
    b_zeros: torch.Tensor | None,
    g_idx: torch.Tensor | None,
    b_type_id: int,
    size_n: int,
    size_k: int,
) -> torch.Tensor:
    """(q - zero) * scale [K, N], float64, for activations of ``dtype``."""
    bits = _BITS[b_type_id]
    q = unrepack(b_q_weight, bits, size_k, size_n)
    groups = b_scales.shape[0]
    if b_type_id == FP4_E2M1:
        scales = _fp4_scales(b_scales, global_scale, dtype)
        return e2m1(q).double() * scales.repeat_interleave(size_k // groups, 0)
    if global_scale is not None and global_scale.numel():
        raise RuntimeError("marlin_gemm: global_scale is given, but only NVFP4 weights want one")
    scales = _unpermute_scales(b_scales.double(), groups == 1)
    if b_type_id == FP8_E4M3:
        value = _fp8(q)
        scales = scales * 2.0 ** (-8 if b_scales.dtype == torch.float16 else -120)
    else:
        value = q.double()
    if g_idx is not None and g_idx.numel():
        group = g_idx.long()
    else:
        group = torch.arange(size_k, device=q.device) // (size_k // groups)
    if b_type_id == U4:
        if b_zeros is None or not b_zeros.numel():
            raise RuntimeError(
                "marlin_gemm: b_zeros is absent, but weights of type uint4 want them"
            )
        value = value - _unpermute_scales(awq_columns(b_zeros, 4).double(), False)[group]
    elif b_type_id in (U4B8, U8B128):
        value = value - (8 if b_type_id == U4B8 else 128)
    return value * scales[group]


def _check_marlin(
    op: str, b_type_id: int, a_scales: torch.Tensor | None, is_zp_float: bool
) -> None:
    if b_type_id not in _BITS:
        raise RuntimeError(f"{op}: no kernel for weights of id {b_type_id}, only for {_NAMES}")
    if a_scales is not None and a_scales.numel():
        raise RuntimeError(f"{op}: no kernel for a_scales")
    if is_zp_float:
        raise RuntimeError(f"{op}: no kernel for is_zp_float")


def marlin_gemm(
    a: torch.Tensor,
    c_or_none: torch.Tensor | None,
    b_q_weight: torch.Tensor,
    b_bias_or_none: torch.Tensor | None,
    b_scales: torch.Tensor,
    a_scales: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    b_zeros_or_none: torch.Tensor | None,
    g_idx_or_none: torch.Tensor | None,
    perm_or_none: torch.Tensor | None,
    workspace: torch.Tensor,
    b_type_id: int,
    size_m: int,
    size_n: int,
    size_k: int,
    is_k_full: bool,
    use_atomic_add: bool,
    use_fp32_reduce: bool,
    is_zp_float: bool,
) -> torch.Tensor:
    """``a[:, perm] @ ((q - zero) * scale) + bias``, summed in float64; [size_m, size_n].

    Optional tensors may be empty. Scales per group, zero points, scales per channel (one row) and
    the bias come in the permutations of the engine's ``marlin_permute_scales``,
    ``marlin_zero_points`` and ``marlin_permute_bias``.

    Args:
        a: [size_m, size_k], float16 or bfloat16.
        c_or_none: Where the result is written, or None for a new tensor.
        b_q_weight: Result of ``gptq_marlin_repack`` or ``awq_marlin_repack``.
        b_bias_or_none: [size_n], dtype of a.
        b_scales: [groups, size_n], dtype of a; those of FP8 weights bring the factor 2^8 (float16)
            or 2^120 (bfloat16). Of FP4, after ``mxfp4_marlin_process_scales``, float8_e8m0fnu for
            each 32 of K, or after ``nvfp4_marlin_process_scales``, for each 16 of K bits 14 to 7 of
            the scale times 2^7 in float16, given as float8_e4m3fn.
        a_scales: Of activations of 8 bits; RuntimeError where given.
        global_scale: Of NVFP4 weights: one float32, which brings the factor 2^7 (float16) or 2^119
            (bfloat16).
        b_zeros_or_none: [groups, size_n / 8] int32, for uint4.
        g_idx_or_none: [size_k] int32, ascending: group of each row of K.
        perm_or_none: [size_k] int32: column of ``a`` for each row of K.
        workspace: Not used here.
        b_type_id: The engine's id of uint4, uint4b8, uint8b128, float8_e4m3fn or float4_e2m1f.
        is_k_full, use_atomic_add, use_fp32_reduce: Choices of speed.
        is_zp_float: Floating zero points; RuntimeError.

    Raises:
        RuntimeError: No kernel for the format.
    """
    _check_marlin("marlin_gemm", b_type_id, a_scales, is_zp_float)
    weight = _marlin_weight(
        a.dtype, b_q_weight, b_scales, global_scale, b_zeros_or_none, g_idx_or_none, b_type_id,
        size_n, size_k,
    )  # fmt: skip
    ordered = a.double()
    if perm_or_none is not None and perm_or_none.numel():
        ordered = ordered[:, perm_or_none.long()]
    result = _with_bias(ordered @ weight, b_bias_or_none).to(a.dtype)
    return result if c_or_none is None else c_or_none.copy_(result)


def _with_bias(product: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if bias is None or not bias.numel():
        return product
    return product + _unpermute_scales(bias.double(), True)


def moe_wna16_marlin_gemm(
    a: torch.Tensor,
    c_or_none: torch.Tensor | None,
    b_q_weight: torch.Tensor,
    b_bias_or_none: torch.Tensor | None,
    b_scales: torch.Tensor,
    a_scales: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    b_zeros_or_none: torch.Tensor | None,
    g_idx_or_none: torch.Tensor | None,
    perm_or_none: torch.Tensor | None,
    workspace: torch.Tensor,
    sorted_token_ids: torch.Tensor,
    expert_ids: torch.Tensor,
    num_tokens_past_padded: torch.Tensor,
    topk_weights: torch.Tensor,
    moe_block_size: int,
    top_k: int,
    mul_topk_weights: bool,
    b_type_id: int,
    size_m: int,
    size_n: int,
    size_k: int,
    is_full_k: bool,
    use_atomic_add: bool,
    use_fp32_reduce: bool,
    is_zp_float: bool,
    thread_k: int,
    thread_n: int,
    blocks_per_sm: int,
) -> torch.Tensor:
    """``marlin_gemm`` with weights per expert; [size_m * top_k, size_n].

    Row r of the result is the product of row ``r // top_k`` of ``a`` with the weights of the
    expert whose tile names r. Rows that no tile names, and those of expert -1, are not written
    (0 in a new tensor).

    Args:
        a, c_or_none, a_scales, workspace, b_type_id: As of ``marlin_gemm``.
        b_q_weight, b_bias_or_none, b_scales, b_zeros_or_none: As of ``marlin_gemm``, with a first
            dimension of experts.
        global_scale: As of ``marlin_gemm``, one for each expert.
        g_idx_or_none, perm_or_none: RuntimeError where given.
        sorted_token_ids: [places] int32: row of the result; from size_m * top_k on: none.
        expert_ids: [places / moe_block_size] int32: of each tile. These, ``sorted_token_ids`` and
            ``num_tokens_past_padded`` are trusted to be what moe_align_block_size makes.
        num_tokens_past_padded: One int32: places in use.
        topk_weights: size_m * top_k float32: factors of the rows, if mul_topk_weights.
        moe_block_size: Places in a tile, 1 to 64.
        is_full_k, use_atomic_add, use_fp32_reduce, thread_k, thread_n, blocks_per_sm: Not used.
    """
    if g_idx_or_none is not None and g_idx_or_none.numel():
        raise RuntimeError("moe_wna16_marlin_gemm: no kernel for act_order (g_idx) of experts")
    rows = size_m * top_k
    _check_marlin("moe_wna16_marlin_gemm", b_type_id, a_scales, is_zp_float)
    result = a.new_zeros((rows, size_n)) if c_or_none is None else c_or_none
    places = sorted_token_ids[: int(num_tokens_past_padded)].long()
    tiles = places.reshape(-1, moe_block_size)

    def of(tensor: torch.Tensor | None, expert: int) -> torch.Tensor | None:
        return tensor[expert] if tensor is not None and tensor.numel() else None

    for tile, expert in zip(tiles, expert_ids.tolist(), strict=False):
        named = tile[(tile >= 0) & (tile < rows)]
        if expert < 0 or not named.numel():
            continue
        weight = _marlin_weight(
            a.dtype, b_q_weight[expert], b_scales[expert], of(global_scale, expert),
            of(b_zeros_or_none, expert), None, b_type_id, size_n, size_k,
        )  # fmt: skip
        product = _with_bias(a[named // top_k].double() @ weight, of(b_bias_or_none, expert))
        if mul_topk_weights:
            product = product * topk_weights.reshape(-1)[named, None]
        result[named] = product.to(result.dtype)
    return result


def permute_cols(A: torch.Tensor, perm: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """A[:, perm], with A [M, K] of 16 bits and perm [K] int32."""
    return A[:, perm.long()]


def _gptq_weight(
    b_q_weight: torch.Tensor,
    b_gptq_qzeros: torch.Tensor,
    b_gptq_scales: torch.Tensor,
    group: torch.Tensor,
    use_v2_format: bool,
    bit: int,
) -> torch.Tensor:
    zeros = unpack(b_gptq_qzeros, bit, -1) + (0 if use_v2_format else 1)
    return (unpack(b_q_weight, bit, 0) - zeros[group]) * b_gptq_scales.double()[group]


def gptq_gemm(
    a: torch.Tensor,
    b_q_weight: torch.Tensor,
    b_gptq_qzeros: torch.Tensor,
    b_gptq_scales: torch.Tensor,
    b_g_idx: torch.Tensor,
    use_exllama: bool,
    use_v2_format: bool,
    bit: int,
) -> torch.Tensor:
    """``a @ ((q - zero) * scale)`` with GPTQ weights as a checkpoint holds them; [M, N].

    Args:
        a: [M, K], float16 or bfloat16.
        b_q_weight: [K * bit / 32, N] int32, packed along K; after ``gptq_shuffle`` if use_exllama.
        b_gptq_qzeros: [groups, N * bit / 32] int32, packed along N.
        b_gptq_scales: [groups, N], dtype of a.
        b_g_idx: [K] int32 or empty: with use_exllama column of a for each row of K (what
            ``gptq_shuffle`` was given), else group of each row.
        use_v2_format: Zero points are stored as they are, else minus 1.
        bit: 2, 3, 4 or 8.
    """
    size_k, groups = a.shape[1], b_gptq_scales.shape[0]
    index = b_g_idx.long()
    group = torch.arange(size_k, device=a.device) // max(size_k // groups, 1)
    if index.numel() and not use_exllama:
        group = index
    weight = _gptq_weight(b_q_weight, b_gptq_qzeros, b_gptq_scales, group, use_v2_format, bit)
    ordered = a.double()
    if index.numel() and use_exllama:
        ordered = ordered[:, index.clamp(0, max(size_k - 1, 0))]
    return (ordered @ weight).to(a.dtype)


def gptq_shuffle(q_weight: torch.Tensor, q_perm: torch.Tensor, bit: int) -> None:
    """Rows of K of GPTQ weights into the order ``q_perm`` (empty: as they are), in place.

    Args:
        q_weight: [K * bit / 32, N] int32; written.
        q_perm: [K] int32; numbers outside count as the nearest.
        bit: 2, 3, 4 or 8.
    """
    if not q_perm.numel():
        return
    rows = unpack(q_weight, bit, 0)
    rows = rows[q_perm.long().clamp(0, max(len(rows) - 1, 0))]
    # 32 rows fill whole words, whatever the number of bits: their sum as Python would write it.
    grouped = split(rows, 0, (-1, 32))
    words = torch.zeros(
        (grouped.shape[0], bit, rows.shape[1]), dtype=torch.int64, device=rows.device
    )
    for i in range(32):
        word, shift = divmod(i * bit, 32)
        words[:, word] |= grouped[:, i] << shift & 0xFFFFFFFF
        if shift + bit > 32:
            words[:, word + 1] |= grouped[:, i] >> (32 - shift)
    q_weight.copy_((words - ((words >> 31) << 32)).flatten(0, 1))


def awq_dequantize(
    _kernel: torch.Tensor,
    _scaling_factors: torch.Tensor,
    _zeros: torch.Tensor,
    split_k_iters: int,
    thx: int,
    thy: int,
) -> torch.Tensor:
    """``(q - zero) * scale`` [K, N] of AWQ weights of 4 bits, in the dtype of the scales.

    Args:
        _kernel: [K, N / 8] int32, packed along N.
        _scaling_factors: [groups, N], float16 or bfloat16.
        _zeros: [groups, N / 8] int32, packed as ``_kernel``.
        split_k_iters, thx, thy: Hints to the launch, not used.
    """
    return _awq_weight(_kernel, _scaling_factors, _zeros).to(_scaling_factors.dtype)


def _awq_weight(kernel: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    q, zero = awq_columns(kernel, 4), awq_columns(zeros, 4)
    group = torch.arange(q.shape[0], device=q.device) // (q.shape[0] // scales.shape[0])
    return (q - zero[group]) * scales.double()[group]


def awq_gemm(
    _in_feats: torch.Tensor,
    _kernel: torch.Tensor,
    _scaling_factors: torch.Tensor,
    _zeros: torch.Tensor,
    split_k_iters: int,
) -> torch.Tensor:
    """``_in_feats @ ((q - zero) * scale)``, [M, N]; weights as of ``awq_dequantize``."""
    weight = _awq_weight(_kernel, _scaling_factors, _zeros)
    return (_in_feats.double() @ weight).to(_in_feats.dtype)
