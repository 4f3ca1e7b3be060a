"""Checkpoints with quantised weights as the common tools write them, made from a model's weights.

Runs in the engine's environment. Beside the quantised tensors stands what they stand for: a plain
model in the folder ``dequantised``, from which transformers computes the expected tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from float4 import NVFP4_GROUP, mxfp4, nvfp4

DEQUANTISED = "dequantised"
GROUP = 64
BLOCK = 128
# The order in which AWQ puts eight columns into a word.
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

Tensors = dict[str, torch.Tensor]
# Of one layer's weight [N, K]: the checkpoint's tensors by suffix, and what they stand for.
Quantise = Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]


def _in_layers(name: str, tensor: torch.Tensor) -> bool:
    return tensor.dim() == 2 and ".layers." in name and name.endswith("weight")


def _matrices(name: str, tensor: torch.Tensor) -> bool:
    """Products inside the layers, but for what chooses experts."""
    return _in_layers(name, tensor) and not name.endswith("mlp.gate.weight")


def _experts(name: str, tensor: torch.Tensor) -> bool:
    """All experts' weights in one tensor."""
    return tensor.dim() == 3


@dataclass(frozen=True)
class Scheme:
    """One kind of checkpoint.

    Attributes:
        config: Its ``quantization_config``.
        quantise: How one weight is stored.
        activations: The type to which the engine rounds activations too: ``int8``, each token by
            its largest, and so ``float8_token``; ``float8``, each token's ``BLOCK`` columns by
            theirs, on a GPU alone.
        takes: Which tensors, by name, are quantised.
        in_experts: As ``activations``, of experts alone and on a CPU.
    """

    config: Mapping[str, Any]
    quantise: Quantise
    activations: str = ""
    takes: Callable[[str, torch.Tensor], bool] = _matrices
    in_experts: str = ""


def _words(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Eight 4-bit values along ``dim`` in an int32, the first in the lowest bits."""
    parts = values.to(torch.int64).unflatten(dim, (-1, 8)).unbind(dim + 1)
    packed = torch.stack([part << 4 * index for index, part in enumerate(parts)]).sum(0)
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)


def _bfloat16(values: torch.Tensor) -> torch.Tensor:
    """Rounded so that every 16-bit run of the engine has the same scales."""
    return values.to(torch.bfloat16).float()


def _gptq(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """Symmetric 4-bit groups over columns of the input in any order (act-order)."""
    depth = weight.shape[1]
    return _gptq_of_groups(weight, torch.arange(depth) % (depth // GROUP))


def _gptq_in_order(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """Symmetric 4-bit groups over neighbouring columns of the input."""
    return _gptq_of_groups(weight, torch.arange(weight.shape[1]) // GROUP)


def _gptq_of_groups(weight: torch.Tensor, group_of: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    groups = weight.shape[1] // GROUP
    scales = torch.stack([weight[:, group_of == g].abs().amax(1) / 7.0 for g in range(groups)])
    scales = _bfloat16(scales)
    values = (weight.t() / scales[group_of]).round().clamp(-8, 7) + 8
    zeros = torch.full((groups, weight.shape[0]), 7)  # GPTQ stores a zero point less one
    tensors = {
        "qweight": _words(values, 0),
        "qzeros": _words(zeros, 1),
        "scales": scales.to(torch.bfloat16),
        "g_idx": group_of.to(torch.int32),
    }
    return tensors, ((values - 8) * scales[group_of]).t()


def _awq(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """4-bit groups with zero points."""
    grouped = weight.t().unflatten(0, (-1, GROUP))
    low, high = grouped.amin(1).clamp(max=0), grouped.amax(1).clamp(min=0)
    scales = _bfloat16((high - low) / 15)
    zeros = (-low / scales).round().clamp(0, 15)
    values = ((grouped / scales.unsqueeze(1)).round() + zeros.unsqueeze(1)).clamp(0, 15)
    plain = ((values - zeros.unsqueeze(1)) * scales.unsqueeze(1)).flatten(0, 1)

    def interleaved(columns: torch.Tensor) -> torch.Tensor:
        return _words(columns.unflatten(1, (-1, 8))[..., _AWQ_ORDER].flatten(1), 1)

    tensors = {
        "qweight": interleaved(values.flatten(0, 1)),
        "qzeros": interleaved(zeros),
        "scales": scales.to(torch.bfloat16),
    }
    return tensors, plain.t()


def _int4_for_float8(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """Symmetric 4-bit groups, whose scales the engine keeps as float8 times one of the row.

    They are such products as they are, with the row's largest 448 times a power of two, so that
    nothing is lost there.
    """
    largest = torch.finfo(torch.float8_e4m3fn).max
    groups = weight.unflatten(1, (-1, BLOCK))
    scales = groups.abs().amax(2) / 7.0
    row = scales.amax(1, keepdim=True)
    unit = 2.0 ** (row / largest).log2().ceil()
    steps = (scales / unit).to(torch.float8_e4m3fn).float()
    scales = torch.where(scales == row, largest, steps) * unit
    values = (groups / scales[..., None]).round().clamp(-8, 7)
    tensors = {
        "weight_packed": _words(values.flatten(1) + 8, 1),
        "weight_scale": scales.to(torch.bfloat16),
        "weight_shape": torch.tensor(weight.shape),
    }
    return tensors, (values * scales[..., None]).flatten(1)


def _int8(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """Symmetric int8, one scale a row."""
    scales = weight.abs().amax(1, keepdim=True) / 127
    values = (weight / scales).round().clamp(-127, 127)
    return {"weight": values.to(torch.int8), "weight_scale": scales}, values * scales


def _fp8(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """E4M3, one scale a square of ``BLOCK``, as DeepSeek's checkpoints are."""
    squares = weight.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))
    scales = squares.abs().amax((1, 3), keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
    values = (squares / scales).to(torch.float8_e4m3fn)
    plain = (values.float() * scales).reshape(weight.shape)
    tensors = {
        "weight": values.reshape(weight.shape),
        "weight_scale_inv": scales.squeeze(3).squeeze(1),
    }
    return tensors, plain


def _compressed(form: str, **schemes: Mapping[str, Any]) -> dict[str, Any]:
    """compressed-tensors' configuration of all linear layers but the last."""
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], **schemes}},
    }


