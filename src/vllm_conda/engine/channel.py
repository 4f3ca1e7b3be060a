"""The engine's dependencies as a local channel, beside the embedded toolchain channel."""

from __future__ import annotations

from importlib.resources import files as resource_files

from vllm_conda.progress import Reporter
from vllm_conda.toolchain import Channel, ensure_wheels

DATA_FILE = "wheels.toml"


def wheels_text() -> str:
    """Text of the data file with the pinned wheels."""
    return (resource_files(__package__) / DATA_FILE).read_text(encoding="utf-8")


def ensure(platform: str, *, reporter: Reporter) -> Channel:
    """Make the channel of the engine's dependencies, or return the one that is there.

    Raises:
        VllmError: As the toolchain's ``ensure``.
    """
    title = "Channel of the engine's dependencies"
    return ensure_wheels(platform, wheels_text(), title, reporter=reporter)
