"""The CUDA families' own tables, each beside its kernels: ``csrc/cuda/FAMILY/family.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm_conda.errors import ConfigError
from vllm_conda.structure import read_toml
from vllm_cuda_plan.table import FAMILY_FOLDER, family_file


def read_families(root: Path) -> dict[str, Any]:
    """The parsed tables by family, in alphabetical order. A folder of headers alone is no family.

    Raises:
        ConfigError: Sources without a table, a table without sources, or one that is no TOML.
    """
    found: dict[str, Any] = {}
    folders = (path for path in (root / FAMILY_FOLDER).glob("*") if path.is_dir())
    for folder in sorted(folders):
        name = family_file(folder.name)
        sources = any(path.suffix in (".cc", ".cu") for path in folder.rglob("*"))
        if not (root / name).is_file():
            if sources:
                raise ConfigError(
                    f"{name} is missing, and {folder.name} has sources.",
                    "Write title and archs; docs/developers/adding.md names the other keys.",
                )
        elif not sources:
            raise ConfigError(f"{name}: the family has no sources.", "Add them, or remove it.")
        else:
            found[folder.name] = read_toml(root, name)
    return found


def place(keys: tuple[str, ...]) -> str | None:
    """Where a key of the whole table's ``cuda.families`` stands; None for any other key."""
    if keys[:2] != ("cuda", "families") or len(keys) < 3:
        return None
    return family_file(keys[2]) + (f": [{'.'.join(keys[3:])}]" if keys[3:] else "")
