"""Calls of ops as data: what the self-test calls, and what they look like in a report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vllm_kernels import engine_api, selftest

ops = torch.ops.vllm_kernels


@dataclass(frozen=True)
class Call:
    """An op and its arguments in the schema's order, all of them."""

    op: str
    arguments: tuple[Any, ...]

    def replaced(self, place: int, value: object) -> Call:
        """The same call with another argument."""
        return replace(
            self, arguments=(*self.arguments[:place], value, *self.arguments[place + 1 :])
        )

    def tensors(self) -> Iterator[tuple[int, Tensor]]:
        """Place and value of the arguments that are tensors."""
        for place, value in enumerate(self.arguments):
            if isinstance(value, Tensor):
                yield place, value

    def copied(self) -> Call:
        """The same call on copies of its tensors, with their strides where they are dense."""
        copies = (x.clone() if isinstance(x, Tensor) else x for x in self.arguments)
        return replace(self, arguments=tuple(copies))

    def run(self, provider: Any = ops) -> object:
        """Call the op."""
        return getattr(provider, self.op)(*self.arguments)

    def __str__(self) -> str:
        names = [argument.name for argument in engine_api.schema(self.op).arguments]
        pairs = zip(names, self.arguments, strict=True)
        return f"{self.op}({', '.join(f'{name}={describe(value)}' for name, value in pairs)})"


def describe(value: object) -> str:
    """An argument in a line: a tensor by dtype, shape, strides, and a few values of indices."""
    if not isinstance(value, Tensor):
        return repr(value)
    text = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if value.layout != torch.strided or value.device.type != "cpu":
        return f"{text} {value.layout} {value.device}"
    text += f"/{list(value.stride())}"
    if not value.dtype.is_floating_point and 0 < value.numel() <= 16:
        text += str(value.tolist())
    return text


# The engine's schemas do not say so.
_WRITTEN = ("workspace", "c_or_none", "blockscale_offsets")
_READ = (("causal_conv1d_update_cpu_vec", "x"),)


def written(op: str) -> list[int]:
    """Places of the arguments that the op writes."""
    return [
        place
        for place, argument in enumerate(engine_api.schema(op).arguments)
        if (op, argument.name) not in _READ
        and (
            argument.name in _WRITTEN
            or (argument.alias_info is not None and argument.alias_info.is_write)
        )
    ]


def named(call: Call) -> dict[str, Any]:
    """The arguments by their names."""
    names = [argument.name for argument in engine_api.schema(call.op).arguments]
    return dict(zip(names, call.arguments, strict=True))


def fits(op: str, names: Iterable[str]) -> bool:
    """Whether these are the op's arguments, in this order, in the kernels that are loaded."""
    if op not in engine_api.ops():
        return False
    return list(names) == [argument.name for argument in engine_api.schema(op).arguments]


def optional(op: str, place: int) -> bool:
    """Whether None may stand at that place."""
    return str(engine_api.schema(op).arguments[place].type).startswith("Optional")


def full(op: str, args: tuple[object, ...], kwargs: dict[str, object]) -> Call:
    """The call with the schema's defaults filled in."""
    values = []
    for place, argument in enumerate(engine_api.schema(op).arguments):
        if place < len(args):
            values.append(args[place])
        else:
            values.append(kwargs.get(argument.name, argument.default_value))
    return Call(op, tuple(values))


class Recorder:
    """Stands for ``torch.ops.vllm_kernels`` and keeps what is called."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __getattr__(self, op: str) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            recorded = full(op, args, kwargs)
            self.calls.append(recorded.copied())
            # The weights stay, so that the handles in other recorded calls keep naming them.
            return None if op == "release_dnnl_matmul_handler" else recorded.run()

        return call


def recorded() -> list[Call]:
    """Every call that the self-test makes: valid ones of every op of the CPU."""
    recorder = Recorder()
    selftest.call(recorder)
    return recorder.calls


@functools.cache
def families(device: str) -> dict[str, list[str]]:
    """The ops of each family that has any on the device."""
    found: dict[str, list[str]] = {}
    for op in engine_api.ops():
        if device in engine_api.devices_of(op):
            found.setdefault(engine_api.family_of(op), []).append(op)
    return found
