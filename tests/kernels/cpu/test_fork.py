"""A child of fork() calls ops after its parent's threads have worked."""

from __future__ import annotations

import subprocess
import sys

import pytest

# libgomp's threads are not in the child. SIGALRM ends a child that waits for them.
PROGRAM = """
import os, signal, sys, torch, vllm_kernels
ops = torch.ops.vllm_kernels
torch.set_num_threads(4)
torch.manual_seed(0)
x = torch.randn(4096, 1024)

def norm():
    out = torch.empty_like(x)
    ops.rms_norm(out, x, None, 1e-6)
    return out

def attention():
    query, cache = torch.randn(64, 8, 64), torch.randn(8, 8, 32, 64)
    out = torch.empty_like(query)
    lengths = torch.full((64,), 100, dtype=torch.int32)
    starts = torch.arange(65, dtype=torch.int32)
    table = torch.arange(4, dtype=torch.int32).repeat(64, 1)
    plan = ops.get_scheduler_metadata(
        64, 8, 8, 64, lengths, query.dtype, starts, True, -1, "vec", True, None)
    ops.cpu_attention_with_kv_cache(
        query, cache, cache, out, starts, lengths, 0.125, True, None, -1, table, 0.0, plan, None,
        None)
    return out

work = {"norm": norm, "attention": attention, "torch": lambda: (x + 1).relu_()}[sys.argv[1]]
norm()
work()
def fork(depth):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        work()
        os._exit(fork(depth - 1) if depth else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
status = fork(1)
work()  # the parent's threads still do
sys.exit(status)
"""


@pytest.mark.parametrize("work", ["norm", "attention", "torch"])
def test_child_and_grandchild(work: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, work], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
