"""init_cpu_memory_env, in a process of its own: a memory policy stays."""

from __future__ import annotations

import ctypes
import multiprocessing
import platform
from collections.abc import Sequence

import pytest
import torch

# get_mempolicy(2), the call's number on each architecture, and the modes it reports.
GET_MEMPOLICY = {"x86_64": 239, "aarch64": 236, "ppc64le": 260}
MPOL_DEFAULT, MPOL_BIND = 0, 2


def policy() -> tuple[int, int] | None:
    """Mode and lowest 64 bits of the node mask of this thread; None where it cannot be asked."""
    libc = ctypes.CDLL(None, use_errno=True)
    mode, nodes = ctypes.c_int(), (ctypes.c_ulong * 32)()
    number = GET_MEMPOLICY[platform.machine()]
    if libc.syscall(number, ctypes.byref(mode), nodes, 2048, None, 0) != 0:
        return None
    return mode.value, nodes[0]


Outcome = tuple[str, object, object]
REFUSED = ((-1,), (0, 1024), (1 << 40,), (1023,))
CALLS = (*REFUSED, (), (0,))  # the one that changes the policy comes last


def bind(calls: Sequence[Sequence[int]]) -> list[Outcome]:
    """For each call of the op: its error or "", and the policy before and after it."""
    import vllm_kernels  # noqa: F401  registers the ops

    outcomes = []
    for nodes in calls:
        before, message = policy(), ""
        try:
            torch.ops.vllm_kernels.init_cpu_memory_env(nodes)
        except RuntimeError as error:
            message = str(error)
        outcomes.append((message, before, policy()))
    return outcomes


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[int, ...], Outcome]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return dict(zip(CALLS, pool.apply(bind, (CALLS,)), strict=True))


def test_binds_to_a_node(outcomes: dict[tuple[int, ...], Outcome]) -> None:
    message, before, after = outcomes[0,]
    assert message == ""
    if before is None:
        pytest.skip("the kernel or the container forbids memory policies; the op was a no-op")
    assert before == (MPOL_DEFAULT, 0)
    assert after in ((MPOL_BIND, 1), before)  # a container may allow reading only


def test_no_node_changes_nothing(outcomes: dict[tuple[int, ...], Outcome]) -> None:
    message, before, after = outcomes[()]
    assert message == ""
    assert after == before


@pytest.mark.parametrize("nodes", REFUSED, ids=str)
def test_refuses(outcomes: dict[tuple[int, ...], Outcome], nodes: tuple[int, ...]) -> None:
    message, before, after = outcomes[nodes]
    if nodes == (1023,):
        if before is None:
            pytest.skip("the kernel or the container forbids memory policies")
        assert message.startswith("init_cpu_memory_env: the memory nodes cannot be used: ")
    else:
        assert message == f"init_cpu_memory_env: node_ids has {nodes[-1]}, want 0 to 1023"
    assert after == before