_GPTQ_IN_ORDER = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": GROUP,
    "desc_act": False,
    "sym": True,
}
_INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "group_size": BLOCK}
_FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True}
_INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
_NVFP4 = {"num_bits": 4, "type": "float", "symmetric": True, "group_size": NVFP4_GROUP}
SCHEMES: Mapping[str, Scheme] = {
    "gptq": Scheme({**_GPTQ_IN_ORDER, "desc_act": True}, _gptq),
    "gptq_in_order": Scheme(_GPTQ_IN_ORDER, _gptq_in_order),
    "w4a8": Scheme(_GPTQ_IN_ORDER, _gptq_in_order, "int8"),
    "awq": Scheme(
        {
            "quant_method": "awq",
            "bits": 4,
            "group_size": GROUP,
            "zero_point": True,
            "version": "gemm",
        },
        _awq,
        in_experts="int8",
    ),
    "fp8": Scheme(
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [BLOCK, BLOCK],
        },
        _fp8,
        "float8",
    ),
    "w8a8": Scheme(
        _compressed(
            "int-quantized",
            weights={**_INT8, "strategy": "channel", "dynamic": False},
            input_activations={**_INT8, "strategy": "token", "dynamic": True},
        ),
        _int8,
        "int8",
    ),
    "w4a8_float8": Scheme(
        _compressed(
            "pack-quantized",
            weights={**_INT4, "strategy": "group", "dynamic": False},
            input_activations={**_FLOAT8, "strategy": "token", "dynamic": True},
        ),
        _int4_for_float8,
        "float8_token",
    ),
    "mxfp4": Scheme({"quant_method": "mxfp4"}, mxfp4, takes=_experts),
    "nvfp4": Scheme(
        _compressed(
            "nvfp4-pack-quantized",
            weights={**_NVFP4, "strategy": "tensor_group", "dynamic": False},
        ),
        nvfp4,
    ),
}


def quantise(scheme: Scheme, weights: Mapping[str, torch.Tensor]) -> tuple[Tensors, Tensors]:
    """The checkpoint's tensors and the plain model's."""
    stored: Tensors = {}
    plain: Tensors = {}
    for name, tensor in weights.items():
        if not scheme.takes(name, tensor):
            stored[name] = plain[name] = tensor
            continue
        parts, found = scheme.quantise(tensor.float())
        plain[name] = found.contiguous()
        prefix = name.removesuffix("weight")
        stored.update({prefix + suffix: part.contiguous() for suffix, part in parts.items()})
    return stored, plain


def configuration(scheme: Scheme, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """A checkpoint's ``quantization_config``, with the modules inside the layers that keep their
    weights."""
    kept = [
        name.removesuffix(".weight")
        for name, tensor in weights.items()
        if scheme.takes is _matrices and _in_layers(name, tensor) and not _matrices(name, tensor)
    ]
    found = dict(scheme.config)
    # compressed-tensors has another name for it.
    place = "ignore" if "ignore" in found else "modules_to_not_convert"
    return {**found, place: [*found.get(place, ()), *kept]} if kept else found


def _as_int8(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / scale.clamp(min=torch.finfo(torch.float32).tiny)).round() * scale


def _as_float8(x: torch.Tensor) -> torch.Tensor:
    blocks = x.unflatten(-1, (-1, BLOCK))
    limit = torch.finfo(torch.float8_e4m3fn).max
    scale = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-10) / limit
    return ((blocks / scale).to(torch.float8_e4m3fn).float() * scale).flatten(-2)


def _as_float8_token(x: torch.Tensor) -> torch.Tensor:
    limit = torch.finfo(torch.float8_e4m3fn).max
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-10) / limit
    return (x / scale).to(torch.float8_e4m3fn).float() * scale


_ROUNDED = {"int8": _as_int8, "float8": _as_float8, "float8_token": _as_float8_token}


def rounding(kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Rounds activations as :attr:`Scheme.activations` says, and gives float32 back."""
    return _ROUNDED[kind]


def rounded_activations(scheme: str, device: str) -> str:
    """The type to which the engine rounds activations of such a checkpoint on the device, or none.

    Args:
        scheme: A key of ``SCHEMES``, or empty.
    """
    kind = SCHEMES[scheme].activations if scheme else ""
    return "" if (kind, device) == ("float8", "cpu") else kind


def rounded_in_experts(scheme: str, device: str) -> str:
    """The same of experts alone: the CPU's multiply integers of 4 bits by such of 8."""
    return SCHEMES[scheme].in_experts if scheme and device == "cpu" else ""
