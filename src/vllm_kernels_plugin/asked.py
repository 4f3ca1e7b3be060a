"""What an engine's configuration asks for: weights, layers, options that call ops of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Applies = Callable[[Any], bool]
W4A8_VARIABLE = "VLLM_CPU_INT4_W4A8"

_DRAFTED_WITHOUT_MODEL = ("ngram", "ngram_gpu", "suffix")
_INT4_METHODS = ("awq", "auto_awq", "gptq", "auto_gptq", "inc")


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


def int4_weights(config: Any) -> bool:
    if _quantization(config) in _INT4_METHODS:
        return True
    return any(
        _bits(scheme, "weights") == ("int", 4) and not scheme.get("input_activations")
        for scheme in _schemes(config)
    )


def int4_weights_fp8_activations(config: Any) -> bool:
    return any(
        _bits(scheme, "weights") == ("int", 4)
        and _bits(scheme, "input_activations") == ("float", 8)
        for scheme in _schemes(config)
    )


def fp4_weights(config: Any) -> bool:
    """Of layers; experts in MXFP4 (gpt-oss) are another matter."""
    return _quantization(config) == "modelopt_fp4" or any(
        _bits(scheme, "weights") == ("float", 4) for scheme in _schemes(config)
    )


def int8(config: Any) -> bool:
    return any(
        _bits(scheme, "weights") == ("int", 8) and _bits(scheme, "input_activations") == ("int", 8)
        for scheme in _schemes(config)
    )


def fp8(config: Any) -> bool:
    return _quantization(config) in ("fp8", "fbgemm_fp8", "modelopt") or any(
        _bits(scheme, "weights") == ("float", 8) for scheme in _schemes(config)
    )


def fp8_per_tensor(config: Any) -> bool:
    settings = getattr(config.model_config.hf_config, "quantization_config", None)
    if _quantization(config) in ("fp8", "modelopt"):
        return not isinstance(settings, Mapping) or not settings.get("weight_block_size")
    return any(
        _bits(scheme, "weights") == ("float", 8) and scheme["weights"].get("strategy") == "tensor"
        for scheme in _schemes(config)
    )


def experts(config: Any) -> bool:
    return bool(getattr(config.model_config, "is_moe", False))


def grouped_routing(config: Any) -> bool:
    text = config.model_config.hf_text_config
    # With a bias the engine's fused op does it; without, PyTorch.
    return experts(config) and getattr(text, "topk_method", None) == "noaux_tc"


def latent(config: Any) -> bool:
    return bool(config.model_config.use_mla)


def switched_on(variable: str) -> bool:
    """Whether the user has set it, and not to 0."""
    return os.environ.get(variable, "0") not in ("", "0")


def linear_attention(config: Any) -> bool:
    layers = getattr(config.model_config.hf_text_config, "layer_types", None) or ()
    return "linear_attention" in layers


def selects_keys(config: Any) -> bool:
    return hasattr(config.model_config.hf_text_config, "index_topk")


# Whose layers are those of the first Mamba, and of Mamba 2.
MAMBA = frozenset({"FalconMambaForCausalLM", "JambaForCausalLM", "MambaForCausalLM"})
MAMBA2 = frozenset(
    {
        *("BambaForCausalLM", "FalconH1ForCausalLM", "GraniteMoeHybridForCausalLM"),
        *("Mamba2ForCausalLM", "NemotronHForCausalLM", "Plamo2ForCausalLM", "Zamba2ForCausalLM"),
    }
)


def of(architectures: frozenset[str]) -> Callable[[Any], bool]:
    def is_one(config: Any) -> bool:
        own = getattr(config.model_config.hf_config, "architectures", None) or ()
        return not architectures.isdisjoint(own)

    return is_one


def drafting_model(config: Any) -> bool:
    method = getattr(config.speculative_config, "method", None)
    return method is not None and method not in _DRAFTED_WITHOUT_MODEL


def drafts_at_once(config: Any) -> bool:
    settings = config.speculative_config
    method = getattr(settings, "method", None)
    # A draft model of its own is given its inputs by the same op.
    return method in ("draft_model", "dflash") or bool(getattr(settings, "parallel_drafting", None))
