"""Fake (meta) implementations: what torch.compile needs to know of an op without running it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import _disable_current_modes

from vllm_kernels import _ops

Fake = Callable[..., object]


def _mutates_only(*args: object, **kwargs: object) -> None:
    """Fake of an op that returns nothing: its outputs are arguments, whose shapes stay."""


def _query(name: str) -> Fake:
    """Fake of an op without tensors: a question about the host, with the host's answer."""

    def fake(*args: object, **kwargs: object) -> object:
        with _disable_current_modes():
            return getattr(torch.ops.vllm_kernels, name)(*args, **kwargs)

    return fake


def _handle(*args: object, **kwargs: object) -> torch.types.IntLikeType:
    """Fake of an op that returns the handle of a native object: some integer."""
    return torch.library.get_ctx().new_dynamic_size()


def _scheduler_metadata(
    num_req: int,
    num_heads_q: int,
    num_heads_kv: int,
    head_dim: int,
    seq_lens: torch.Tensor,
    *args: object,
    **kwargs: object,
) -> torch.Tensor:
    """Opaque bytes, of a size that depends on the batch."""
    size = torch.library.get_ctx().new_dynamic_size()
    return seq_lens.new_empty((size,), dtype=torch.int8)


# Ops whose result the schema alone does not tell.
_SPECIAL: dict[str, Fake] = {
    "get_scheduler_metadata": _scheduler_metadata,
    "create_onednn_mm_handler": _handle,
    "create_onednn_scaled_mm_handler": _handle,
}


def fake_of(name: str) -> Fake | None:
    """Fake of the op, or None where one has to be written."""
    if name in _SPECIAL:
        return _SPECIAL[name]
    schema = _ops.schema(name)
    if not schema.returns:
        return _mutates_only
    if not any("Tensor" in str(value.type) for value in (*schema.arguments, *schema.returns)):
        return _query(name)
    return None


def register(library: torch.library.Library) -> list[str]:
    """Register the fake of every op of the namespace; return the ops that have none."""
    missing = []
    for name in _ops.names():
        fake = fake_of(name)
        if fake is None:
            missing.append(name)
        else:
            torch.library.register_fake(f"{_ops.NAMESPACE}::{name}", fake, lib=library)
    return missing
