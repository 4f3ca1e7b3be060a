"""Collectives on one GPU: groups of ranks of which the first alone makes calls.

Ranks wait for each other in a kernel, which never ends under a tool that runs one kernel at a time.
The other ranks here have been to every meeting long ago, and what they share is zero.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .calls import Call, ops

# More than any call of the strategies brings, the ranks' parts together.
_ROOM = 16 << 20
# Counts of a rank's own meetings, behind those of its peers' (csrc/cuda/all_reduce/launch.h).
_OWN = 64 * 4
_LONG_AGO = 2**30
_TWO_SHOTS = 256 << 10  # bytes at which some group takes them (plan.h)
_BUFFERS = 64  # whose addresses a communicator has room for


class Group:
    """A communicator, the buffer of its rank, and the memory of all ranks."""

    def __init__(self, ranks: int, device: str) -> None:
        def bytes_(count: int) -> Tensor:
            return torch.zeros(count, dtype=torch.uint8, device=device)

        signals = [bytes_(ops.meta_size() + _ROOM) for _ in range(ranks)]
        buffers = [bytes_(_ROOM) for _ in range(ranks)]
        addresses = bytes_(_BUFFERS * 8 * 8)
        signals[0][: ops.meta_size() - _OWN].view(torch.int32).fill_(_LONG_AGO)
        self.ranks = ranks
        self.communicator: int = ops.init_custom_ar(
            [one.data_ptr() for one in signals], addresses, 0, True
        )
        self.buffer = buffers[0].data_ptr()
        self.addresses = [one.data_ptr() for one in buffers]
        ops.register_buffer(self.communicator, self.addresses)
        self._memory = (signals, buffers, addresses)


@functools.cache
def group(ranks: int, device: str, number: int = 0) -> Group:
    """The process's groups of that many ranks, by number."""
    return Group(ranks, device)


def valid(device: str) -> list[Call]:
    """Calls of the first rank of small groups."""
    calls = []
    for ranks in (2, 4, 8):
        one = group(ranks, device)
        fa, to = one.communicator, (one.buffer, _ROOM)
        # The last is of the size that takes two shots.
        for dtype, rows in ((torch.float32, 3), (torch.bfloat16, 40), (torch.float16, 1 << 15)):
            whole, share = torch.randn(rows * ranks, 8).to(dtype), torch.randn(rows, 8).to(dtype)
            calls += [
                Call("all_reduce", (fa, share, torch.zeros_like(share), *to)),
                Call("custom_all_gather", (fa, share, torch.zeros_like(whole), *to)),
                Call("custom_reduce_scatter", (fa, whole, torch.zeros_like(share), *to)),
            ]
        # Addresses are trusted: of a group whose buffers nobody reads.
        apart = group(ranks, device, 1)
        calls.append(Call("register_buffer", (apart.communicator, apart.addresses)))
        calls.append(Call("get_graph_buffer_ipc_meta", (fa,)))
        calls.append(Call("register_graph_buffers", (fa, [[]] * ranks, [[]] * ranks)))
    return calls


class References:
    """What the first rank gets where all others' numbers are zero."""

    @staticmethod
    def all_reduce(fa: int, inp: Tensor, out: Tensor, *_: int) -> None:
        """The sum.

        Raises:
            ValueError: It may be taken in two shots, where the peers' parts of it are missing.
        """
        if inp.nbytes >= _TWO_SHOTS:
            raise ValueError("two shots")
        out.copy_(inp)

    @staticmethod
    def custom_all_gather(fa: int, inp: Tensor, out: Tensor, *_: int) -> None:
        """This rank's part comes first."""
        out.zero_()
        out.view(-1)[: inp.numel()] = inp.view(-1)

    @staticmethod
    def custom_reduce_scatter(fa: int, inp: Tensor, out: Tensor, *_: int) -> None:
        """The first part is this rank's."""
        out.copy_(inp.reshape(-1)[: out.numel()].view(out.shape))
