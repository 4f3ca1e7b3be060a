"""What the programs of the engine's test share: arguments, quiet surroundings, the result file."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isolate import cut_network

# Of those that Triton's autotuner would compare: where one does not fit, the other may.
CONFIGURATIONS = 2


def parser(description: str | None, *, one_model: bool = True) -> argparse.ArgumentParser:
    """The arguments that every program takes."""
    found = argparse.ArgumentParser(description=description)
    if one_model:
        found.add_argument("model")
    found.add_argument("--models", type=Path, required=True, help="folder that keeps the models")
    found.add_argument("--result", type=Path, required=True, help="file to write")
    found.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return found


def surroundings(device: str) -> dict[str, Any]:
    """Prepare the process before the engine is imported, which reads these variables then.

    Returns:
        What the result says of it: whether the network was really out of reach.
    """
    os.environ["VLLM_KERNELS_DEVICE"] = device
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return {"network": "cut" if cut_network() else "not cut: this user may not unshare it"}


@contextmanager
def variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set the engine's variables for a while; what others set meanwhile, as the plugin does, stays.

    Raises:
        ValueError: The engine has no such variable, which would be set for nothing.
    """
    if wanted:
        from vllm.envs import environment_variables

        if unknown := sorted(wanted.keys() - environment_variables.keys()):
            raise ValueError(f"the engine has no variable {', '.join(unknown)}")
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def tune_briefly() -> None:
    """Have Triton's autotuner compare few configurations of a kernel.

    Those of state-space layers have dozens, each compiled before a small model says its first word:
    minutes, for the choice of a tile that changes no result. To be called before the engine's
    import.
    """
    from triton.runtime.autotuner import Autotuner

    whole = Autotuner.__init__

    def brief(self: Any, fn: Any, arg_names: Any, configs: Any, *rest: Any, **more: Any) -> None:
        whole(self, fn, arg_names, configs[:CONFIGURATIONS], *rest, **more)

    Autotuner.__init__ = brief


def inspect_models_here() -> None:
    """Have the engine look at a model's class in this process.

    It starts one for each class, lest CUDA be in use before workers are forked, which imports the
    engine anew and takes longer than a small model's run. With its core here there are none,
    and two ranks are spawned.
    """
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = lambda function: function()


def memory(device: str) -> dict[str, Any]:
    """Arguments of the engine that bound its memory: a small model needs no share of a GPU's."""
    if device == "cpu":  # VLLM_CPU_KVCACHE_SPACE does it
        return {}
    # Several such engines may share a GPU.
    return {"gpu_memory_utilization": 0.1, "kv_cache_memory_bytes": 1 << 30}


def engine_arguments(parser: argparse.ArgumentParser, dtype: str) -> None:
    """The arguments of a program that starts one engine."""
    parser.add_argument("--dtype", default=dtype)
    parser.add_argument("--eager", action="store_true")


def failure(error: Exception) -> str:
    """What the engine raised, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def forget_engine() -> None:
    """Undo what an engine that did not start leaves in this process: its groups of ranks, which the
    next one would take for its own."""
    if distributed := sys.modules.get("vllm.distributed"):
        distributed.cleanup_dist_env_and_memory()


def let_capture() -> None:
    """Undo what an engine that has captured its CUDA graphs leaves in this process: of two model
    runners of one engine one switches capturing off, and the other one, of other models, takes the
    switch as it finds it. Users have an engine a process."""
    if monitor := sys.modules.get("vllm.compilation.monitor"):
        monitor.set_cudagraph_capturing_enabled(True)


def write(path: Path, found: object) -> None:
    """Write what a program found, as JSON."""
    path.write_text(json.dumps(found) + "\n", encoding="utf-8")
