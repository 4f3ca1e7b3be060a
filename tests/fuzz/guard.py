"""``processes``: the toolkit's module of that name, by its path.

The fuzzer runs where the kernels are installed and the toolkit is not, and the checkout's sources
on the import path would hide the installed kernels. The module needs the standard library only.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_FILE = Path(__file__).resolve().parents[2] / "src" / "vllm_conda" / "processes.py"
_spec = importlib.util.spec_from_file_location("vllm_conda_processes", _FILE)
assert _spec is not None
assert _spec.loader is not None
processes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(processes)
