"""YAML files, read fast and refused in one way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

# Parsing in Python is a third of the time that all jobs take to render.
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(text: str) -> Any:
    """Parse YAML, by libyaml where PyYAML was built with it.

    Raises:
        yaml.YAMLError: The text is malformed.
    """
    try:
        return yaml.load(text, Loader=_YAML_LOADER)  # noqa: S506 - both are safe loaders
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
    except (ValueError, OverflowError) as error:  # such as a date or a number that is none
        raise yaml.YAMLError(str(error)) from None


def read_yaml(path: Path) -> Any:
    """Parse a YAML file.

    Raises:
        yaml.YAMLError: It is malformed or not UTF-8.
    """
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise yaml.YAMLError(f"it is not UTF-8: {error.reason} at byte {error.start}") from None
