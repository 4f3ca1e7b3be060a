"""Builds the engine's recipe from upstream's source distribution into a channel of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_conda.builder.channel import Toolchain, toolchain_for
from vllm_conda.builder.commit import origin
from vllm_conda.builder.upstream import Upstream, unless_made
from vllm_conda.builder.workspace import worker_environment, workspace_for
from vllm_conda.downloads.store import key_of
from vllm_conda.engine import channel, sdist
from vllm_conda.engine.interface import table
from vllm_conda.progress import Reporter
from vllm_conda.recipe import ENGINE_RECIPE_FILE, hash_tree
from vllm_conda.targets import load_targets

NAME = "vllm-engine"
# What the recipe makes.
NAMES = (NAME, "vllm")
# Of the channel with our packages: the engine's own channel.
FOLDER = "engine"
PACKAGE_HASH = "vllm_engine_package_hash"
SDIST_VARIABLE = "VLLM_ENGINE_SDIST"


@dataclass(frozen=True)
class Engine:
    """The engine's packages and the channels that an environment with them is solved from."""

    packages: tuple[Path, ...]
    channels: tuple[str, ...]

    def beside(self, toolchain: Toolchain, toolkit: str) -> tuple[str, ...]:
        """The channels, and before them what ``toolchain`` has for a toolkit (empty: none)."""
        own = [one for one in toolchain.channels_for(toolkit) if one not in self.channels]
        return (*own, *self.channels)


def ensure(
    root: Path, platform: str, output: Path, channels: Sequence[str], reporter: Reporter
) -> Engine:
    """Build the engine's packages into ``output`` unless they are there, from the same inputs.

    Args:
        root: The checkout.
        output: The channel's folder.
        channels: Where Python and PyTorch come from; empty for the embedded toolchain channel.

    Raises:
        VllmError: A download, the build or the package's own tests failed.
    """
    toolchain = toolchain_for(platform, channels, reporter)
    dependencies = channel.ensure(platform, reporter=reporter)
    others = (dependencies.url, *toolchain.channels)
    # The engine's sources are what the recipe and the pin of the archive say.
    made = origin(root, [(root / ENGINE_RECIPE_FILE).parent, root / table.FILE])
    fingerprint = key_of(
        hash_tree((root / ENGINE_RECIPE_FILE).parent),
        *others,
        *channel.FORGE_LACKS,
        made.revision,
        str(made.epoch),
    )
    workspace = workspace_for(root)

    def make() -> list[Path]:
        source = sdist.Registry(others, platform, workspace, reporter)
        archive = source.pinned(load_targets(root).engine.release, table.load(root))
        build = Upstream(
            root=root,
            recipe=root / ENGINE_RECIPE_FILE,
            platform=platform,
            output=output,
            channels=others,
            workspace=workspace,
            reporter=reporter,
            origin=made,
            variant={PACKAGE_HASH: [fingerprint]},
            inputs={SDIST_VARIABLE: str(archive.path)},
            variables=worker_environment(workspace, toolchain.fingerprint),
        )
        return build.run(channel.forge_lacks(dependencies))

    found = unless_made(NAME, "the engine's channel", output, fingerprint, make)
    return Engine(found, (output.resolve().as_uri(), *others))
