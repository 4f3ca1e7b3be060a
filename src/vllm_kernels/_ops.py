"""The ops of the namespace, as the dispatcher knows them."""

from __future__ import annotations

import torch

NAMESPACE = "vllm_kernels"

# Keys under which a device library registers: tensors' devices, and ops without tensors.
NATIVE_KEYS = ("CPU", "CUDA", "CompositeExplicitAutograd")


def names() -> list[str]:
    """Every op's name without the namespace, sorted."""
    prefix = f"{NAMESPACE}::"
    registered = torch._C._dispatch_get_all_op_names()
    return sorted(name[len(prefix) :] for name in registered if name.startswith(prefix))


def schema(name: str) -> torch.FunctionSchema:
    """Schema of one op, as csrc/torch/ops.def defines it."""
    return torch._C._get_schema(f"{NAMESPACE}::{name}", "")


def kernel_keys(name: str) -> list[str]:
    """The dispatch keys of NATIVE_KEYS under which the op has an implementation."""
    return [
        key
        for key in NATIVE_KEYS
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", key)
    ]
