"""A stand-in for the engine's package: what the plugin asks of it, and nothing else."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cuda_engine import add_platform

from vllm_kernels_plugin import engines

ROOT = Path(__file__).parents[2]
# The engine that stand-ins are, unless a test says otherwise.
ENGINE = ".".join(map(str, engines.releases()[0]))

PLATFORMS = """
def absent():
    return None


def broken():
    raise RuntimeError("no driver")


builtin_platform_plugins = {"cuda": broken, "cpu": absent}
"""


INSIDE = ROOT / "src" / "vllm_conda" / "engine" / "inside"


def _stand_in(name: str, **members: Any) -> ModuleType:
    found = ModuleType(name)
    vars(found).update(members)
    return found


def _save(tensors: Any, path: Path, metadata: object = None) -> None:
    with path.open("wb") as stream:
        torch.save(tensors, stream)


def _load(path: Path) -> Any:
    # By name PyTorch would leave such a file to the library.
    with path.open("rb") as stream:
        return torch.load(stream)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports what runs in the engine's environment, where its libraries need not be installed."""
    image = _stand_in("PIL.Image")
    for module in (
        _stand_in("transformers", DynamicCache=object),
        _stand_in("safetensors"),
        _stand_in("safetensors.torch", load_file=_load, save_file=_save),
        _stand_in("PIL", Image=image),
        image,
    ):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(INSIDE)
    names = {file.stem for file in INSIDE.glob("*.py")}
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@dataclass
class Engine:
    """A folder with a package `vllm`, put in front of the import path of a child process."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")

    def version(self, version: str) -> None:
        metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
        self.write("vllm-0.dist-info/METADATA", metadata)

    def run(self, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``code`` in a fresh interpreter that sees the engine and our sources."""
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("VLLM_KERNELS_PLUGIN", "VLLM_KERNELS_CPU_ISA", "TORCH_COMPILE_DISABLE")
        }
        environment |= {"PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT / 'src'}", **variables}
        logs = "level='INFO', format='%(levelname)s %(message)s'"
        prelude = f"import logging; logging.basicConfig({logs})\n"
        return subprocess.run(
            [sys.executable, "-c", prelude + textwrap.dedent(code)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """An engine of the supported version, without platforms and kernels of its own."""
    made = Engine(tmp_path)
    made.write("vllm/__init__.py", "")
    made.write("vllm/platforms/__init__.py", PLATFORMS)
    made.version(ENGINE)
    return made


@pytest.fixture
def cuda(engine: Engine) -> Engine:
    """An engine with the modules of its CUDA platform that the plugin builds on."""
    add_platform(engine)
    return engine
