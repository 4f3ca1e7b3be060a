"""Matrix products with weights behind a handle: floating point, and int8 with scales (W8A8).

The names are the engine's, which multiplies with oneDNN; here PyTorch does. A handle is a number
above 0 that names one weight matrix of this process until it is released.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class _Weights:
    b: torch.Tensor
    scales: torch.Tensor | None = None
    dynamic: bool = False
    use_azp: bool = False


_weights: dict[int, _Weights] = {}
_numbers = itertools.count(1)


def _add(weights: _Weights) -> int:
    handle = next(_numbers)
    _weights[handle] = weights
    return handle


def _find(op: str, handle: int) -> _Weights:
    weights = _weights.get(handle)
    if weights is None:
        raise RuntimeError(f"{op}: handle {handle} is unknown or was released")
    return weights


def create_onednn_mm_handler(b: torch.Tensor, primitive_cache_size: int) -> int:
    """Handle of a copy of ``b`` [K, N], float32, bfloat16 or float16, any strides."""
    if b.dim() != 2 or b.dtype not in _FLOATS:
        raise RuntimeError(
            f"create_onednn_mm_handler: b is {b.dtype} {list(b.shape)}, want a floating [K, N]"
        )
    return _add(_Weights(b.clone()))


def onednn_mm(
    c: torch.Tensor, a: torch.Tensor, bias: torch.Tensor | None, handler_tensor: torch.Tensor
) -> None:
    """``c = a @ b + bias`` summed in float32; c [..., N], a [M, K], bias [N], one dtype."""
    weights = _find("onednn_mm", int(handler_tensor.item()))
    if weights.scales is not None:
        raise RuntimeError("onednn_mm: the handle is not one of create_onednn_mm_handler")
    b = weights.b
    product = a.float() @ b.float()
    c.copy_((product if bias is None else product + bias.float()).view(c.shape))


def release_dnnl_matmul_handler(handler: int) -> None:
    """Free the weights of ``handler``; RuntimeError where it names none."""
    if _weights.pop(handler, None) is None:
        raise RuntimeError(
            f"release_dnnl_matmul_handler: handle {handler} is unknown or was released"
        )


def create_onednn_scaled_mm_handler(
    b: torch.Tensor,
    b_scales: torch.Tensor,
    output_type: torch.dtype,
    dynamic_act_quant: bool,
    use_azp: bool,
    primitive_cache_size: int,
) -> int:
    """Handle of a copy of ``b`` [K, N] int8 and its scales: 1 or N float32 values."""
    if b.dim() != 2 or b.dtype != torch.int8 or output_type not in _FLOATS:
        raise RuntimeError(
            f"create_onednn_scaled_mm_handler: b is {b.dtype} {list(b.shape)} for {output_type}, "
            "want int8 [K, N] for a floating output_type"
        )
    scales = b_scales.detach().float().reshape(-1).expand(b.shape[1]).clone()
    return _add(_Weights(b.clone(), scales, dynamic_act_quant, use_azp))


def onednn_scaled_mm(
    c: torch.Tensor,
    a: torch.Tensor,
    a_scales: torch.Tensor,
    azp: torch.Tensor | None,
    azp_adj: torch.Tensor | None,
    bias: torch.Tensor | None,
    handler_tensor: torch.Tensor,
) -> None:
    """``c = a_scales * (b_scales * (a @ b) - azp * adj) + bias``.

    c [M, N] floating, a [M, K] int8, a_scales float32 and azp int32: one value, or one per row if
    the handle was made with ``dynamic_act_quant``. adj[n] is ``azp_adj`` there, float32 (it holds
    b_scales) or int32 (it does not); else, or where that is None, ``b_scales[n] * sum_k b[k, n]``.
    """
    weights = _find("onednn_scaled_mm", int(handler_tensor.item()))
    if weights.scales is None:
        raise RuntimeError(
            "onednn_scaled_mm: the handle is not one of create_onednn_scaled_mm_handler"
        )
    if (azp is not None) != weights.use_azp:
        raise RuntimeError(
            f"onednn_scaled_mm: azp is {'absent' if azp is None else 'given'}, but the handle was "
            f"created with use_azp={weights.use_azp}"
        )
    # float64 holds every sum of products of int8 exactly, and has a fast matrix product.
    value = (a.double() @ weights.b.double()) * weights.scales
    if azp is not None:
        if azp_adj is None or not weights.dynamic:
            adj = weights.b.sum(0, dtype=torch.float64) * weights.scales
        elif azp_adj.dtype == torch.int32:
            adj = azp_adj.double().reshape(-1) * weights.scales
        else:
            adj = azp_adj.double().reshape(-1)
        value = value - azp.double().reshape(-1, 1) * adj
    value = value * a_scales.reshape(-1, 1)
    c.copy_(value if bias is None else value + bias.double())


def is_onednn_acl_supported() -> bool:
    """Whether products run through the Arm Compute Library: not here."""
    return False
