"""Collectives over ranks that share memory: here the ranks are threads of one process.

``tests`` hold the kernels, whose ranks are processes, against these. The engine's ranks are
processes too, so it is not given them: it uses gloo where the kernels are not installed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


class _Group:
    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.parts: list[Tensor | None] = [None] * ranks
        self.meeting = threading.Barrier(ranks)
        self.messages = {
            (src, dst): queue.Queue[list[Tensor]]() for src in range(ranks) for dst in range(ranks)
        }


@dataclass
class _Registry:
    groups: dict[str, _Group] = field(default_factory=dict)
    handles: list[tuple[str, _Group, int]] = field(default_factory=list)
    joined: dict[str, int] = field(default_factory=dict)
    guard: threading.Lock = field(default_factory=threading.Lock)


_all = _Registry()


def init_shm_manager(name: str, group_size: int, rank: int, thread_num: int) -> int:
    """The handle of rank ``rank`` of ``group_size`` ranks that give the same name.

    Args:
        thread_num: The threads of each rank; they change no result.
    """
    with _all.guard:
        group = _all.groups.setdefault(name, _Group(group_size))
        _all.handles.append((name, group, rank))
        return len(_all.handles)


def join_shm_manager(handle: int, name: str) -> str:
    """Meet the other ranks, all of which have a handle by then; the group's name."""
    with _all.guard:
        _, group, _ = _all.handles[handle - 1]
        _all.joined[name] = _all.joined.get(name, 0) + 1
        if _all.joined[name] == group.ranks:  # the name may be another group's from now on
            del _all.groups[name], _all.joined[name]
    return name


def rank_sum(out: Tensor, parts: Tensor) -> None:
    """``out`` = the sum of ``parts`` over their first dimension.

    Added in that order in float32 and rounded once.

    Args:
        out: ``[width]``, the parts' dtype, contiguous.
        parts: ``[ranks, width]``, float32, bfloat16 or float16; at most 64 ranks.
    """
    total = parts[0].float()
    for part in parts[1:]:
        total = total + part.float()
    out.copy_(total)


def shm_allreduce(handle: int, data: Tensor) -> None:
    """``data`` = the sum of the ranks' ``data``, the same bits on every rank.

    Args:
        data: float32, bfloat16 or float16, contiguous, of the same size on every rank.
    """
    parts = torch.stack([part.flatten() for part in _exchange(handle, data)])
    rank_sum(data.view(-1), parts)


def shm_all_gather(handle: int, data: Tensor, output: Tensor) -> None:
    """``output`` = the ranks' ``data`` one after the other.

    Args:
        data: any dtype, of the same size on every rank.
        output: the same dtype, contiguous, with the elements of all ranks.
    """
    output.view(-1).copy_(torch.cat([part.flatten() for part in _exchange(handle, data)]))


def shm_gather(handle: int, data: Tensor, outputs: Sequence[Tensor] | None, dst: int) -> None:
    """``outputs[r]`` = rank r's ``data``, on rank ``dst``; the others need no ``outputs``."""
    parts = _exchange(handle, data)
    if outputs is not None and _all.handles[handle - 1][2] == dst:
        for output, part in zip(outputs, parts, strict=True):
            output.view(-1).copy_(part.flatten())


def shm_send_tensor_list(handle: int, tensor_list: Sequence[Tensor], dst: int) -> None:
    """Send tensors of any dtypes and shapes to rank ``dst``."""
    _, group, rank = _all.handles[handle - 1]
    group.messages[rank, dst].put([tensor.clone().contiguous() for tensor in tensor_list])


def shm_recv_tensor_list(handle: int, src: int) -> list[Tensor]:
    """The tensors that rank ``src`` sent to this one first, contiguous."""
    _, group, rank = _all.handles[handle - 1]
    return group.messages[src, rank].get()


def _exchange(handle: int, data: Tensor) -> list[Tensor]:
    """Every rank's ``data``."""
    _, group, rank = _all.handles[handle - 1]
    group.parts[rank] = data.clone()
    group.meeting.wait()
    parts = [part for part in group.parts if part is not None]
    group.meeting.wait()
    return parts
