"""Calls for the fuzzer: valid ones of other sizes, spoilt ones, and ones made from the schema."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

from vllm_kernels import engine_api

from .calls import Call, optional

INT64, INT32 = 2**63 - 1, 2**31 - 1
EXTREMES = (
    *(0, 1, -1, 2, 7, 8, 16, 31, 33, 64, 127, 4096),
    *(INT32, INT32 - 1, -INT32 - 1, INT32 + 1, 2 * INT32 + 2),
    *(INT64, INT64 - 1, -INT64 - 1, -INT64, 2**62, 2**53),
)
SIZES = (0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 48, 64, 65, 80, 128, 129, 160, 256)
FLOATS = (0.0, 1.0, -1.0, 1e-6, 0.5, 1e30, -1e30, float("inf"), float("nan"), 5e-324)
WORDS = ("auto", "vec", "vec16", "amx", "neon", "silu", "gelu", "swigluoai", "fp8", "", "é" * 3)
DTYPES = (
    *(torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint8),
    *(torch.int16, torch.int32, torch.int64, torch.bool, torch.float8_e4m3fn, torch.complex64),
)
# A tensor of more than this many bytes is not worth its time.
LARGEST = 1 << 20

Spoil = Callable[[Call, int, random.Random], Call]


def plain(x: Tensor) -> bool:
    """Whether its values lie in memory."""
    return x.layout == torch.strided and x.device.type != "meta" and not x.is_neg()


@functools.cache
def _drawn() -> Tensor:
    return torch.randn(1 << 16, generator=torch.Generator().manual_seed(0))


def _random(count: int, dice: random.Random) -> Tensor:
    """Numbers drawn once, from another one on each time: drawing takes longer than most calls."""
    drawn = _drawn()
    if count > drawn.numel():
        return drawn.repeat(-(-count // drawn.numel()))[:count]
    begin = dice.randrange(drawn.numel() - count + 1)
    return drawn[begin : begin + count].clone()


def filled(shape: tuple[int, ...], like: Tensor, dice: random.Random) -> Tensor:
    """A tensor of that shape with the values of ``like`` over and over, floats at random."""
    dtype = like.dtype
    count = math.prod(shape)
    if max(count, like.numel()) * like.element_size() > LARGEST or not plain(like):
        return like
    if dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        return _random(count, dice).view(shape).to(dtype)
    if like.numel() == 0:
        return torch.zeros(shape, dtype=dtype)
    flat = like.flatten()
    return flat.repeat(-(-count // flat.numel()))[:count].view(shape).clone()


def _other_size(call: Call, dice: random.Random, device: str) -> tuple[int, int] | None:
    """A size of the call, and another; None where it has none.

    A GPU's kernels take any number of rows, but of a depth often whole parts alone.
    """
    sizes = {size for _, x in call.tensors() for size in x.shape if size > 1}
    rows = {x.shape[0] for _, x in call.tensors() if x.dim() > 0 and x.shape[0] > 1}
    if not sizes:
        return None
    if device == "cpu" or (rows and dice.random() < 0.7):
        return dice.choice(sorted(sizes if device == "cpu" else rows)), dice.choice(SIZES)
    old = dice.choice(sorted(sizes))
    part = old & -old  # the largest power of two that divides it
    return old, dice.choice((part, old + part, old + 2 * part, 2 * old, max(1, old - part)))


def resized(call: Call, dice: random.Random, device: str = "cpu") -> Call:
    """A size of the call, wherever it or a multiple of it occurs, becomes another."""
    sizes = _other_size(call, dice, device)
    if sizes is None:
        return call
    old, new = sizes

    def size(value: int) -> int:
        if value == old:
            return new
        for factor in (2, 3, 4, 8):
            if value == factor * old:
                return factor * new
            if value * factor == old and new % factor == 0:
                return new // factor
        return value

    def argument(value: object) -> object:
        if isinstance(value, Tensor):
            shape = tuple(size(one) for one in value.shape)
            return value if shape == tuple(value.shape) else filled(shape, value, dice)
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            return size(value)
        return value

    return Call(call.op, tuple(argument(value) for value in call.arguments))


def relaid(call: Call, place: int, dice: random.Random) -> Call:
    """The same values with other strides: gaps between rows, or dimensions in another order."""
    x = call.arguments[place]
    if x.dim() == 0:
        return call
    if dice.random() < 0.7:
        wide = torch.zeros((*x.shape[:-1], x.shape[-1] + dice.choice((1, 3, 16))), dtype=x.dtype)
        view = wide[..., : x.shape[-1]]
    else:
        order = list(range(x.dim()))
        dice.shuffle(order)
        view = torch.zeros([x.shape[dim] for dim in order], dtype=x.dtype)
        view = view.permute([order.index(dim) for dim in range(x.dim())])
    return call.replaced(place, view.copy_(x))


def reindexed(call: Call, place: int, dice: random.Random) -> Call:
    """Some values of an integer tensor become extremes; of a floating one, infinities and NaN."""
    x = call.arguments[place].clone()
    if x.numel() == 0:
        return call
    flat = x.flatten()
    for _ in range(dice.choice((1, 1, 3))):
        at = dice.randrange(flat.numel())
        if x.dtype.is_floating_point:
            flat[at] = dice.choice(FLOATS)
        elif x.dtype != torch.bool:
            info = torch.iinfo(x.dtype)
            flat[at] = min(max(dice.choice(EXTREMES), info.min), info.max)
    return call.replaced(place, flat.view(x.shape))


def _expanded(call: Call, place: int, dice: random.Random) -> Call:
    x = call.arguments[place]
    if x.dim() == 0 or x.numel() == 0:
        return call
    dim = dice.randrange(x.dim())
    sizes = list(x.shape)
    sizes[dim] = dice.choice((sizes[dim], sizes[dim], 2**31, 2**40))
    return call.replaced(place, x.narrow(dim, 0, 1).expand(sizes))


def _restrided(call: Call, place: int, dice: random.Random) -> Call:
    x = call.arguments[place]
    strides = [dice.choice((0, 1, 2, 3, stride, max(0, stride - 1))) for stride in x.stride()]
    reach = 1 + sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True) if n > 0)
    if x.numel() == 0 or reach * x.element_size() > LARGEST:
        return call
    memory = filled((reach,), x, dice)
    return call.replaced(place, memory.as_strided(x.shape, strides))


def _aliased(call: Call, place: int, dice: random.Random) -> Call:
    """Two arguments in one memory, at a distance of a few elements or none."""
    others = [at for at, _ in call.tensors() if at != place]
    if not others:
        return call
    other = dice.choice(others)
    one, two = call.arguments[place], call.arguments[other]
    item = max(one.element_size(), two.element_size())
    if one.layout != torch.strided or two.layout != torch.strided or one.numel() == 0:
        return call
    if not one.is_contiguous() or not two.is_contiguous() or one.nbytes + two.nbytes > LARGEST:
        return call
    shift = dice.choice((0, 0, item, 4 * item, one.nbytes // item * item))
    memory = torch.zeros(max(one.nbytes, shift + two.nbytes) + item, dtype=torch.uint8)
    first = memory[: one.nbytes].view(one.dtype).view(one.shape).copy_(one)
    second = memory[shift : shift + two.nbytes].view(two.dtype).view(two.shape)
    return call.replaced(place, first).replaced(other, second)


def _huge_and_empty(call: Call, place: int, dice: random.Random) -> Call:
    x = call.arguments[place]
    if x.dim() < 2:
        return call
    sizes = [dice.choice((0, 1, size, 2**31, 2**33, 2**40)) for size in x.shape]
    sizes[dice.randrange(len(sizes))] = 0
    return call.replaced(place, torch.empty(sizes, dtype=x.dtype))


def _reshaped(call: Call, place: int, dice: random.Random) -> Call:
    x = call.arguments[place]
    sizes = list(x.shape)
    match dice.randrange(4):
        case 0:
            sizes.append(dice.choice((0, 1, 2)))
        case 1 if sizes:
            sizes.pop(dice.randrange(len(sizes)))
        case 2 if sizes:
            sizes[dice.randrange(len(sizes))] = dice.choice(SIZES)
        case _:
            sizes.insert(0, 1)
    return call.replaced(place, filled(tuple(sizes), x, dice))


def _odd(call: Call, place: int, dice: random.Random) -> Call:
    x = call.arguments[place]
    match dice.randrange(5):
        case 0:
            return call.replaced(place, None)
        case 1:
            return call.replaced(place, x.to("meta"))
        case 2 if x.numel() < 1 << 16:
            return call.replaced(place, x.to_sparse())
        case 3 if x.dtype != torch.bool:
            return call.replaced(place, torch._neg_view(x))
        case _:
            memory = bytearray(x.nbytes + 1)
            if not x.nbytes:
                return call
            odd = torch.frombuffer(memory, dtype=x.dtype, offset=1, count=x.numel())
            return call.replaced(place, odd.view(x.shape))


def _retyped(call: Call, place: int, dice: random.Random) -> Call:
    return call.replaced(place, call.arguments[place].to(dice.choice(DTYPES)))


def _other_plain(call: Call, place: int, dice: random.Random) -> Call:
    match call.arguments[place]:
        case bool(value):
            return call.replaced(place, not value)
        case int():
            return call.replaced(place, dice.choice(EXTREMES))
        case float():
            return call.replaced(place, dice.choice(FLOATS))
        case str():
            return call.replaced(place, dice.choice(WORDS))
        case list(values):
            values = [*values, dice.choice(EXTREMES)]
            dice.shuffle(values)
            return call.replaced(place, values[dice.randrange(2) :])
    return call


SPOILS: tuple[Spoil, ...] = (
    *(_expanded, _restrided, _aliased, _huge_and_empty, _reshaped, _odd, _retyped),
    *(reindexed, reindexed),
)


def spoilt(call: Call, dice: random.Random) -> Call:
    """One argument becomes what the op may not expect."""
    tensors = [place for place, _ in call.tensors()]
    plain = [
        place
        for place, value in enumerate(call.arguments)
        if isinstance(value, (bool, int, float, str, list))
    ]
    if plain and (not tensors or dice.random() < 0.4):
        return _other_plain(call, dice.choice(plain), dice)
    if not tensors:
        return call
    try:
        return dice.choice(SPOILS)(call, dice.choice(tensors), dice)
    except RuntimeError:  # PyTorch itself has no such tensor, sparse ones of float8 for example
        return call


def _integers(dice: random.Random) -> list[int]:
    return [dice.choice(EXTREMES) for _ in range(dice.randrange(4))]


def generic(op: str, dice: random.Random) -> Call:
    """Arguments of the schema's types, and of no other meaning."""
    values: list[object] = []
    sizes = [dice.choice(SIZES[:14]) for _ in range(3)]
    for place, argument in enumerate(engine_api.schema(op).arguments):
        kind = str(argument.type)
        if optional(op, place) and dice.random() < 0.5:
            values.append(None)
        elif "Tensor" in kind:
            shape = [dice.choice(sizes) for _ in range(dice.randrange(5))]
            dtype = dice.choice(DTYPES[:11])
            values.append((_random(math.prod(shape), dice).view(shape) * 3).to(dtype))
        elif "List[List[int]]" in kind:
            values.append([_integers(dice) for _ in range(dice.randrange(4))])
        elif "List[int]" in kind:
            values.append(_integers(dice))
        elif kind == "int" and argument.name in ("dtype", "out_dtype", "output_type"):
            values.append(dice.choice(DTYPES))
        elif "bool" in kind:
            values.append(dice.random() < 0.5)
        elif "int" in kind:
            values.append(dice.choice(EXTREMES))
        elif "float" in kind:
            values.append(dice.choice(FLOATS))
        else:
            values.append(dice.choice(WORDS))
    return Call(op, tuple(values))


def made(op: str, how: str, bases: list[Call], seed: int, device: str = "cpu") -> Call:
    """The call that a seed makes of an op's valid ones."""
    dice = random.Random(seed)  # noqa: S311 - the seed brings a call back
    if how == "generic":
        return generic(op, dice)
    call = dice.choice(bases)
    for _ in range(dice.randrange(4)):
        call = resized(call, dice, device)
    for place, x in list(call.tensors()):
        if dice.random() < 0.15 and x.numel() > 0:
            call = relaid(call, place, dice)
    return spoilt(call, dice) if how == "spoilt" else call
