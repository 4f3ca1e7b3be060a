"""References of the caches of sparse latent attention (DeepSeek-V3.2, 2025).

A block of the indexer's holds the float8_e4m3fn keys of its slots, and behind them their float32
scales.
"""

from __future__ import annotations

import torch

from vllm_kernels.reference.quant import next_power_of_two


def parts(kv_cache: torch.Tensor, head: int, scales: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes of the blocks' keys [blocks, block_size, head] and scales [.., scales]; views."""
    blocks, block_size, entry = kv_cache.shape
    flat = kv_cache.view(torch.uint8).view(blocks, block_size * entry)
    keys = flat[:, : block_size * head].view(blocks, block_size, head)
    rest = flat[:, block_size * head : block_size * (head + scales)]
    return keys, rest.view(blocks, block_size, scales)


def indexer_k_quant_and_cache(
    k: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    quant_block_size: int,
    kv_cache_dtype: str,
) -> None:
    """Quantise each token's key and write it into its slot.

    Args:
        k: [tokens, head], float32, bfloat16 or float16.
        kv_cache: uint8 [blocks, block_size, at least head + head / quant_block_size * 4].
        slot_mapping: int64, at most ``tokens`` elements; slots that are not there are skipped.
        quant_block_size: Elements of a scale: 32, 64 or 128.
        kv_cache_dtype: The scales' format: "ue8m0" rounds them up to powers of two.
    """
    head = k.shape[1]
    groups = head // quant_block_size
    keys, scales = parts(kv_cache, head, groups * 4)
    slots = kv_cache.shape[0] * kv_cache.shape[1]
    kept = ((slot_mapping >= 0) & (slot_mapping < slots)).nonzero().flatten()
    block = slot_mapping[kept] // kv_cache.shape[1]
    slot = slot_mapping[kept] % kv_cache.shape[1]
    x = k[kept].float().unflatten(1, (groups, quant_block_size))
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-4) / torch.tensor(448.0, device=k.device)
    if kv_cache_dtype == "ue8m0":
        scale = next_power_of_two(scale)
    quantised = (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
    keys[block, slot] = quantised.flatten(1).view(torch.uint8)
    scales[block, slot] = scale.flatten(1).contiguous().view(torch.uint8)


def cp_gather_indexer_k_quant_cache(
    kv_cache: torch.Tensor,
    dst_k: torch.Tensor,
    dst_scale: torch.Tensor,
    block_table: torch.Tensor,
    cu_seq_lens: torch.Tensor,
) -> None:
    """Keys and scales of all tokens of the sequences, one behind the other.

    Args:
        kv_cache: uint8 [blocks, block_size, bytes].
        dst_k: [rows, head], one byte an element; rows of tokens are written.
        dst_scale: [rows, bytes of a slot's scales], any dtype; written alike.
        block_table: int32 [sequences, pages].
        cu_seq_lens: int32 [sequences + 1].
    """
    scale_bytes = dst_scale.shape[1] * dst_scale.element_size()
    keys, scales = parts(kv_cache, dst_k.shape[1], scale_bytes)
    starts = cu_seq_lens.long()
    total = min(int(starts[-1]), len(dst_k))
    token = torch.arange(total, device=dst_k.device)
    sequence = torch.searchsorted(starts[1:], token, right=True)
    position = token - starts[sequence]
    block = block_table[sequence, position // kv_cache.shape[1]].long()
    slot = position % kv_cache.shape[1]
    dst_k[:total] = keys[block, slot].view(dst_k.dtype)
    dst_scale[:total] = scales[block, slot].view(dst_scale.dtype)


def cp_gather_and_upconvert_fp8_kv_cache(
    src_cache: torch.Tensor,
    dst: torch.Tensor,
    block_table: torch.Tensor,
    workspace_starts: torch.Tensor,
    batch_size: int,
    seq_starts: torch.Tensor | None,
) -> None:
    """Entries in the format "fp8_ds_mla", of the first ``batch_size`` sequences, as bfloat16.

    Args:
        src_cache: uint8 [blocks, block_size, 656].
        dst: bfloat16 [tokens, 576]; written. Row t is of the last sequence that starts at or
            before t.
        block_table: int32 [sequences, pages].
        workspace_starts: int32 [sequences]: row of each sequence's first entry.
        batch_size: Sequences.
        seq_starts: int32 [sequences]: position of that entry; or None: 0.
    """
    starts = workspace_starts[:batch_size].long()
    token = torch.arange(len(dst), device=dst.device)
    sequence = torch.searchsorted(starts, token, right=True) - 1
    position = token - starts[sequence]
    if seq_starts is not None:
        position = position + seq_starts[sequence]
    block = block_table[sequence, position // src_cache.shape[1]].long()
    entry = src_cache.view(torch.uint8)[block, position % src_cache.shape[1]]
    latents = entry[:, :512].contiguous().view(torch.float8_e4m3fn).float()
    scales = entry[:, 512:528].contiguous().view(torch.float32)
    dst[:, :512] = (latents.unflatten(1, (4, 128)) * scales.unsqueeze(-1)).flatten(1).bfloat16()
    dst[:, 512:] = entry[:, 528:].contiguous().view(torch.bfloat16)
