"""What no op takes, whatever it computes: None for a tensor, and tensors that are not plain memory.

The kernels check their arguments themselves (csrc/torch/arguments.h). PyTorch leads a call past
them where a tensor is sparse, on no device with a kernel, or a view whose values are yet to be
negated or conjugated; those calls end here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NoReturn

import torch

from vllm_kernels import _ops

# Where the dispatcher would change a call by itself, and keep what an op writes in a copy.
_KEYS = ("Negative", "Conjugate", "ZeroTensor", "AutogradNestedTensor")
# Every device and layout for which nothing else is registered.
_REST = "CompositeExplicitAutograd"
# Ops that have it for their refusals alone.
_refusing: set[str] = set()


def check(name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """RuntimeError, one sentence with the op's and the argument's name, where an op takes no such.

    Tensors of one call are all on the meta device, or none is.
    """
    tensors = []
    for argument, optional, value in _tensors(name, args, kwargs):
        if value is None and not optional:
            raise RuntimeError(f"{name}: {argument} is None, want a tensor")
        if isinstance(value, torch.Tensor):
            if what := _oddity(value):
                raise RuntimeError(f"{name}: {argument} {what}")
            tensors.append((argument, value))
    on_meta = [argument for argument, value in tensors if value.device.type == "meta"]
    if on_meta and len(on_meta) < len(tensors):
        raise RuntimeError(
            f"{name}: {on_meta[0]} is on the meta device, want all tensors on one device"
        )


def checked(name: str, function: Callable[..., object]) -> Callable[..., object]:
    """``function``, called after :func:`check`."""

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        check(name, args, kwargs)
        return function(*args, **kwargs)

    return call


def register(library: torch.library.Library) -> None:
    """Let calls that reach no kernel and no reference end in a sentence."""
    for name in _ops.names():
        if not _places(name):
            continue
        refuse = functools.partial(_refuse, name)
        keys = _ops.kernel_keys(name)
        rest = (_REST,) if "CPU" in keys and _REST not in keys else ()
        for key in (*_KEYS, *rest):
            library.impl(name, refuse, key)  # type: ignore[no-untyped-call]
        if rest:
            _refusing.add(name)


def only_refuses(name: str, key: str) -> bool:
    """Whether what :func:`register` left there is all that the op has under a dispatch key."""
    return key in _KEYS or (key == _REST and name in _refusing)


def _refuse(name: str, *args: object, **kwargs: object) -> NoReturn:
    check(name, args, kwargs)
    for argument, _, value in _tensors(name, args, kwargs):
        if isinstance(value, torch.Tensor) and value.device.type not in ("cpu", "cuda"):
            raise RuntimeError(
                f"{name}: {argument} is on {value.device}, which has no kernel of this op"
            )
    raise RuntimeError(f"{name}: no kernel takes tensors of this kind, want plain ones")


@functools.cache
def _places(name: str) -> tuple[tuple[int, str, bool], ...]:
    """Place, name and whether it is optional, of each tensor argument of the op."""
    return tuple(
        (place, argument.name, str(argument.type).startswith("Optional"))
        for place, argument in enumerate(_ops.schema(name).arguments)
        if "Tensor" in str(argument.type)
    )


def _tensors(
    name: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> Iterator[tuple[str, bool, object]]:
    """Name, whether it is optional, and value of each tensor argument that was passed."""
    for place, argument, optional in _places(name):
        if place < len(args):
            yield argument, optional, args[place]
        elif argument in kwargs:
            yield argument, optional, kwargs[argument]


def _oddity(tensor: torch.Tensor) -> str:
    """What is not plain about the tensor; empty where nothing is."""
    if tensor.is_nested:
        return "is a nested tensor, want a plain one"
    if tensor.layout != torch.strided:
        return f"has layout {str(tensor.layout).removeprefix('torch.')}, want a dense tensor"
    if tensor.is_quantized:
        return f"is quantized ({str(tensor.dtype).removeprefix('torch.')}), want a plain tensor"
    if torch._is_zerotensor(tensor):
        return "is an immutable tensor of zeros, want values in memory (call .clone())"
    if tensor.is_neg():
        return "is a view that is yet to be negated, want values in memory (call .resolve_neg())"
    if tensor.is_conj():
        return "is a view that is yet to be conjugated, want real numbers"
    return ""
