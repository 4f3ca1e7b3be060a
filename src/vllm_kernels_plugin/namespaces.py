"""Under which of its namespaces the engine calls an op: the one table of that."""

from __future__ import annotations

DEFAULT = "_C"

_ELSEWHERE: dict[str, frozenset[str]] = {
    "_C_cache_ops": frozenset(
        {
            "concat_and_cache_mla",
            "concat_and_cache_mla_rope_fused",
            "concat_mla_q",
            "convert_fp8",
            "cp_gather_and_upconvert_fp8_kv_cache",
            "cp_gather_cache",
            "cp_gather_indexer_k_quant_cache",
            "gather_and_maybe_dequant_cache",
            "indexer_k_quant_and_cache",
            "reshape_and_cache",
            "reshape_and_cache_flash",
            "swap_blocks",
            "swap_blocks_batch",
        }
    ),
    "_C_cuda_utils": frozenset(
        {"get_device_attribute", "get_max_shared_memory_per_block_device_attribute"}
    ),
    "_C_custom_ar": frozenset(
        {
            "all_reduce",
            "allocate_shared_buffer_and_handle",
            "dispose",
            "free_shared_buffer",
            "get_graph_buffer_ipc_meta",
            "init_custom_ar",
            "meta_size",
            "open_mem_handle",
            "register_buffer",
            "register_graph_buffers",
        }
    ),
    "_moe_C": frozenset(
        {
            "batched_moe_align_block_size",
            "dsv3_router_gemm",
            "grouped_topk",
            "moe_align_block_size",
            "moe_lora_align_block_size",
            "moe_permute",
            "moe_permute_sort_workspace_size",
            "moe_permute_unpermute_supported",
            "moe_permute_with_scratch",
            "moe_sum",
            "moe_unpermute",
            "moe_wna16_gemm",
            "moe_wna16_marlin_gemm",
            "shuffle_rows",
            "topk_sigmoid",
            "topk_softmax",
            "topk_softplus_sqrt",
        }
    ),
}
_OF = {op: name for name, ops in _ELSEWHERE.items() for op in ops}

# Ours alone, under `vllm_kernels`: called by the plugin's own modules, or no longer by the engine.
OURS = frozenset({"sparse_compress", "sparse_scaled_mm", "varlen_attention"})


def of(op: str) -> str:
    """The engine's namespace of ``op``."""
    return _OF.get(op, DEFAULT)


def everything() -> tuple[str, ...]:
    """All of the engine's namespaces."""
    return (DEFAULT, *_ELSEWHERE)
