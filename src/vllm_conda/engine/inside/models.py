"""Small models with random weights and a tokenizer of their own, made without any network.

Runs in the engine's environment. Weights are drawn in float32 and stored in bfloat16, so that runs
in both share the same numbers. They are wider than an untrained model's: greedy decoding then has
clear margins, and what it chooses depends on the context that attention sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from configurations import BOS, EOS, IMAGE_TOKENS, MODELS, PAD, VOCABULARY, Model
from filelock import FileLock
from quantise import DEQUANTISED, SCHEMES, Scheme, configuration, quantise
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SEED = 20260901
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
COMPLETE = ".complete"
WEIGHTS = "model.safetensors"
# A picture of a model that sees has so many, no more.
PIXELS = {"min_pixels": 56 * 56, "max_pixels": 448 * 448}


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
    if entry.sees:
        _make_processor(model.config, path)
    else:
        make_tokenizer(path)
    (path / COMPLETE).touch()


def _save_quantised(model: Any, scheme: Scheme, path: Path) -> None:
    """Write the checkpoint, and beside it the plain model that it stands for, in float32."""
    whole = path / DEQUANTISED
    # In a file experts have tensors of their own, however the class keeps them.
    model.save_pretrained(whole)
    weights = load_file(whole / WEIGHTS)
    stored, plain = quantise(scheme, weights)
    exact = {name: tensor.float() for name, tensor in plain.items()}
    save_file(exact, whole / WEIGHTS, metadata={"format": "pt"})
    model.generation_config.save_pretrained(path)
    model.config.quantization_config = configuration(scheme, weights)
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(path)
    save_file(stored, path / WEIGHTS, metadata={"format": "pt"})


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
        if "norm" not in name or name.endswith(".bias"):
            return 0.0, 0.05
        if not gemma:
            return 1.0, 0.1
        # Gemma adds one to its norm weights. With tied embeddings a token's own embedding wins
        # unless what the layers add is large.
        return (5.0 if "post_" in name else 0.0), 0.1
    if "embed_tokens" in name or name.endswith("embeddings.weight"):
        return 0.0, 0.08 if tied else 0.7
    if tensor.dim() == 4:  # a convolution over patches
        return 0.0, 1.3 / math.sqrt(tensor[0].numel())
    if "lm_head" in name:
        return 0.0, 2.4 / math.sqrt(tensor.shape[-1])
    return 0.0, 1.3 / math.sqrt(tensor.shape[-1])


def _make_processor(config: Any, path: Path) -> None:
    """Write a tokenizer with tokens for pictures, and what turns them into patches."""
    vision = config.vision_config
    shape = {
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }
    transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**shape, **PIXELS),
        tokenizer=make_tokenizer(path, tuple(IMAGE_TOKENS)),
        video_processor=transformers.Qwen2VLVideoProcessor(**shape, **PIXELS),
    ).save_pretrained(path)


def make_tokenizer(path: Path, more: tuple[str, ...] = ()) -> Any:
    """Write a byte-level tokenizer with a chat template, and with ``more`` special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIAL_TOKENS, *more],
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
    return fast
