"""The ops of ``vllm_kernels`` under the names that the engine calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from vllm_kernels import engine_api
from vllm_kernels_plugin import adapt, all_reduce, engine, engines, modules
from vllm_kernels_plugin.errors import PluginError

# Without the first the engine multiplies with torch.nn.functional.linear; our reference defines the
# result in float32 and is much slower. Without the second its ranks meet by gloo; our reference
# knows ranks that are threads of one process.
_BETTER_LEFT_TO_PYTORCH = frozenset({"create_onednn_mm_handler", "init_shm_manager"})


@functools.cache
def fragment(namespace: str) -> torch.library.Library:
    """The library object of a namespace: kept, since registrations end with it."""
    return torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Served:
    """An op under the name that the engine calls.

    Attributes:
        space: The engine's namespace.
        theirs: The engine's schema; None where it is ours.
        adapted: Whether the arguments differ, so that a function stands before the kernel.
    """

    name: str
    space: str
    theirs: torch.FunctionSchema | None = None
    signature: str = ""
    adapted: bool = False

    @property
    def qualified(self) -> str:
        return f"{self.space}::{self.name}"


def _defined(op: Served) -> bool:
    registered = torch._C._dispatch_has_kernel  # true for a schema without kernels as well
    return bool(registered(op.qualified))


@functools.cache
def serve(device: str) -> tuple[str, ...]:
    """Define and implement every op that the engine has on ``device``; return their names.

    Native kernels are registered a second time by their own libraries, which costs a call
    nothing. What only Python implements is forwarded, and so is an op whose arguments differ in
    the installed engine. An op without any implementation stays undefined, because the engine asks
    for optional ops by their existence.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        PluginError: another package already defines one of them, or the engine's arguments are
            unknown.
    """
    found = _served(device)
    if taken := next(filter(_defined, found), None):
        raise PluginError(
            f"another package has already defined torch.ops.{taken.space}.{taken.name}: "
            "uninstall the other vLLM plugin or kernel package"
        )
    for op in found:
        if op.theirs is None:
            engine_api.define(op.space, op.name)
        else:
            fragment(op.space).define(op.name + op.signature)  # type: ignore[no-untyped-call]
    for space in sorted({op.space for op in found}):
        native = [op.name for op in found if op.space == space and not op.adapted]
        engine_api.implement(space, native)
    for op in found:
        _forward_missing(op)
    return tuple(op.name for op in found)


@functools.cache
def _served(device: str) -> tuple[Served, ...]:
    """The ops of the installed engine that have an implementation here."""
    left = _BETTER_LEFT_TO_PYTORCH.intersection(engine_api.reference_ops())
    left |= all_reduce.left_out()
    engines_ops = engines.ops(engine.version(), device)
    found = []
    for name in engine_api.ops():
        # Ours alone, for the plugin's modules; or of another engine or device.
        if name not in engines_ops or device not in engine_api.devices_of(name):
            continue
        if name in left or not engine_api.dispatch_keys(name):
            continue
        space, signature = engines_ops[name]
        if signature == engines.PLACEHOLDER and engine_api.schema(name).arguments:
            # What the engine only has a name for, in the form that later ones gave it.
            found.append(Served(name, space))
            continue
        ours, theirs = engine_api.schema(name), adapt.schema(name, signature)
        if space == engine_api.namespace_of(name) and _is_ours(ours, theirs):
            found.append(Served(name, space))
        else:
            differs = not adapt.same_types(ours, theirs)
            found.append(Served(name, space, theirs, signature, differs))
    return tuple(found)


def _is_ours(ours: torch.FunctionSchema, theirs: torch.FunctionSchema) -> bool:
    """Whether our schema serves as it is.

    Where CPU and CUDA name an output differently, ours has the name of CUDA, by which the fusion
    passes go.
    """
    names = [[value.name for value in one.arguments[1:]] for one in (ours, theirs)]
    return adapt.same_types(ours, theirs) and names[0] == names[1]


def register_fakes(device: str) -> None:
    """Register the fakes of the served ops, but for those that the engine has registered."""
    # It registers fakes of its own for some ops, and PyTorch 2.11 takes none twice.
    import vllm._custom_ops  # noqa: F401

    serve(device)
    fakes = engine_api.fakes()
    for op in _served(device):
        entry = torch._library.simple_registry.singleton.find(op.qualified)
        fake = fakes.get(op.name)
        if fake is not None and entry.fake_impl.kernel is None:
            torch.library.register_fake(op.qualified, _for(op, fake), lib=fragment(op.space))


def _forward_missing(op: Served) -> None:
    """Forward the keys of the op that no library has registered in the engine's namespace."""
    function = _for(op, getattr(torch.ops.vllm_kernels, op.name).default)
    for key in engine_api.dispatch_keys(op.name):
        if not torch._C._dispatch_has_kernel_for_dispatch_key(op.qualified, key):
            library = fragment(op.space)
            library.impl(op.name, function, key)  # type: ignore[no-untyped-call]


def _for(op: Served, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of our arguments as one of the engine's."""
    if not op.adapted or op.theirs is None:
        return function
    return adapt.adapted(op.name, engine_api.schema(op.name), op.theirs, function)


def plant(names: Iterable[str]) -> None:
    """Stand in for the engine's native modules: it imports them only to have ops defined."""
    for name in names:
        about = "Stands for the engine's native module; see vllm_kernels."
        modules.plant(f"vllm.{name}", about, __file__)
