"""Publishes packages into a channel, as `vllm-conda build` does: `... OUTPUT CACHE PACKAGE...`."""

from __future__ import annotations

import sys
from pathlib import Path

from vllm_conda.builder.store import Store
from vllm_conda.builder.workspace import Workspace
from vllm_conda.cli import leave
from vllm_conda.processes import stop_on_signals

if __name__ == "__main__":
    stop_on_signals()
    output, cache, *packages = map(Path, sys.argv[1:])
    store = Store(output, "linux-64", Workspace(cache / "build", cache))
    for package in packages:
        store.publish(package, "job", package.name, "passed")
    store.settle({package.name: {"job"} for package in packages}, {"job"})
    leave(0)
