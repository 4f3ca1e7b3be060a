"""Builds the engine's recipe from upstream's source distribution into a channel of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from rattler_build import RenderConfig, Stage0Recipe, VariantConfig
from rattler_build.tool_config import PlatformConfig

from vllm_conda.builder import check
from vllm_conda.builder.channel import Toolchain, toolchain_for
from vllm_conda.builder.commit import Origin, origin
from vllm_conda.builder.diagnose import failure, script_errors
from vllm_conda.builder.logs import JobLog
from vllm_conda.builder.repack import repack
from vllm_conda.builder.session import Event, run_worker
from vllm_conda.builder.workspace import Workspace, worker_environment, workspace_for
from vllm_conda.channel.files import enter, tidy, waiting_place
from vllm_conda.channel.folder import NOARCH
from vllm_conda.channel.publish import write_index
from vllm_conda.downloads.store import key_of
from vllm_conda.engine import channel, sdist
from vllm_conda.engine.interface import table
from vllm_conda.errors import TestFailure
from vllm_conda.paths import disk_errors, private_folder, write_atomic
from vllm_conda.progress import Reporter
from vllm_conda.recipe import ENGINE_RECIPE_FILE, hash_tree
from vllm_conda.render import environment
from vllm_conda.structure import load_json
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
    private = _private(output)
    stamp = private / f"{NAME}.packages.json"
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
    with disk_errors("the engine's channel", output):
        output.mkdir(parents=True, exist_ok=True)
        private.mkdir(parents=True, exist_ok=True)
    with FileLock(private / ".lock"):
        found = _made(stamp, fingerprint)
        if not found or not all((output / NOARCH / name).is_file() for name in found):
            stamp.unlink(missing_ok=True)
            source = sdist.Registry(others, platform, workspace, reporter)
            archive = source.pinned(load_targets(root).engine.release, table.load(root))
            build = _Build(
                root, platform, output, others, toolchain, workspace, reporter, fingerprint, made
            )
            beside = channel.forge_lacks(dependencies)
            found = [package.name for package in build.run(archive.path, beside)]
            write_atomic(stamp, json.dumps({"fingerprint": fingerprint, "packages": found}) + "\n")
    packages = tuple(output / NOARCH / name for name in found)
    return Engine(packages, (output.resolve().as_uri(), *others))


def _made(stamp: Path, fingerprint: str) -> list[str]:
    """The packages that a finished build of the same inputs recorded; none without one."""
    try:
        data = load_json(stamp.read_bytes())
        return list(data["packages"]) if data["fingerprint"] == fingerprint else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


@dataclass(frozen=True)
class _Build:
    root: Path
    platform: str
    output: Path
    channels: tuple[str, ...]
    toolchain: Toolchain
    workspace: Workspace
    reporter: Reporter
    fingerprint: str
    origin: Origin

    def run(self, archive: Path, beside: Sequence[Path]) -> list[Path]:
        """Build, test and publish every output of the recipe; returns the packages.

        Args:
            beside: Packages to publish with them.
        """
        recipe = self.root / ENGINE_RECIPE_FILE
        folder = self.workspace.folder / "engine"
        with disk_errors("the engine's build folder", folder):
            folder.mkdir(parents=True, exist_ok=True)
        variables = {
            **worker_environment(self.workspace, self.toolchain.fingerprint),
            SDIST_VARIABLE: str(archive),
        }
        with environment({SDIST_VARIABLE: str(archive)}):
            config = RenderConfig(platform=PlatformConfig(target_platform=self.platform))
            rendered = Stage0Recipe.from_file(recipe).render(
                VariantConfig({PACKAGE_HASH: [self.fingerprint]}), config
            )
        built = []
        for output in rendered:
            name = output.recipe.package.name
            request = {
                "action": "build",
                "recipe": str(recipe),
                "platform": self.platform,
                # noarch, so no platform's compilers are needed.
                "build_platform": self.platform,
                "variant": {PACKAGE_HASH: [self.fingerprint]},
                "output": [name, str(output.recipe.build.string)],
                "folder": str(folder),
                "channels": list(self.channels),
            }
            package = Path(self._work("build", name, request, folder, variables)["package"])
            self._repack(package, folder)
            built.append(package)
        # An environment for a package's tests needs it in a channel, so they are published into a
        # draft first.
        draft = folder / "draft"
        self._index(built, draft)
        channels = [draft.as_uri(), *self.channels]
        for package in built:
            test = {"action": "test", "package": str(package), "channels": channels}
            self._work("test", package.name.rsplit("-", 2)[0], test, folder, variables)
        self._index([*built, *beside], self.output)
        return [self.output / NOARCH / package.name for package in built]

    def _repack(self, package: Path, folder: Path) -> None:
        """As with the kernels: what the machine and the moment were is no fact of a package."""
        folders = (folder, self.root.resolve(), self.workspace.cache)
        repack(package, self.origin, folders, folder / "repack")
        check.index(folder)

    def _work(
        self,
        stage: str,
        name: str,
        request: Mapping[str, object],
        folder: Path,
        variables: Mapping[str, str],
    ) -> Event:
        path = _private(self.output) / "logs" / f"{name}-{stage}.log"
        with self.reporter.task(f"{stage} {name}") as task, JobLog(path, task) as log:
            result = run_worker(request, folder, variables, log.event)
            if result["event"] == "error":
                raise failure(name, result["message"], log.lines, str(log.path))
            if result.get("failed"):
                block = "\n  ".join(script_errors(log.lines))
                raise TestFailure(
                    f"{name}: tests in the package failed:\n  {block}\n", f"Full log: {log.path}"
                )
        return result

    def _index(self, packages: Sequence[Path], folder: Path) -> None:
        """Make ``folder`` a channel of exactly these packages."""
        noarch, near = folder / NOARCH, self.workspace.folder / "engine" / "waiting"
        with disk_errors("the engine's channel", folder):
            noarch.mkdir(parents=True, exist_ok=True)
            targets = [noarch / package.name for package in packages]
            for package, target in zip(packages, targets, strict=True):
                enter(package, target, waiting_place(folder, near / "outgoing"))
            write_index(folder, {NOARCH: targets, self.platform: []}, near)
            for old in set(noarch.glob("*.conda")) - set(targets):
                old.unlink()
            tidy(folder)


def _private(output: Path) -> Path:
    """The engine's channel lies in that of the kernels, so its own files lie beside both."""
    return private_folder(output.parent) / output.name
