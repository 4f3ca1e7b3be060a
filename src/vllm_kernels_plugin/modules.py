"""Modules that stand where the engine imports its own from."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any


def plant(name: str, about: str, origin: str, *members: Any) -> types.ModuleType:
    """Put a module of this name in front of any that the import path has.

    Args:
        about: Its docstring.
        origin: The file that it comes from.
        members: Functions and classes, each under its own name.
    """
    module = types.ModuleType(name, about)
    module.__dict__.update({member.__name__: member for member in members})
    # Python's own importers and torch.compile look at the spec of what is in sys.modules.
    module.__spec__, module.__file__ = ModuleSpec(name, loader=None, origin=origin), origin
    sys.modules[name] = module
    return module
