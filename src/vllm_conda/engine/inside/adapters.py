"""Models made from another: an adapter as PEFT writes it, one with it merged in, one that drafts.

Runs in the engine's environment. LoRA: Hu et al., 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RANK, ALPHA = 8, 16
TARGETS = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")
WEIGHTS = "model.safetensors"
SEED = 20260902
# Of a weight's deviation: the two models then choose the same token about every other time.
NOISE = 0.1


def make_adapter(model: Path, path: Path) -> Path:
    """Write an adapter with random weights for ``model`` to ``path``."""
    generator = torch.Generator().manual_seed(SEED)
    tensors = {}
    for name, weight in sorted(load_file(model / WEIGHTS).items()):
        layer = name.removesuffix(".weight")
        if layer.rsplit(".", 1)[-1] not in TARGETS:
            continue
        rows, columns = weight.shape
        down = torch.randn(RANK, columns, generator=generator) / columns**0.5
        up = torch.randn(rows, RANK, generator=generator) / RANK**0.5
        tensors[f"base_model.model.{layer}.lora_A.weight"] = down
        tensors[f"base_model.model.{layer}.lora_B.weight"] = up
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": list(TARGETS),
        "lora_dropout": 0.0,
        "bias": "none",
    }
    (path / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def make_merged(model: Path, adapter: Path, path: Path) -> Path:
    """Write ``model`` with the adapter's products added to its weights, in float32, to ``path``."""
    tensors = {name: weight.float() for name, weight in load_file(model / WEIGHTS).items()}
    changes = load_file(adapter / "adapter_model.safetensors")
    for name, down in changes.items():
        layer, _, part = name.removeprefix("base_model.model.").rpartition(".lora_")
        if part.startswith("A."):
            up = changes[name.replace(".lora_A.", ".lora_B.")]
            tensors[f"{layer}.weight"] += ALPHA / RANK * (up @ down)
    return _with_weights(tensors, model, path)


def make_draft(model: Path, path: Path) -> Path:
    """Write ``model`` with noise on its weights to ``path``: it agrees with the model at times."""
    generator = torch.Generator().manual_seed(SEED)
    tensors = {}
    for name, weight in sorted(load_file(model / WEIGHTS).items()):
        noise = torch.randn(weight.shape, generator=generator) * weight.float().std() * NOISE
        tensors[name] = (weight.float() + noise).to(weight.dtype)
    return _with_weights(tensors, model, path)


def _with_weights(tensors: Mapping[str, torch.Tensor], model: Path, path: Path) -> Path:
    """Write ``model`` with these weights to ``path``."""
    path.mkdir(parents=True, exist_ok=True)
    for file in model.glob("*.json"):
        shutil.copy(file, path)
    save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})
    return path
