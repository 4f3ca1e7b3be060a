"""The ops of ``vllm_kernels`` under the names that the engine calls."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterable
from importlib.machinery import ModuleSpec

import torch

from vllm_kernels import engine_api
from vllm_kernels_plugin import namespaces
from vllm_kernels_plugin.errors import PluginError

# Without this op the engine multiplies with torch.nn.functional.linear, which our reference, a
# definition of the result in float32, is much slower than.
_BETTER_LEFT_TO_PYTORCH = frozenset({"create_onednn_mm_handler"})


@functools.cache
def _fragment(namespace: str) -> torch.library.Library:
    # Kept for the life of the process: registrations go when their library object does.
    return torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]


def _defined(name: str) -> bool:
    registered = torch._C._dispatch_has_kernel  # true for a schema without kernels as well
    return bool(registered(_qualified(name)))


def _qualified(name: str) -> str:
    return f"{namespaces.of(name)}::{name}"


@functools.cache
def serve(device: str) -> tuple[str, ...]:
    """Define and implement every op that the engine has on ``device``; return their names.

    Native kernels are registered a second time by their own libraries, which costs a call
    nothing. What only Python implements is forwarded. An op without any implementation stays
    undefined, because the engine asks for optional ops by their existence.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        PluginError: another package already defines one of them.
    """
    left = _BETTER_LEFT_TO_PYTORCH.intersection(engine_api.reference_ops()) | namespaces.OURS
    names = [
        name
        for name in engine_api.ops()
        if device in engine_api.devices_of(name)
        and engine_api.dispatch_keys(name)
        and name not in left
    ]
    if taken := [name for name in names if _defined(name)]:
        raise PluginError(
            f"another package has already defined torch.ops.{namespaces.of(taken[0])}.{taken[0]}: "
            "uninstall the other vLLM plugin or kernel package"
        )
    for name in names:
        engine_api.define(namespaces.of(name), name)
    for namespace in namespaces.everything():
        engine_api.implement(namespace, [n for n in names if namespaces.of(n) == namespace])
    for name in names:
        _forward_missing(name)
    return tuple(names)


def register_fakes(device: str) -> None:
    """Register the fakes of the served ops, but for those that the engine has registered."""
    fakes = engine_api.fakes()
    for name in serve(device):
        entry = torch._library.simple_registry.singleton.find(_qualified(name))
        fake = fakes.get(name)
        if fake is not None and entry.fake_impl.kernel is None:
            library = _fragment(namespaces.of(name))
            torch.library.register_fake(_qualified(name), fake, lib=library)


def _forward_missing(name: str) -> None:
    """Forward the keys of the op that no library has registered in the engine's namespace."""
    op = getattr(torch.ops.vllm_kernels, name).default
    for key in engine_api.dispatch_keys(name):
        if not torch._C._dispatch_has_kernel_for_dispatch_key(_qualified(name), key):
            _fragment(namespaces.of(name)).impl(name, op, key)  # type: ignore[no-untyped-call]


def plant(names: Iterable[str]) -> None:
    """Stand in for the engine's native modules: it imports them only to have ops defined."""
    for name in (f"vllm.{name}" for name in names):
        module = types.ModuleType(name, "Stands for the engine's native module; see vllm_kernels.")
        # Python's own importers and torch.compile look at the spec of what is in sys.modules.
        module.__spec__ = ModuleSpec(name, loader=None, origin=__file__)
        module.__file__ = __file__
        sys.modules[name] = module
