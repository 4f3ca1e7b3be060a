"""Ops that only some models or options need, and the refusal where one is missing.

The engine would find out in a worker process, with a traceback that names an attribute of
`torch.ops`. Checked here, while the configuration is made, it becomes a sentence in the user's own
process.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vllm_kernels import engine_api
from vllm_kernels_plugin import deep_gemm
from vllm_kernels_plugin.errors import PluginError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

W4A8_VARIABLE = "VLLM_CPU_INT4_W4A8"
Applies = Callable[[Any], bool]

_DRAFTED_WITHOUT_MODEL = ("ngram", "ngram_gpu", "suffix")
_INT4_METHODS = ("awq", "auto_awq", "gptq", "auto_gptq", "inc")


@dataclass(frozen=True)
class Need:
    """What a model or an option requires.

    Attributes:
        feature: How the user knows it.
        ops: Ops of the engine's namespaces that it calls.
        applies: Whether a ``VllmConfig`` asks for it.
        remedy: What to do without them.
    """

    feature: str
    ops: tuple[str, ...]
    applies: Applies
    remedy: str


def _quantization(config: Any) -> str:
    return config.model_config.quantization or ""


def _schemes(config: Any) -> Iterator[Mapping[str, Any]]:
    """The weight and activation schemes of a compressed-tensors checkpoint, one a group."""
    settings = getattr(config.model_config.hf_config, "quantization_config", None)
    if not isinstance(settings, Mapping) or _quantization(config) != "compressed-tensors":
        return
    for group in (settings.get("config_groups") or {}).values():
        if isinstance(group, Mapping):
            yield group


def _bits(scheme: Mapping[str, Any], part: str) -> tuple[str, int] | None:
    entry = scheme.get(part)
    return (entry.get("type", ""), entry.get("num_bits", 0)) if entry else None


def _int4_weights(config: Any) -> bool:
    if _quantization(config) in _INT4_METHODS:
        return True
    return any(
        _bits(scheme, "weights") == ("int", 4) and not scheme.get("input_activations")
        for scheme in _schemes(config)
    )


def _int4_weights_fp8_activations(config: Any) -> bool:
    return any(
        _bits(scheme, "weights") == ("int", 4)
        and _bits(scheme, "input_activations") == ("float", 8)
        for scheme in _schemes(config)
    )


def _fp4_weights(config: Any) -> bool:
    """Of layers; experts in MXFP4 (gpt-oss) are another matter."""
    return _quantization(config) == "modelopt_fp4" or any(
        _bits(scheme, "weights") == ("float", 4) for scheme in _schemes(config)
    )


def _int8(config: Any) -> bool:
    return any(
        _bits(scheme, "weights") == ("int", 8) and _bits(scheme, "input_activations") == ("int", 8)
        for scheme in _schemes(config)
    )


def _fp8(config: Any) -> bool:
    return _quantization(config) in ("fp8", "fbgemm_fp8", "modelopt") or any(
        _bits(scheme, "weights") == ("float", 8) for scheme in _schemes(config)
    )


def _fp8_per_tensor(config: Any) -> bool:
    settings = getattr(config.model_config.hf_config, "quantization_config", None)
    if _quantization(config) in ("fp8", "modelopt"):
        return not isinstance(settings, Mapping) or not settings.get("weight_block_size")
    return any(
        _bits(scheme, "weights") == ("float", 8) and scheme["weights"].get("strategy") == "tensor"
        for scheme in _schemes(config)
    )


def _experts(config: Any) -> bool:
    return bool(getattr(config.model_config, "is_moe", False))


def _grouped_routing(config: Any) -> bool:
    text = config.model_config.hf_text_config
    # With a bias the engine's fused op does it; without, PyTorch.
    return _experts(config) and getattr(text, "topk_method", None) == "noaux_tc"


def _latent(config: Any) -> bool:
    return bool(config.model_config.use_mla)


def switched_on(variable: str) -> bool:
    """Whether the user has set it, and not to 0."""
    return os.environ.get(variable, "0") not in ("", "0")


def _linear_attention(config: Any) -> bool:
    layers = getattr(config.model_config.hf_text_config, "layer_types", None) or ()
    return "linear_attention" in layers


# Whose layers are those of the first Mamba, and of Mamba 2.
_MAMBA = frozenset({"FalconMambaForCausalLM", "JambaForCausalLM", "MambaForCausalLM"})
_MAMBA2 = frozenset(
    {
        *("BambaForCausalLM", "FalconH1ForCausalLM", "GraniteMoeHybridForCausalLM"),
        *("Mamba2ForCausalLM", "NemotronHForCausalLM", "Plamo2ForCausalLM", "Zamba2ForCausalLM"),
    }
)


def _of(architectures: frozenset[str]) -> Callable[[Any], bool]:
    def is_one(config: Any) -> bool:
        own = getattr(config.model_config.hf_config, "architectures", None) or ()
        return not architectures.isdisjoint(own)

    return is_one


def _drafting_model(config: Any) -> bool:
    method = getattr(config.speculative_config, "method", None)
    return method is not None and method not in _DRAFTED_WITHOUT_MODEL


def _drafts_at_once(config: Any) -> bool:
    settings = config.speculative_config
    method = getattr(settings, "method", None)
    # A draft model of its own is given its inputs by the same op.
    return method in ("draft_model", "dflash") or bool(getattr(settings, "parallel_drafting", None))


CPU_NEEDS = (
    Need(
        "4-bit weights",
        ("cpu_gemm_wna16",),
        _int4_weights,
        "use a checkpoint in bfloat16 or with int8 weights and activations",
    ),
    Need(
        "4-bit weights of experts",
        ("fused_experts_cpu", "convert_weight_packed_scale_zp"),
        lambda config: _int4_weights(config) and _experts(config),
        "use a checkpoint in bfloat16",
    ),
    Need(
        f"{W4A8_VARIABLE}=1",
        ("convert_weight_packed_scale_zp", "int4_scaled_mm_cpu"),
        lambda config: _int4_weights(config) and switched_on(W4A8_VARIABLE),
        f"unset {W4A8_VARIABLE}",
    ),
    Need(
        # The engine has nothing else for them on a CPU, and no CPU has this.
        "FP4 weights (NVFP4)",
        ("marlin_gemm",),
        _fp4_weights,
        "use a checkpoint in bfloat16 or with weights in float8 or 4-bit integers",
    ),
    Need(
        "float8 weights",
        ("fp8_scaled_mm_cpu",),
        _fp8,
        "use a checkpoint in bfloat16 or with int8 weights and activations",
    ),
    Need(
        # Layers that the engine fuses get their common scale while the weights are loaded.
        "float8 weights with one scale a tensor",
        ("static_scaled_fp8_quant", "dynamic_scaled_fp8_quant"),
        _fp8_per_tensor,
        "use a checkpoint with scales per block or channel, or in bfloat16",
    ),
    Need(
        "float8 weights of experts",
        ("fused_experts_cpu",),
        lambda config: _fp8(config) and _experts(config),
        "use a checkpoint in bfloat16",
    ),
    Need(
        "int8 weights and activations",
        ("create_onednn_scaled_mm_handler", "onednn_scaled_mm", "dynamic_scaled_int8_quant"),
        _int8,
        "use a checkpoint in bfloat16",
    ),
    Need(
        "latent attention",
        ("mla_decode_kvcache",),
        _latent,
        "unset VLLM_MLA_DISABLE or set it to 1",
    ),
    Need(
        "gated delta net layers",
        ("causal_conv1d_fwd_cpu", "chunk_gated_delta_rule_cpu"),
        _linear_attention,
        "use a model whose layers are attention only",
    ),
    Need(
        # Engines before 0.27 have no such ops on a CPU.
        "state-space layers (Mamba 2)",
        ("mamba_chunk_scan_fwd_cpu", "selective_state_update_cpu"),
        _of(_MAMBA2),
        "use vLLM 0.27 or newer, or a model whose layers are attention only",
    ),
    Need(
        # No engine has it on a CPU.
        "state-space layers (Mamba)",
        ("selective_scan_fwd",),
        _of(_MAMBA),
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
        _drafting_model,
        'draft by n-grams: --speculative-config \'{"method": "ngram", ...}\'',
    ),
    Need(
        "drafting of several tokens at once",
        ("copy_and_expand_eagle_inputs_kernel_impl",),
        _drafts_at_once,
        'draft by n-grams: --speculative-config \'{"method": "ngram", ...}\'',
    ),
    Need(
        "VLLM_CPU_SGL_KERNEL=1",
        ("convert_weight_packed", "weight_packed_linear"),
        lambda config: switched_on("VLLM_CPU_SGL_KERNEL"),
        "unset VLLM_CPU_SGL_KERNEL",
    ),
)


CUDA_NEEDS = (
    Need(
        "4-bit weights",
        ("gptq_marlin_repack", "awq_marlin_repack", "marlin_gemm"),
        _int4_weights,
        "use a checkpoint in bfloat16",
    ),
    Need(
        # By Marlin; layers whose sizes it does not take go to the engine's Triton kernel and, for a
        # few tokens, to moe_wna16_gemm.
        "4-bit weights of experts",
        ("moe_wna16_marlin_gemm", "moe_wna16_gemm"),
        lambda config: _int4_weights(config) and _experts(config),
        "use a checkpoint in bfloat16",
    ),
    Need(
        # The engine's only kernels for them, taken by the GPU's capability alone.
        "4-bit weights with float8 activations",
        ("cutlass_w4a8_mm", "cutlass_encode_and_reorder_int4b", "cutlass_pack_scale_fp8"),
        _int4_weights_fp8_activations,
        "use a checkpoint with 4-bit weights and 16-bit activations",
    ),
    Need(
        "4-bit weights of experts with float8 activations",
        ("cutlass_w4a8_moe_mm", "cutlass_encode_and_reorder_int4b_grouped"),
        lambda config: _int4_weights_fp8_activations(config) and _experts(config),
        "use a checkpoint with 4-bit weights and 16-bit activations",
    ),
    Need(
        "int8 weights and activations",
        ("cutlass_scaled_mm", "dynamic_scaled_int8_quant"),
        _int8,
        "use a checkpoint in bfloat16",
    ),
    Need(
        "float8 weights",
        ("dynamic_scaled_fp8_quant", "static_scaled_fp8_quant"),
        _fp8,
        "use a checkpoint in bfloat16",
    ),
    Need(
        "a mixture of experts",
        ("topk_softmax", "moe_align_block_size", "moe_sum"),
        _experts,
        "use a model without experts",
    ),
    Need(
        "grouped routing to experts",
        ("grouped_topk",),
        _grouped_routing,
        "use a model without grouped routing",
    ),
    Need(
        "latent attention",
        ("concat_and_cache_mla", "gather_and_maybe_dequant_cache", "merge_attn_states"),
        _latent,
        "set VLLM_MLA_DISABLE=1, which expands keys and values",
    ),
)
NEEDS = {"cpu": CPU_NEEDS, "cuda": CUDA_NEEDS}


def check(config: VllmConfig, device: str) -> None:
    """PluginError for the first feature of ``config`` whose ops are missing on ``device``."""
    model = config.model_config
    if model is None:
        return
    if device == "cpu" and model.use_mla and latent_backend() is None:
        raise PluginError(
            f"{_name(model)} would run with latent attention, for which this engine has no CPU "
            "backend (vLLM has from 0.32 on): unset VLLM_MLA_DISABLE or set it to 1"
        )
    if device == "cpu" and _selects_keys(model):
        raise PluginError(
            f"{_name(model)} selects keys for sparse attention, which no engine has on a CPU: use "
            "a Hopper GPU with vllm-deepgemm and vllm-flashmla, or another model"
        )
    for need in NEEDS[device]:
        missing = [op for op in need.ops if not is_served(op)]
        if missing and need.applies(config):
            raise PluginError(
                f"{_name(model)} needs the op {missing[0]} for {need.feature}, which the installed "
                f"{device.upper()} kernels do not have: {need.remedy}, or install a "
                f"vllm-kernels-{device} that has it"
            )
    if device == "cuda":
        _check_indexer(model)
        _check_grouped_products(config)


def _check_grouped_products(config: Any) -> None:
    """The engine would call them when the first tokens reach the experts."""
    if deep_gemm.problem() is not None or not (_experts(config) and _fp8(config)):
        return
    if (problem := deep_gemm.experts_problem()) is None:
        return
    asked = ""
    if getattr(getattr(config, "kernel_config", None), "moe_backend", None) == deep_gemm.NAME:
        asked = f"--moe-backend {deep_gemm.NAME}"
    elif switched_on(deep_gemm.EXPERTS_VARIABLE):
        asked = f"{deep_gemm.EXPERTS_VARIABLE}={os.environ[deep_gemm.EXPERTS_VARIABLE]}"
    if asked:
        raise PluginError(
            f"{_name(config.model_config)} would run its experts on DeepGEMM ({asked}), whose "
            f"grouped products have no kernel here ({problem}): leave that out"
        )


def _selects_keys(model: Any) -> bool:
    return hasattr(model.hf_text_config, "index_topk")


def _check_indexer(model: Any) -> None:
    """The engine has nothing but DeepGEMM for it, and says so while the model is built."""
    if not _selects_keys(model) or importlib.util.find_spec(deep_gemm.NAME):
        return
    raise PluginError(
        f"{_name(model)} selects keys for sparse attention with functions of DeepGEMM, which "
        f"nothing provides ({deep_gemm.problem()}): on a Hopper GPU, `conda install vllm-deepgemm "
        "vllm-flashmla`"
    )


def latent_backend() -> Any:
    """The engine's backend of latent attention for any CPU; None where it has none.

    Those of 0.28 to 0.31 import FlashAttention's prefill, which is not there on a CPU.
    """
    try:
        from vllm.platforms.cpu import CpuPlatform
        from vllm.v1.attention.backends.registry import AttentionBackendEnum
    except ImportError:
        return None
    if "get_mla_prefill_backend_cls" not in vars(CpuPlatform):
        return None
    return getattr(AttentionBackendEnum, "CPU_MLA", None)


def is_served(op: str) -> bool:
    """Whether the engine finds ``op`` in its namespace."""
    # What ops.def does not have, the engine would call in its main namespace.
    return hasattr(getattr(torch.ops, engine_api.namespace_of(op) or "_C"), op)


def _name(model: Any) -> str:
    kinds = getattr(model.hf_config, "architectures", None) or ["an unknown architecture"]
    return f"The model {model.model} ({kinds[0]})"
