"""Site files of real and typical machines, to start one's own from."""

from __future__ import annotations

from pathlib import Path

from vllm_conda.errors import UsageError, did_you_mean

_FOLDER = Path(__file__).parent


def example_names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def example_path(name: str) -> Path:
    """Path of the example ``name``.

    Raises:
        UsageError: No such example.
    """
    names = example_names()
    if name not in names:
        raise UsageError(
            f"There is no example {name!r}.{did_you_mean(name, names)}",
            f"Examples: {', '.join(names)}.",
        )
    return _FOLDER / f"{name}.yaml"
