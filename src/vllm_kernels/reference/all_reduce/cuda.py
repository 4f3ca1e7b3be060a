"""Collectives over GPUs that read each other's memory: there is nothing to fall back to.

Without the library every op says so in one sentence. The engine asks for ``meta_size`` first and
then uses NCCL.
"""

from __future__ import annotations

from typing import NoReturn

import torch


def _refuse(name: str) -> NoReturn:
    raise RuntimeError(
        f"{name}: no library of the family all_reduce is installed, and no PyTorch code can open "
        "another GPU's memory in its place; torch.distributed (NCCL) sums over GPUs without it"
    )


def meta_size() -> int:
    """Bytes at the start of each rank's shared buffer in which ranks meet."""
    _refuse("meta_size")


def allocate_shared_buffer_and_handle(size: int) -> tuple[int, torch.Tensor]:
    """Address of ``size`` zero bytes on the current GPU, and their handle (uint8 [64])."""
    _refuse("allocate_shared_buffer_and_handle")


def free_shared_buffer(ptr: int) -> None:
    """Free what ``allocate_shared_buffer_and_handle`` gave."""
    _refuse("free_shared_buffer")


def open_mem_handle(mem_handle: torch.Tensor) -> int:
    """Address of another process's buffer, by its handle (uint8 [64], on the CPU)."""
    _refuse("open_mem_handle")


def init_custom_ar(
    ipc_tensors: list[int], rank_data: torch.Tensor, rank: int, fully_connected: bool
) -> int:
    """A communicator of the ranks whose shared buffers these are; ``rank_data``: uint8, room."""
    _refuse("init_custom_ar")


def dispose(fa: int) -> None:
    """End a communicator."""
    _refuse("dispose")


def register_buffer(fa: int, ipc_tensors: list[int]) -> None:
    """Let peers read this rank's buffer, at these addresses in the order of the ranks."""
    _refuse("register_buffer")


def get_graph_buffer_ipc_meta(fa: int) -> tuple[list[int], list[int]]:
    """Handles, byte by byte, and offsets of the inputs captured since the last registration."""
    _refuse("get_graph_buffer_ipc_meta")


def register_graph_buffers(fa: int, handles: list[list[int]], offsets: list[list[int]]) -> None:
    """What ``get_graph_buffer_ipc_meta`` gave on every rank, in the order of the ranks."""
    _refuse("register_graph_buffers")


def all_reduce(
    fa: int, inp: torch.Tensor, out: torch.Tensor, reg_buffer: int, reg_buffer_sz_bytes: int
) -> None:
    """``out`` = the sum of the ranks' ``inp``, in float32 in their order, rounded once."""
    _refuse("all_reduce")


def custom_all_gather(
    fa: int, inp: torch.Tensor, out: torch.Tensor, reg_buffer: int, reg_buffer_sz_bytes: int
) -> None:
    """``out`` = the ranks' ``inp`` one after the other."""
    _refuse("custom_all_gather")


def custom_reduce_scatter(
    fa: int, inp: torch.Tensor, out: torch.Tensor, reg_buffer: int, reg_buffer_sz_bytes: int
) -> None:
    """``out`` = this rank's part of the sum of the ranks' ``inp``."""
    _refuse("custom_reduce_scatter")


def minimax_allreduce_rms_qk(
    qkv: torch.Tensor,
    norm_weight_q: torch.Tensor,
    norm_weight_k: torch.Tensor,
    workspace: torch.Tensor,
    q_size: int,
    kv_size: int,
    rank: int,
    nranks: int,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """RMS norms of ``q_size`` and the next ``kv_size`` columns, each over all ranks' columns.

    ``workspace``: int64 [3 * nranks + 2], addresses of what ranks exchange their sums in.
    """
    _refuse("minimax_allreduce_rms_qk")
