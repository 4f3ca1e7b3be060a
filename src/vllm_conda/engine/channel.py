"""The engine's dependencies as a local channel, beside the embedded toolchain channel."""

from __future__ import annotations

from importlib.resources import files as resource_files
from pathlib import Path

from vllm_conda.channel.files import listed
from vllm_conda.channel.folder import NOARCH
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import Channel, ensure_wheels

DATA_FILE = "wheels.toml"
# conda-forge lacks it: its own vllm has a patch that makes it optional. So it goes into the
# engine's channel, or no environment could be made of that and conda-forge.
FORGE_LACKS = ("model-hosting-container-standards",)


def wheels_text() -> str:
    """Text of the data file with the pinned wheels."""
    return (resource_files(__package__) / DATA_FILE).read_text(encoding="utf-8")


def forge_lacks(channel: Channel) -> list[Path]:
    """The files of :data:`FORGE_LACKS`."""
    folder = channel.path / NOARCH
    return [folder / file for file, row in listed(folder).items() if row["name"] in FORGE_LACKS]


def ensure(platform: str, *, reporter: Reporter) -> Channel:
    """Make the channel of the engine's dependencies, or return the one that is there.

    Raises:
        VllmError: As the toolchain's ``ensure``.
    """
    title = "Channel of the engine's dependencies"
    return ensure_wheels(platform, wheels_text(), title, reporter=reporter)
