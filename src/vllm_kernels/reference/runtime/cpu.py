"""Reference of the ops that prepare a worker's process."""

from __future__ import annotations

from collections.abc import Sequence


def init_cpu_memory_env(node_ids: Sequence[int]) -> None:
    """Bind the process's memory to NUMA nodes.

    PyTorch has no such call, and where memory lies changes no result: the operating system's
    first-touch policy stays.
    """
