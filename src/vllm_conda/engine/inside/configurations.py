"""The models that the engine's programs run: configurations of transformers, and how to store them.

Small ones with random weights; large ones, for measurements alone, whose weights the engine makes
up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

VOCABULARY = 512
PAD, BOS, EOS = 0, 1, 2
# Of models that see, after the tokens that every model has.
IMAGE_TOKENS = {"<|vision_start|>": 4, "<|vision_end|>": 5, "<|image_pad|>": 6, "<|video_pad|>": 7}
CLASSIFIER = "AutoModelForSequenceClassification"

# Whatever its layers are, a small model has these.
_COMMON: Mapping[str, Any] = {
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "tie_word_embeddings": False,
}
_SMALL: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "intermediate_size": 512,
    **_COMMON,
}
# Windows and caps as in the real models, a window far below the prompts' lengths.
_GEMMA: Mapping[str, Any] = {
    "head_dim": 64,
    "sliding_window": 32,
    "query_pre_attn_scalar": 64,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
}
# The real latent and head sizes: the engine's layout of keys and values depends on them.
_LATENT: Mapping[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "moe_intermediate_size": 128,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
# DeepSeek-V3's and V3.2's.
_ROUTED: Mapping[str, Any] = {
    **_LATENT,
    "q_lora_rank": 128,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 4,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    # The engine creates the routing bias only where the file names this method.
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
}
_QWEN3_MOE: Mapping[str, Any] = {
    "head_dim": 64,
    "moe_intermediate_size": 128,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
_LLAMA_8B: Mapping[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "tie_word_embeddings": False,
}
_GPTQ: Mapping[str, Any] = {
    "quantization_config": {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 128,
        "desc_act": False,
        "sym": True,
        "lm_head": False,
    }
}


@dataclass(frozen=True)
class Model:
    """A model to make.

    Attributes:
        config: Configuration class in transformers.
        settings: Its arguments, besides those of every small model.
        experts: It routes tokens to experts.
        base: Arguments that ``settings`` add to.
        scheme: A key of ``quantise.SCHEMES``: how its weights are stored; empty for bfloat16.
        cache: The engine's ``kv_cache_dtype``: how keys and values are kept.
        head: Class in transformers: what the model ends with.
        weights: Whether weights are drawn and stored. Without, for measurements alone, the engine
            makes some up (``load_format="dummy"``).
        arguments: Of the engine, for measurements.
        needs: What a refusal names on a GPU where the optional packages with it are not there.
        environment: Variables of the engine.
        grouped: Whether its experts have to run on DeepGEMM's grouped products.
    """

    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    experts: bool = False
    base: Mapping[str, Any] = field(default_factory=lambda: _SMALL)
    scheme: str = ""
    cache: str = "auto"
    head: str = "AutoModelForCausalLM"
    weights: bool = True
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    grouped: bool = False

    @property
    def sees(self) -> bool:
        """Whether prompts may have pictures."""
        return "vision_config" in self.settings

    @property
    def latent(self) -> bool:
        """Whether keys and values are kept as one latent vector a token."""
        return "kv_lora_rank" in self.settings

    @property
    def rounds_cache(self) -> bool:
        """Whether keys and values are kept in 8 bits."""
        return self.cache != "auto"


def _large(config: str, settings: Mapping[str, Any], **arguments: str) -> Model:
    return Model(config, settings, base={}, weights=False, arguments=arguments)


# Experts of more than 512 columns: smaller ones the engine's Triton kernels multiply, whatever it
# is asked for.
_FP8_EXPERTS = Model(
    "Qwen3MoeConfig",
    {**_QWEN3_MOE, "moe_intermediate_size": 640},
    experts=True,
    scheme="fp8",
)

MODELS: Mapping[str, Model] = {
    "llama": Model("LlamaConfig", {"head_dim": 64}),
    "qwen3": Model("Qwen3Config", {"head_dim": 64}),
    "gemma2": Model(
        "Gemma2Config",
        {**_GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": Model(
        "Gemma3TextConfig",
        {**_GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "mixtral": Model(
        "MixtralConfig",
        {
            "head_dim": 64,
            "intermediate_size": 256,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": None,
        },
        experts=True,
    ),
    "qwen3_moe": Model("Qwen3MoeConfig", _QWEN3_MOE, experts=True),
    "deepseek_v2": Model(
        "DeepseekV2Config",
        {
            **_LATENT,
            "q_lora_rank": None,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "greedy",
            "num_experts_per_tok": 2,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": False,
        },
        experts=True,
    ),
    "deepseek_v3": Model(
        "DeepseekV3Config",
        _ROUTED,
        experts=True,
    ),
    # Each query attends to the keys that an indexer selects: to all of them, in prompts this short.
    "deepseek_v32": Model(
        "DeepseekV32Config",
        {
            **_ROUTED,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "index_n_heads": 64,
            "index_head_dim": 128,
            "index_topk": 2048,
        },
        experts=True,
        needs=("deepgemm", "flashmla"),
    ),
    # Every other layer is a gated delta net with a short convolution.
    "qwen3_next": Model(
        "Qwen3NextConfig",
        {
            "head_dim": 64,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 64,
            "linear_value_head_dim": 64,
            "mlp_only_layers": [0],
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 128,
            "shared_expert_intermediate_size": 128,
        },
        experts=True,
    ),
    # State-space layers alone, with a decay a channel and state.
    "mamba": Model(
        "MambaConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 256,
            "num_hidden_layers": 2,
            "state_size": 16,
            **_COMMON,
        },
        base={},
    ),
    # The same with a decay a head. Of several groups transformers norms all
    # together, unlike the engine.
    "mamba2": Model(
        "Mamba2Config",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 256,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 64,
            "state_size": 64,
            "n_groups": 1,
            "chunk_size": 64,
            **_COMMON,
        },
        base={},
    ),
    "llama_gptq": Model("LlamaConfig", {"head_dim": 64}, scheme="gptq"),
    "llama_gptq_in_order": Model("LlamaConfig", {"head_dim": 64}, scheme="gptq_in_order"),
    "llama_awq": Model("LlamaConfig", {"head_dim": 64}, scheme="awq"),
    "llama_w4a8": Model(
        "LlamaConfig", {"head_dim": 64}, scheme="w4a8", environment={"VLLM_CPU_INT4_W4A8": "1"}
    ),
    "llama_w4a8_float8": Model("LlamaConfig", {"head_dim": 64}, scheme="w4a8_float8"),
    "llama_w8a8": Model("LlamaConfig", {"head_dim": 64}, scheme="w8a8"),
    "llama_fp8": Model("LlamaConfig", {"head_dim": 64}, scheme="fp8"),
    "qwen3_moe_awq": Model("Qwen3MoeConfig", _QWEN3_MOE, experts=True, scheme="awq"),
    # Experts in the last layer alone, where a router's near tie changes no later token: with two
    # layers of them one order of rounding is as far from another as wrong scales are.
    "qwen3_moe_w4a8_float8": Model(
        "Qwen3MoeConfig",
        {
            **_QWEN3_MOE,
            "moe_intermediate_size": 256,  # which the engine wants a multiple of
            "mlp_only_layers": [0],
        },
        experts=True,
        scheme="w4a8_float8",
    ),
    "qwen3_moe_w8a8": Model("Qwen3MoeConfig", _QWEN3_MOE, experts=True, scheme="w8a8"),
    "qwen3_moe_fp8": _FP8_EXPERTS,
    "qwen3_moe_fp8_deep_gemm": replace(
        _FP8_EXPERTS, environment={"VLLM_MOE_USE_DEEP_GEMM": "1"}, grouped=True
    ),
    "llama_nvfp4": Model("LlamaConfig", {"head_dim": 64}, scheme="nvfp4"),
    # Sinks, windows in every other layer, biases, experts' weights in MXFP4.
    "gpt_oss": Model(
        "GptOssConfig",
        {
            "head_dim": 64,
            "intermediate_size": 256,
            "num_local_experts": 8,
            "num_experts_per_tok": 4,
            "sliding_window": 32,
        },
        experts=True,
        scheme="mxfp4",
    ),
    "llama_fp8_cache": Model("LlamaConfig", {"head_dim": 64}, cache="fp8"),
    "llama_classes": Model("LlamaConfig", {"head_dim": 64, "num_labels": 5}, head=CLASSIFIER),
    "llama_score": Model("LlamaConfig", {"head_dim": 64, "num_labels": 1}, head=CLASSIFIER),
    # Patches attend in windows and to all; positions have three coordinates.
    "qwen2_5_vl": Model(
        "Qwen2_5_VLConfig",
        {
            "text_config": {
                **_SMALL,
                "model_type": "qwen2_5_vl_text",
                "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12]},
            },
            "vision_config": {
                "depth": 3,
                "hidden_size": 128,
                "out_hidden_size": 256,
                "intermediate_size": 256,
                "num_heads": 2,
                "fullatt_block_indexes": [1],
            },
            "image_token_id": IMAGE_TOKENS["<|image_pad|>"],
            "video_token_id": IMAGE_TOKENS["<|video_pad|>"],
            "vision_start_token_id": IMAGE_TOKENS["<|vision_start|>"],
            "vision_end_token_id": IMAGE_TOKENS["<|vision_end|>"],
            **_COMMON,
        },
        base={},
        head="AutoModelForImageTextToText",
    ),
    "llama_long": Model("LlamaConfig", {"head_dim": 64, "max_position_embeddings": 40960}),
    # For measurements: the size class of half a billion parameters.
    "llama_500m": Model(
        "LlamaConfig",
        {
            "vocab_size": 32000,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "intermediate_size": 4864,
        },
    ),
    # Of real models' layers, some of them with fewer.
    "llama_8b": _large("LlamaConfig", _LLAMA_8B),
    "llama_8b_fp8": _large("LlamaConfig", _LLAMA_8B, quantization="fp8"),
    "llama_8b_gptq": _large("LlamaConfig", {**_LLAMA_8B, **_GPTQ}),
    "mixtral_12_layers": _large(
        "MixtralConfig",
        {
            **_LLAMA_8B,
            "vocab_size": 32000,
            "num_hidden_layers": 12,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "sliding_window": None,
        },
    ),
    "qwen3_moe_12_layers": _large(
        "Qwen3MoeConfig",
        {
            **_LLAMA_8B,
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 12,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
    ),
    "deepseek_v3_4_layers": _large(
        "DeepseekV3Config",
        {
            "num_hidden_layers": 4,
            "first_k_dense_replace": 1,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "bos_token_id": BOS,
            "eos_token_id": EOS,
        },
    ),
}
