"""Two tensor-parallel ranks of one machine, and what their sums go through, for features.py."""

from __future__ import annotations

from typing import Any

import program
from feature_run import Found, Run

# The op of direct sums; of its namespace other ops may be left out without it.
SUM = "all_reduce"


def _sums_through(worker: Any) -> str:
    """What a rank's sums go through: shared memory by the engine's class, or PyTorch's module."""
    from vllm.distributed import get_tp_group

    module = get_tp_group().device_communicator.dist_module
    return str(getattr(module, "__name__", type(module).__name__))


def _count_sums(worker: Any) -> None:
    """Count a GPU rank's sums by what they go through, from now on."""
    from vllm import _custom_ops
    from vllm.distributed import get_tp_group

    communicator = get_tp_group().device_communicator

    def counted(place: Any, name: str, kind: str) -> None:
        function = getattr(place, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            worker.sums[kind] += 1
            return function(*args, **kwargs)

        setattr(place, name, call)

    worker.sums = {"direct": 0, "nccl": 0}
    counted(_custom_ops, SUM, "direct")
    counted(communicator.pynccl_comm, "all_reduce", "nccl")


def _sums_counted(worker: Any) -> dict[str, int]:
    return dict(worker.sums)


def _sums_direct(worker: Any) -> str:
    """Whether a GPU rank sums by reading the others' memory, where that serves."""
    from vllm.distributed import get_tp_group

    direct = get_tp_group().device_communicator.ca_comm
    return "nccl" if direct is None or direct.disabled else "direct"


def two_ranks(run: Run, eager: bool) -> Found:
    """Whether both ranks' sums go through what they should; their answers are judged."""
    prompts = [run.prompt(length, length) for length in (5, 130, 33)]
    cpu = run.options.device == "cpu"
    # In CUDA graphs no Python is left to count.
    look = _sums_through if cpu else _sums_counted if eager else _sums_direct
    # Left to itself the engine wants a NUMA node for each rank. On GPUs its core has a process, as
    # users have it: without, an old engine waits for ever when its sockets are collected.
    more = (
        {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} if cpu else {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    )
    settings = {
        # Functions for the workers are sent to them as they are.
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
        # Forked, they would wait for ever for OpenMP's threads, which this process has used.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        **more,
    }
    with program.variables(settings):
        llm = run.engine(tensor_parallel_size=2, enforce_eager=eager)
        if look is _sums_counted:
            llm.collective_rpc(_count_sums)
        answers = run.generate(llm, prompts)
        through = llm.collective_rpc(look)
    run.judge(prompts, answers)
    used = [{one} if isinstance(one, str) else {way for way in one if one[way]} for one in through]
    right = used == [{_wanted_through(run)}] * 2
    return {"through": ", ".join(map(str, through)), "right": right}


def _wanted_through(run: Run) -> str:
    """What the sums have to go through."""
    if run.options.device == "cpu":
        return "_CPUSHMDistributed"
    from vllm_kernels_plugin import all_reduce

    return "nccl" if SUM in all_reduce.left_out() else "direct"
