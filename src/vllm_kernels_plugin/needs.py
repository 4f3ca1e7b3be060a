"""Ops that only some models or options need, and the refusal where one is missing.

The engine would find out in a worker process, with a traceback that names an attribute of
`torch.ops`. Checked here, while the configuration is made, it becomes a sentence in the user's own
process.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vllm_kernels import engine_api
from vllm_kernels_plugin import asked, deep_gemm, latent_cpu
from vllm_kernels_plugin.errors import PluginError

if TYPE_CHECKING:
    from vllm.config import VllmConfig


@dataclass(frozen=True)
class Need:
    """What a model or an option requires.

    Attributes:
        feature: How the user knows it.
        ops: Ops of the engine's namespaces that it calls; none where no engine has them.
        applies: Whether a ``VllmConfig`` asks for it.
        remedy: What to do without them.
    """

    feature: str
    ops: tuple[str, ...]
    applies: asked.Applies
    remedy: str


CPU_NEEDS = (
    Need(
        "sparse attention to keys that it selects",
        (),
        asked.selects_keys,
        "use a Hopper GPU with vllm-deepgemm and vllm-flashmla, or another model",
    ),
    Need(
        "4-bit weights",
        ("cpu_gemm_wna16",),
        asked.int4_weights,
        "use a checkpoint in bfloat16 or with int8 weights and activations",
    ),
    Need(
        "4-bit weights of experts",
        ("fused_experts_cpu", "convert_weight_packed_scale_zp"),
        lambda config: asked.int4_weights(config) and asked.experts(config),
        "use a checkpoint in bfloat16",
    ),
    Need(
        f"{asked.W4A8_VARIABLE}=1",
        ("convert_weight_packed_scale_zp", "int4_scaled_mm_cpu"),
        lambda config: asked.int4_weights(config) and asked.switched_on(asked.W4A8_VARIABLE),
        f"unset {asked.W4A8_VARIABLE}",
    ),
    Need(
        # By Marlin alone, which is for GPUs.
        "products of FP4 weights (NVFP4)",
        (),
        asked.fp4_weights,
        "use a checkpoint in bfloat16 or with weights in float8 or 4-bit integers",
    ),
    Need(
        "float8 weights",
        ("fp8_scaled_mm_cpu",),
        asked.fp8,
        "use a checkpoint in bfloat16 or with int8 weights and activations",
    ),
    Need(
        # Layers that the engine fuses get their common scale while the weights are loaded.
        "float8 weights with one scale a tensor",
        ("static_scaled_fp8_quant", "dynamic_scaled_fp8_quant"),
        asked.fp8_per_tensor,
        "use a checkpoint with scales per block or channel, or in bfloat16",
    ),
    Need(
        "float8 weights of experts",
        ("fused_experts_cpu",),
        lambda config: asked.fp8(config) and asked.experts(config),
        "use a checkpoint in bfloat16",
    ),
    Need(
        "int8 weights and activations",
        ("create_onednn_scaled_mm_handler", "onednn_scaled_mm", "dynamic_scaled_int8_quant"),
        asked.int8,
        "use a checkpoint in bfloat16",
    ),
    Need(
        "latent attention",
        ("mla_decode_kvcache",),
        asked.latent,
        "unset VLLM_MLA_DISABLE or set it to 1",
    ),
    Need(
        "gated delta net layers",
        ("causal_conv1d_fwd_cpu", "chunk_gated_delta_rule_cpu"),
        asked.linear_attention,
        "use a model whose layers are attention only",
    ),
    Need(
        # Engines before 0.27 have no such ops on a CPU.
        "state-space layers (Mamba 2)",
        ("mamba_chunk_scan_fwd_cpu", "selective_state_update_cpu"),
        asked.of(asked.MAMBA2),
        "use vLLM 0.27 or newer, or a model whose layers are attention only",
    ),
    Need(
        "state-space layers (Mamba)",
        (),
        asked.of(asked.MAMBA),
        "use a GPU, or a model whose layers are attention only or Mamba 2",
    ),
    Need(
        "speculative decoding",
        (
            "rejection_greedy_sample_kernel_impl",
            "rejection_random_sample_kernel_impl",
            "sample_recovered_tokens_kernel_impl",
            "expand_kernel_impl",
        ),
        lambda config: config.speculative_config is not None,
        "leave --speculative-config out",
    ),
    Need(
        "speculative decoding with a drafting model",
        (
            "eagle_prepare_inputs_padded_kernel_impl",
            "eagle_prepare_next_token_padded_kernel_impl",
            "eagle_step_slot_mapping_metadata_kernel_impl",
        ),
        asked.drafting_model,
        'draft by n-grams: --speculative-config \'{"method": "ngram", ...}\'',
    ),
    Need(
        "drafting of several tokens at once",
        ("copy_and_expand_eagle_inputs_kernel_impl",),
        asked.drafts_at_once,
        'draft by n-grams: --speculative-config \'{"method": "ngram", ...}\'',
    ),
    Need(
        "VLLM_CPU_SGL_KERNEL=1",
        ("convert_weight_packed", "weight_packed_linear"),
        lambda config: asked.switched_on("VLLM_CPU_SGL_KERNEL"),
        "unset VLLM_CPU_SGL_KERNEL",
    ),
)


CUDA_NEEDS = (
    Need(
        "4-bit weights",
        ("gptq_marlin_repack", "awq_marlin_repack", "marlin_gemm"),
        asked.int4_weights,
        "use a checkpoint in bfloat16",
    ),
    Need(
        # By Marlin; layers whose sizes it does not take go to the engine's Triton kernel and, for a
        # few tokens, to moe_wna16_gemm.
        "4-bit weights of experts",
        ("moe_wna16_marlin_gemm", "moe_wna16_gemm"),
        lambda config: asked.int4_weights(config) and asked.experts(config),
        "use a checkpoint in bfloat16",
    ),
    Need(
        # The engine's only kernels for them, taken by the GPU's capability alone.
        "4-bit weights with float8 activations",
        ("cutlass_w4a8_mm", "cutlass_encode_and_reorder_int4b", "cutlass_pack_scale_fp8"),
        asked.int4_weights_fp8_activations,
        "use a checkpoint with 4-bit weights and 16-bit activations",
    ),
    Need(
        "4-bit weights of experts with float8 activations",
        ("cutlass_w4a8_moe_mm", "cutlass_encode_and_reorder_int4b_grouped"),
        lambda config: asked.int4_weights_fp8_activations(config) and asked.experts(config),
        "use a checkpoint with 4-bit weights and 16-bit activations",
    ),
    Need(
        "int8 weights and activations",
        ("cutlass_scaled_mm", "dynamic_scaled_int8_quant"),
        asked.int8,
        "use a checkpoint in bfloat16",
    ),
    Need(
        "float8 weights",
        ("dynamic_scaled_fp8_quant", "static_scaled_fp8_quant"),
        asked.fp8,
        "use a checkpoint in bfloat16",
    ),
    Need(
        "a mixture of experts",
        ("topk_softmax", "moe_align_block_size", "moe_sum"),
        asked.experts,
        "use a model without experts",
    ),
    Need(
        "grouped routing to experts",
        ("grouped_topk",),
        asked.grouped_routing,
        "use a model without grouped routing",
    ),
    Need(
        "latent attention",
        ("concat_and_cache_mla", "gather_and_maybe_dequant_cache", "merge_attn_states"),
        asked.latent,
        "set VLLM_MLA_DISABLE=1, which expands keys and values",
    ),
)
NEEDS = {"cpu": CPU_NEEDS, "cuda": CUDA_NEEDS}


def check(config: VllmConfig, device: str) -> None:
    """PluginError for the first feature of ``config`` whose ops are missing on ``device``."""
    model = config.model_config
    if model is None:
        return
    if device == "cpu" and model.use_mla and latent_backend(config) is None:
        raise PluginError(
            f"{_name(model)} would run with latent attention, for which this engine has no CPU "
            "backend (vLLM has from 0.32 on): unset VLLM_MLA_DISABLE or set it to 1"
        )
    for need in NEEDS[device]:
        missing = [op for op in need.ops if not is_served(op)]
        if (need.ops and not missing) or not need.applies(config):
            continue
        if not missing:
            raise PluginError(
                f"{_name(model)} needs {need.feature}, which no engine has on a {device.upper()}: "
                f"{need.remedy}"
            )
        raise PluginError(
            f"{_name(model)} needs the op {missing[0]} for {need.feature}, which the installed "
            f"{device.upper()} kernels do not have: {need.remedy}, or install a "
            f"vllm-kernels-{device} that has it"
        )
    if device == "cuda":
        _check_indexer(config)
        _check_grouped_products(config)


def _check_grouped_products(config: Any) -> None:
    """The engine would call them when the first tokens reach the experts."""
    if deep_gemm.problem() is not None or not (asked.experts(config) and asked.fp8(config)):
        return
    if (problem := deep_gemm.experts_problem()) is None:
        return
    by = ""
    if getattr(getattr(config, "kernel_config", None), "moe_backend", None) == deep_gemm.NAME:
        by = f"--moe-backend {deep_gemm.NAME}"
    elif asked.switched_on(deep_gemm.EXPERTS_VARIABLE):
        by = f"{deep_gemm.EXPERTS_VARIABLE}={os.environ[deep_gemm.EXPERTS_VARIABLE]}"
    if by:
        raise PluginError(
            f"{_name(config.model_config)} would run its experts on DeepGEMM ({by}), whose "
            f"grouped products have no kernel here ({problem}): leave that out"
        )


def _check_indexer(config: Any) -> None:
    """The engine has nothing but DeepGEMM for it, and says so while the model is built."""
    if not asked.selects_keys(config) or importlib.util.find_spec(deep_gemm.NAME):
        return
    raise PluginError(
        f"{_name(config.model_config)} selects keys for sparse attention with functions of "
        f"DeepGEMM, which nothing provides ({deep_gemm.problem()}): on a Hopper GPU, `conda "
        "install vllm-deepgemm vllm-flashmla`"
    )


def latent_backend(config: VllmConfig) -> Any:
    """The engine's backend of latent attention for any CPU; None where it has none.

    Those of 0.28 to 0.31 are of no use there: see latent_cpu.CHOICE.
    """
    try:
        from vllm.platforms.cpu import CpuPlatform
        from vllm.v1.attention.backends.registry import AttentionBackendEnum
    except ImportError:
        return None
    if latent_cpu.CHOICE not in vars(CpuPlatform):
        return None
    if getattr(AttentionBackendEnum, "CPU_MLA", None) is None:
        return None
    if not all(map(is_served, latent_cpu.OPS)):
        return AttentionBackendEnum.CPU_MLA
    return latent_cpu.backend(config, AttentionBackendEnum)


def is_served(op: str) -> bool:
    """Whether the engine finds ``op`` in its namespace."""
    # What ops.def does not have, the engine would call in its main namespace.
    return hasattr(getattr(torch.ops, engine_api.namespace_of(op) or "_C"), op)


def _name(model: Any) -> str:
    kinds = getattr(model.hf_config, "architectures", None) or ["an unknown architecture"]
    return f"The model {model.model} ({kinds[0]})"
