"""Small models with random weights and a tokenizer of their own, made without any network.

Runs in the engine's environment. Weights are drawn in float32 and stored in bfloat16, so that runs
in both share the same numbers. They are wider than an untrained model's: greedy decoding then has
clear margins, and what it chooses depends on the context that attention sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from quantise import DEQUANTISED, SCHEMES, Scheme, quantise
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 512
SEED = 20260901
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS = 0, 1, 2
COMPLETE = ".complete"
CLASSIFIER = "AutoModelForSequenceClassification"

_SMALL: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "intermediate_size": 512,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "tie_word_embeddings": False,
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


# Of real models' layers, some of them with fewer.
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
LARGE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama_8b": ("LlamaConfig", _LLAMA_8B),
    "llama_8b_gptq": ("LlamaConfig", {**_LLAMA_8B, **_GPTQ}),
    "mixtral_12_layers": (
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
    "qwen3_moe_12_layers": (
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
    "deepseek_v3_4_layers": (
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
        needs: What a refusal names on a GPU where the optional packages with it are not there.
        environment: Variables of the engine.
    """

    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    experts: bool = False
    base: Mapping[str, Any] = field(default_factory=lambda: _SMALL)
    scheme: str = ""
    cache: str = "auto"
    head: str = "AutoModelForCausalLM"
    weights: bool = True
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def latent(self) -> bool:
        """Whether keys and values are kept as one latent vector a token."""
        return "kv_lora_rank" in self.settings

    @property
    def rounds_cache(self) -> bool:
        """Whether keys and values are kept in 8 bits."""
        return self.cache != "auto"


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
    "qwen3_moe": Model(
        "Qwen3MoeConfig",
        {
            "head_dim": 64,
            "moe_intermediate_size": 128,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
        experts=True,
    ),
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
        {
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
        },
        experts=True,
    ),
    # Each query attends to the keys that an indexer selects: to all of them, in prompts this short.
    "deepseek_v32": Model(
        "DeepseekV32Config",
        {
            **_LATENT,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "q_lora_rank": 128,
            "n_group": 4,
            "topk_group": 2,
            "num_experts_per_tok": 4,
            "routed_scaling_factor": 2.5,
            "norm_topk_prob": True,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
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
    "llama_gptq": Model("LlamaConfig", {"head_dim": 64}, scheme="gptq"),
    "llama_awq": Model("LlamaConfig", {"head_dim": 64}, scheme="awq"),
    "llama_w4a8": Model(
        "LlamaConfig", {"head_dim": 64}, scheme="w4a8", environment={"VLLM_CPU_INT4_W4A8": "1"}
    ),
    "llama_w8a8": Model("LlamaConfig", {"head_dim": 64}, scheme="w8a8"),
    "llama_fp8": Model("LlamaConfig", {"head_dim": 64}, scheme="fp8"),
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
    **{
        name: Model(config, settings, base={}, weights=False)
        for name, (config, settings) in LARGE.items()
    },
}


def make(name: str, folder: Path) -> Path:
    """Make the model below ``folder`` unless it is there, whole; return its folder."""
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    # Several processes may want it at once.
    with FileLock(folder / f"{name}.lock"):
        if not (path / COMPLETE).is_file():
            _make(MODELS[name], path)
    return path


def _make(entry: Model, path: Path) -> None:
    config = getattr(transformers, entry.config)(**{**entry.base, **entry.settings})
    if not entry.weights:
        config.architectures = [entry.config.replace("Config", "ForCausalLM")]
        config.dtype = torch.bfloat16
        config.save_pretrained(path)
        make_tokenizer(path)
        (path / COMPLETE).touch()
        return
    torch.manual_seed(SEED)
    head = getattr(transformers, entry.head)
    model = head.from_config(config, dtype=torch.float32).eval()
    draw_weights(model)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD
    )
    model.to(torch.bfloat16)
    for tensor_name, tensor in _tensors(model):
        if _routing_bias(tensor_name):
            tensor.data = tensor.data.float()
    if entry.scheme:
        _save_quantised(model, SCHEMES[entry.scheme], path)
    else:
        model.save_pretrained(path)
    make_tokenizer(path)
    (path / COMPLETE).touch()


def _save_quantised(model: Any, scheme: Scheme, path: Path) -> None:
    """Write the checkpoint, and beside it the plain model that it stands for, in float32."""
    stored, plain = quantise(scheme, model.state_dict())
    model.float().load_state_dict(plain)
    model.save_pretrained(path / DEQUANTISED)
    model.generation_config.save_pretrained(path)
    model.config.quantization_config = dict(scheme.config)
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(path)
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    for name, tensor in model.named_buffers():
        # Rotary frequencies and embedding scales follow from the configuration.
        if _routing_bias(name):
            yield name, tensor


def _routing_bias(name: str) -> bool:
    return name.endswith("e_score_correction_bias")


def draw_weights(model: Any) -> None:
    """Draw every weight, rounded to bfloat16."""
    generator = torch.Generator().manual_seed(SEED)
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is model.get_input_embeddings().weight
    gemma = "gemma" in model.config.model_type
    with torch.no_grad():
        for name, tensor in _tensors(model):
            mean, deviation = _distribution(name, tensor, tied, gemma)
            drawn = mean + deviation * torch.randn(tensor.shape, generator=generator)
            tensor.copy_(drawn.to(torch.bfloat16).to(tensor.dtype))


def _distribution(name: str, tensor: torch.Tensor, tied: bool, gemma: bool) -> tuple[float, float]:
    """Mean and standard deviation of a weight."""
    if _routing_bias(name):
        return 0.0, 0.2
    if tensor.dim() == 1:
        if "norm" not in name:
            return 0.0, 0.05
        if not gemma:
            return 1.0, 0.1
        # Gemma adds one to its norm weights. With tied embeddings a token's own embedding wins
        # unless what the layers add is large.
        return (5.0 if "post_" in name else 0.0), 0.1
    if "embed_tokens" in name:
        return 0.0, 0.08 if tied else 0.7
    if "lm_head" in name:
        return 0.0, 2.4 / math.sqrt(tensor.shape[-1])
    return 0.0, 1.3 / math.sqrt(tensor.shape[-1])


def make_tokenizer(path: Path) -> None:
    """Write a byte-level tokenizer with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Any text will do; this module's has enough different words.
    tokenizer.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)
    pad, bos, eos, unknown = SPECIAL_TOKENS
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unknown,
    )
    fast.chat_template = (
        "{% for message in messages %}{{ bos_token }}{{ message['role'] }}: "
        "{{ message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}{{ bos_token }}assistant:{% endif %}"
    )
    fast.save_pretrained(path)
