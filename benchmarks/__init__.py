"""Measurements of kernels, engine and builds, and what is made of them; see README.md."""

from __future__ import annotations

import sys
from pathlib import Path

# They run from a checkout, whether or not the packages are installed.
if (source := str(Path(__file__).resolve().parents[1] / "src")) not in sys.path:
    sys.path.append(source)
