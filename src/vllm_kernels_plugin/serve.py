"""The ops of ``vllm_kernels`` under the names that the engine calls."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterable
from importlib.machinery import ModuleSpec

import torch

from vllm_kernels import engine_api
from vllm_kernels_plugin.errors import PluginError

# Without this op the engine multiplies with torch.nn.functional.linear. Our reference defines the
# result in float32 and is much slower.
_BETTER_LEFT_TO_PYTORCH = frozenset({"create_onednn_mm_handler"})


@functools.cache
def _fragment(namespace: str) -> torch.library.Library:
    # Kept for the life of the process: registrations end with their library object.
    return torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]


def _defined(name: str) -> bool:
    registered = torch._C._dispatch_has_kernel  # true for a schema without kernels as well
    return bool(registered(_qualified(name)))


def _qualified(name: str) -> str:
    return f"{engine_api.namespace_of(name)}::{name}"


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
    left = _BETTER_LEFT_TO_PYTORCH.intersection(engine_api.reference_ops())
    spaces = {
        name: space
        for name in engine_api.ops()
        if device in engine_api.devices_of(name)
        and engine_api.dispatch_keys(name)
        and name not in left
        # Under our own name: for the plugin's modules alone, or no longer called by the engine.
        and (space := engine_api.namespace_of(name)) != engine_api.NAMESPACE
    }
    if taken := next(filter(_defined, spaces), None):
        raise PluginError(
            f"another package has already defined torch.ops.{spaces[taken]}.{taken}: "
            "uninstall the other vLLM plugin or kernel package"
        )
    for name, space in spaces.items():
        engine_api.define(space, name)
    for namespace in sorted(set(spaces.values())):
        engine_api.implement(namespace, [n for n, space in spaces.items() if space == namespace])
    for name in spaces:
        _forward_missing(name)
    return tuple(spaces)


def register_fakes(device: str) -> None:
    """Register the fakes of the served ops, but for those that the engine has registered."""
    fakes = engine_api.fakes()
    for name in serve(device):
        entry = torch._library.simple_registry.singleton.find(_qualified(name))
        fake = fakes.get(name)
        if fake is not None and entry.fake_impl.kernel is None:
            library = _fragment(engine_api.namespace_of(name))
            torch.library.register_fake(_qualified(name), fake, lib=library)


def _forward_missing(name: str) -> None:
    """Forward the keys of the op that no library has registered in the engine's namespace."""
    op = getattr(torch.ops.vllm_kernels, name).default
    for key in engine_api.dispatch_keys(name):
        if not torch._C._dispatch_has_kernel_for_dispatch_key(_qualified(name), key):
            library = _fragment(engine_api.namespace_of(name))
            library.impl(name, op, key)  # type: ignore[no-untyped-call]


def plant(names: Iterable[str]) -> None:
    """Stand in for the engine's native modules: it imports them only to have ops defined."""
    for name in (f"vllm.{name}" for name in names):
        module = types.ModuleType(name, "Stands for the engine's native module; see vllm_kernels.")
        # Python's own importers and torch.compile look at the spec of what is in sys.modules.
        module.__spec__ = ModuleSpec(name, loader=None, origin=__file__)
        module.__file__ = __file__
        sys.modules[name] = module
