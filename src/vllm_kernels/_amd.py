"""AMD's GPUs, as the kernel driver lists them.

Not through HIP: as with CUDA, a process that has initialised it can no longer fork workers that use
it, and this runs at import.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vllm_kernels import _driver

# Each hides GPUs from HIP (the last one since PyTorch calls AMD's GPUs `cuda`).
VISIBLE_VARIABLES = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", _driver.VISIBLE_VARIABLE)
# "HSA KFD topology" of the Linux kernel: a folder a node, CPUs too, which have no gfx version.
TOPOLOGY = Path("/sys/class/kfd/kfd/topology/nodes")


@dataclass(frozen=True)
class Gpu:
    """One GPU: the driver's number of it, and its gfx target (``gfx942``)."""

    index: int
    target: str


def hidden() -> str | None:
    """The variable of the environment that hides every GPU; None without one."""
    return next(filter(_driver.hides, VISIBLE_VARIABLES), None)


@lru_cache(maxsize=1)
def gpus() -> tuple[Gpu, ...] | None:
    """The GPUs; None where the kernel has no such list, so that only HIP could tell."""
    if not TOPOLOGY.is_dir():
        return None
    nodes = sorted((one for one in TOPOLOGY.iterdir() if one.name.isdigit()), key=_number)
    return tuple(Gpu(_number(node), target) for node in nodes if (target := _target(node)))


def _number(node: Path) -> int:
    return int(node.name)


def _target(node: Path) -> str:
    """``gfx90a`` of ``gfx_target_version 90010``: two decimal digits for minor and stepping."""
    try:
        rows = (line.split() for line in (node / "properties").read_text().splitlines())
        version = int(next(row[1] for row in rows if row and row[0] == "gfx_target_version"))
    except (OSError, ValueError, StopIteration, IndexError):
        return ""
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{stepping:x}" if version else ""
