"""The build backend of `pip install .`: scikit-build-core, after a look for what pip cannot fetch.

pip downloads the dependencies, a PyTorch of gigabytes among them, before it builds. So what would
stop the build is said in the first hook that it calls. Standard library only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_FIND = "import importlib.util as u, sys; print(sys.prefix, bool(u.find_spec('torch')))"
_FOLDERS = ("CPATH", "CPLUS_INCLUDE_PATH")


def __getattr__(name: str) -> Any:
    import scikit_build_core.build  # only pip's build environment has it

    return getattr(scikit_build_core.build, name)


def get_requires_for_build_wheel(settings: dict[str, Any] | None = None) -> list[str]:
    """PEP 517's hook; ends with one sentence where the build cannot succeed."""
    check()
    required: list[str] = __getattr__("get_requires_for_build_wheel")(settings)
    return required


def get_requires_for_build_editable(settings: dict[str, Any] | None = None) -> list[str]:
    """PEP 660's hook, likewise."""
    check()
    required: list[str] = __getattr__("get_requires_for_build_editable")(settings)
    return required


def check() -> None:
    """Look for PyTorch in the environment that is installed into, and for Highway's headers.

    Raises:
        SystemExit: One is missing; the message says how to get it.
    """
    # -E: as in cmake/Torch.cmake, pip hides the environment behind PYTHONPATH.
    words = [sys.executable, "-E", "-c", _FIND]
    prefix, _, torch = (
        subprocess.run(words, capture_output=True, text=True, check=True)
        .stdout.strip()
        .rpartition(" ")
    )
    if torch != "True":
        raise SystemExit(
            "vllm-kernels: PyTorch is missing in the environment that pip installs into, and the "
            "kernels are compiled against it; run `pip install torch` first, from the index of the "
            "CPU build unless you need CUDA's."
        )
    if not any((folder / "hwy" / "highway.h").is_file() for folder in _includes(prefix)):
        raise SystemExit(
            "vllm-kernels: Highway's headers (hwy/highway.h, 1.2 or newer) are missing; install "
            "libhwy (conda) or libhwy-dev (Debian 13, Ubuntu 25.04), or unpack Highway's source "
            "and set CPLUS_INCLUDE_PATH to the folder that holds hwy/."
        )


def _includes(prefix: str) -> list[Path]:
    prefixes = os.environ.get("CMAKE_PREFIX_PATH", "").replace(";", os.pathsep).split(os.pathsep)
    prefixes += [prefix, os.environ.get("CONDA_PREFIX", ""), "/usr", "/usr/local"]
    folders = [os.environ.get(name, "") for name in _FOLDERS]
    listed = [Path(one) for text in folders for one in text.split(os.pathsep) if one]
    return [*listed, *(Path(one) / "include" for one in prefixes if one)]
