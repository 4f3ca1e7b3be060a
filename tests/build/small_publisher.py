"""Publishes packages into a channel, as `vllm-conda build` does: `... OUTPUT CACHE PACKAGE...`."""

from __future__ import annotations

import sys
from pathlib import Path

from vllm_conda.builder.store import Store
from vllm_conda.builder.workspace import Workspace
from vllm_conda.cli import leave
from vllm_conda.processes import Stopped, stop_on_signals, stop_signal


def publish(output: Path, cache: Path, packages: list[Path]) -> None:
    store = Store(output, "linux-64", Workspace(cache / "build", cache))
    for package in packages:
        store.publish(package, "job", package.name, "passed")
    store.settle({package.name: {"job"} for package in packages}, {"job"})


if __name__ == "__main__":
    stop_on_signals()
    try:
        publish(Path(sys.argv[1]), Path(sys.argv[2]), [Path(word) for word in sys.argv[3:]])
    except (Stopped, KeyboardInterrupt):
        leave(128 + stop_signal())
    leave(128 + stop_signal() if stop_signal() else 0)
