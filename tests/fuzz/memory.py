"""Tensors in memory of their own, with pages on both sides that nothing may touch.

On a GPU (gpu.py) no page can be protected, and known bytes lie on both sides.

What an op only reads is write-protected while the op runs; what it writes lies among bytes whose
values are known, so that a write between rows or just before the tensor shows too.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .calls import Call

_PAGE = mmap.PAGESIZE
SLACK = 0xA5
_NONE, _READ, _BOTH = 0, 1, 3
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
# Address space alone: a stray stride lands here rather than in what is mapped next to it.
_GUARD = 16 * _PAGE
# Pages of the arenas that are used again. Small ones, since all of their bytes are compared; what
# fits into none gets an arena for one call.
_USUAL = tuple(pages * _PAGE for pages in (1, 4, 16, 64))


class Arena:
    """Whole pages between two guards."""

    def __init__(self, size: int) -> None:
        self.size = -(-max(size, 1) // _PAGE) * _PAGE
        self._map = mmap.mmap(-1, self.size + 2 * _GUARD)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._map)) + _GUARD
        for guard in (self._start - _GUARD, self._start + self.size):
            _protect(guard, _GUARD, _NONE)
        memory = (ctypes.c_char * self.size).from_address(self._start)
        self.bytes = torch.frombuffer(memory, dtype=torch.uint8)

    def write_protected(self, protected: bool) -> None:
        _protect(self._start, self.size, _READ if protected else _BOTH)


def _protect(address: int, size: int, mode: int) -> None:
    if _libc.mprotect(address, size, mode) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")


def span(tensor: Tensor) -> int:
    """Bytes from the first to the last element."""
    if tensor.numel() == 0:
        return 0
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return int(reach + 1) * tensor.element_size()


def copied(x: Tensor, memory: Tensor, begin: int) -> Tensor:
    """A copy of ``x`` with its strides, from the byte ``begin`` of ``memory`` on."""
    item = x.element_size()
    first, count = begin // item, span(x) // item
    flat = memory.view(x.dtype)
    # By the memory that the elements span: they may share some of it.
    flat[first : first + count].copy_(x.as_strided((count,), (1,), x.storage_offset()))
    return flat.as_strided(x.shape, x.stride(), first)


def plain(x: Tensor) -> bool:
    """Whether a copy in other memory is the same argument."""
    return (
        x.layout == torch.strided
        and x.device.type == "cpu"
        and not x.is_neg()
        and not x.is_conj()
        and x.data_ptr() % x.element_size() == 0
    )


def shared(call: Call) -> set[int]:
    """Places of tensors whose memory another one has too."""
    first: dict[int, int] = {}
    found = set()
    for place, x in call.tensors():
        if x.layout != torch.strided or x.device.type == "meta" or x.numel() == 0:
            continue
        other = first.setdefault(x.untyped_storage().data_ptr(), place)
        if other != place:
            found |= {place, other}
    return found


@dataclass
class Placed:
    """A tensor, the memory around it, and what that held, where nothing guards it."""

    tensor: Tensor
    bytes: Tensor
    before: Tensor | None
    written: bool

    def changed(self) -> bool:
        """Whether anything was written, in the tensor or around it."""
        return self.before is not None and not torch.equal(self._now(self.before), self.before)

    def stray(self) -> int:
        """How many bytes outside of what the op may write have changed."""
        if self.before is None:
            return 0
        now = self._now(self.before)
        if torch.equal(now, self.before):
            return 0
        inside = torch.zeros_like(now)
        offset = self.tensor.storage_offset() * self.tensor.element_size()
        item = self.tensor.element_size()
        if self.written and self.tensor.numel() > 0:
            strides = [stride * item for stride in self.tensor.stride()]
            inside.as_strided((*self.tensor.shape, item), (*strides, 1), offset).fill_(1)
        return int(((now != self.before) & (inside == 0)).sum())

    def _now(self, before: Tensor) -> Tensor:
        """The bytes where ``before`` lies, which may be on the host."""
        return self.bytes.to(before.device)


class Arenas:
    """The arenas of a process, used again for each call."""

    def __init__(self) -> None:
        self._free: dict[int, list[Arena]] = {size: [] for size in _USUAL}

    @contextmanager
    def lend(self) -> Iterator[Loan]:
        """Arenas for the tensors of one call."""
        loan = Loan(self._free)
        try:
            yield loan
        finally:
            for arena in loan.arenas:
                arena.write_protected(False)
                self._free.get(arena.size, []).append(arena)


class Loan:
    """What one call's tensors lie in."""

    def __init__(self, free: dict[int, list[Arena]]) -> None:
        self._free = free
        self.placed: list[Placed] = []
        self.arenas: list[Arena] = []

    def place(self, like: Tensor, written: bool, at_end: bool) -> Tensor:
        """A copy of a tensor, with its strides, at one end of an arena."""
        size = span(like)
        if size == 0:
            return like
        size_class = next((usual for usual in _USUAL if size <= usual), size)
        free = self._free.get(size_class)
        arena = free.pop() if free else Arena(size_class)
        item = like.element_size()
        offset = (arena.size - size) // item * item if at_end else 0
        if written:
            arena.bytes.fill_(SLACK)
        tensor = copied(like, arena.bytes, offset)
        before = arena.bytes.clone() if written else None
        self.placed.append(Placed(tensor, arena.bytes, before, written))
        self.arenas.append(arena)
        return tensor

    def protect(self) -> None:
        """From now on, what is only read cannot be written."""
        for placed, arena in zip(self.placed, self.arenas, strict=True):
            arena.write_protected(not placed.written)
