"""Calls on a GPU: tensors among bytes whose values are known, and errors of kernels that began.

Under a tool such as compute-sanitizer each tensor is an allocation of its own instead, whose ends
the tool knows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .calls import Call, written
from .memory import SLACK, Placed, copied, plain, shared, span

_AROUND = 4096
# One in so many spoilt calls leaves a tensor on the host.
_ON_HOST = 23
# In one of so many calls, one tensor does not begin where every allocation does: many kernels take
# only those that begin at whole vectors, and of a call with several such tensors hardly any would.
_SHIFTED = 3
# Want their tensors there; one in so many calls brings them from the device.
_OF_THE_HOST = {"get_cuda_view_from_cpu_tensor": 8}


class BrokenError(Exception):
    """A kernel of the last call ended with an error; the process has lost the device."""


def shifted_place(call: Call, seed: int) -> int:
    """Place of the tensor that begins one element further than allocations do; -1: of none."""
    places = [place for place, _ in call.tensors()]
    return places[seed // _SHIFTED % len(places)] if places and seed % _SHIFTED == 0 else -1


class Gpu:
    """Where the calls of a process run."""

    def __init__(self, device: str, exact: bool) -> None:
        self._device = device
        self._around = 0 if exact else _AROUND

    def place(self, how: str, call: Call, seed: int) -> tuple[Call, list[Placed]]:
        """The call on the device, and its memories that no other tensor shares."""
        if call.op in _OF_THE_HOST and seed % _OF_THE_HOST[call.op]:
            return call, []
        together, outputs = shared(call), written(call.op)
        memories: dict[int, Tensor] = {}
        placed: list[Placed] = []
        places = [place for place, _ in call.tensors()]
        # The last tensor on the host would take the call there, to a reference.
        stays = places[seed % len(places)] if len(places) > 1 and how == "spoilt" else -1
        shifted = shifted_place(call, seed)
        for place, x in call.tensors():
            if x.layout != torch.strided or x.device.type != "cpu":
                continue
            if place == stays and seed // len(places) % _ON_HOST == 0:
                continue
            if x.numel() == 0:
                moved = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=self._device)
            elif not plain(x):
                moved = self._lazily(x)
            elif place in together:
                moved = self._with_its_storage(x, memories)
            else:
                one = self._alone(x, place in outputs, place == shifted)
                placed.append(one)
                moved = one.tensor
            call = call.replaced(place, moved)
        return call, placed

    def _lazily(self, x: Tensor) -> Tensor:
        """A copy that is negated or conjugated where it is read, as ``x`` is."""
        # A copy of the view itself would compute its values, which float8 has no kernels for.
        if x.is_neg():
            return torch._neg_view(torch._neg_view(x).to(self._device))
        if x.is_conj():
            return x.conj().to(self._device).conj()
        return x.to(self._device)

    def _with_its_storage(self, x: Tensor, memories: dict[int, Tensor]) -> Tensor:
        storage = x.untyped_storage()
        memory = memories.get(storage.data_ptr())
        if memory is None:
            flat = torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[call-overload]
            memory = memories[storage.data_ptr()] = flat.to(self._device)
        if memory.numel() % x.element_size():
            return x.to(self._device)
        return memory.view(x.dtype).as_strided(x.shape, x.stride(), x.storage_offset())

    def _alone(self, x: Tensor, is_written: bool, shifted: bool) -> Placed:
        """``shifted`` by one element from what every allocation is aligned to."""
        size, item = span(x), x.element_size()
        begin = self._around + (item if shifted else 0)
        whole = -(-(begin + size + self._around) // item) * item
        # Filled on the host and kept there: each kernel and each allocation more costs a tool that
        # watches them as much as those of the op.
        host = torch.full((whole,), SLACK, dtype=torch.uint8)
        copied(x, host, begin)
        memory = torch.empty_like(host, device=self._device).copy_(host)
        moved = memory.view(x.dtype).as_strided(x.shape, x.stride(), begin // item)
        return Placed(moved, memory, host, is_written)

    def finish(self) -> None:
        """Wait for the call's kernels.

        Raises:
            BrokenError: One of them failed.
        """
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            raise BrokenError(str(error).splitlines()[0]) from error
