"""Reference of the products with experts' 4-bit weights as they are stored."""

from __future__ import annotations

import torch


def _nibbles(packed: torch.Tensor, dim: int) -> torch.Tensor:
    """Elements 2 i and 2 i + 1 from the low and high bits of byte i, as int32."""
    both = torch.stack([packed & 15, packed >> 4], dim + 1)
    return both.flatten(dim, dim + 1).int()


def moe_wna16_gemm(
    input: torch.Tensor,
    output: torch.Tensor,
    b_qweight: torch.Tensor,
    b_scales: torch.Tensor,
    b_qzeros: torch.Tensor | None,
    topk_weights: torch.Tensor | None,
    sorted_token_ids: torch.Tensor,
    expert_ids: torch.Tensor,
    num_tokens_post_pad: torch.Tensor,
    top_k: int,
    BLOCK_SIZE_M: int,  # noqa: N803
    BLOCK_SIZE_N: int,  # noqa: N803
    BLOCK_SIZE_K: int,  # noqa: N803
    bit: int,
) -> torch.Tensor:
    """output[e] = input[e // top_k] @ ((q - zero) * scale)[expert of e] * topk_weights[e].

    Args:
        input: float16 or bfloat16 [tokens, k].
        output: [..., n] of tokens * top_k rows; written: entries of no expert here are 0.
        b_qweight: uint8 [experts, n, k / 2]; element 2 i in the low bits of byte i.
        b_scales: [experts, n, groups], input's dtype; k / groups a multiple of 32.
        b_qzeros: uint8 [experts, n / 2, groups], row 2 i in the low bits; or None: 8.
        topk_weights: float32, tokens * top_k elements, or None.
        sorted_token_ids: int32: entries in the order of their experts, in blocks; what is no
            whole block below num_tokens_post_pad is not used.
        expert_ids: int32: expert of each block, or -1.
        num_tokens_post_pad: int32 [1]: sorted entries with their padding.
        top_k: Entries of a row of the input.
        BLOCK_SIZE_M: Entries of a block.
        BLOCK_SIZE_N: Not used.
        BLOCK_SIZE_K: Not used.
        bit: 4.

    Returns:
        ``output``.
    """
    if bit != 4:
        raise RuntimeError(f"moe_wna16_gemm: bit is {bit}, want 4")
    n, k = b_qweight.shape[1], b_qweight.shape[2] * 2
    rows = output.view(-1, n)
    rows.zero_()
    group = k // b_scales.shape[2]
    used = min(len(sorted_token_ids), max(0, int(num_tokens_post_pad)))
    ids = sorted_token_ids[: used // BLOCK_SIZE_M * BLOCK_SIZE_M].long()
    owners = expert_ids.long().repeat_interleave(BLOCK_SIZE_M)[: len(ids)]
    for expert in owners.unique().tolist():
        if not 0 <= expert < len(b_qweight):
            continue
        entries = ids[owners == expert]
        entries = entries[(entries >= 0) & (entries < len(rows))]
        zeros = 8 if b_qzeros is None else _nibbles(b_qzeros[expert], 0)
        scales = b_scales[expert].repeat_interleave(group, 1)
        if isinstance(zeros, torch.Tensor):
            zeros = zeros.repeat_interleave(group, 1)
        weight = ((_nibbles(b_qweight[expert], 1) - zeros).float() * scales.float()).to(input.dtype)
        sums = input[entries // top_k].float() @ weight.float().t()
        if topk_weights is not None:
            sums = sums * topk_weights.flatten()[entries, None]
        rows[entries] = sums.to(output.dtype)
    return output
