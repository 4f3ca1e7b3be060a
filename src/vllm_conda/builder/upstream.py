"""Builds a recipe of upstream's sources, such as the engine's, into a channel of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock
from rattler_build import Package, RenderConfig, Stage0Recipe, VariantConfig
from rattler_build.tool_config import PlatformConfig

from vllm_conda.builder import check
from vllm_conda.builder.commit import Origin
from vllm_conda.builder.diagnose import failure, script_errors
from vllm_conda.builder.logs import JobLog
from vllm_conda.builder.repack import repack
from vllm_conda.builder.session import Event, run_worker
from vllm_conda.builder.workspace import Workspace
from vllm_conda.channel.files import enter, tidy, waiting_place
from vllm_conda.channel.folder import NOARCH
from vllm_conda.channel.publish import write_index
from vllm_conda.errors import TestFailure
from vllm_conda.paths import disk_errors, private_folder, write_atomic
from vllm_conda.progress import Reporter
from vllm_conda.render import environment
from vllm_conda.structure import load_json


def private(output: Path) -> Path:
    """Where the channel's own files are: it lies in that of the kernels, and they beside both."""
    return private_folder(output.parent) / output.name


def record(stamp: Path, output: Path, fingerprint: str, packages: Sequence[Path]) -> None:
    """Write down which packages in ``output`` a build of these inputs has made."""
    names = [path.relative_to(output).as_posix() for path in packages]
    write_atomic(stamp, json.dumps({"fingerprint": fingerprint, "packages": names}) + "\n")


def recorded(stamp: Path, output: Path, fingerprint: str = "") -> list[Path]:
    """The packages of a finished build while all are there; of these inputs where given."""
    try:
        data = load_json(stamp.read_bytes())
        if fingerprint not in ("", data["fingerprint"]):
            return []
        found = [output / name for name in data["packages"]]
        return found if all(path.is_file() for path in found) else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def stamps(output: Path) -> list[Path]:
    """The records of all that was made in ``output``."""
    return sorted(private(output).glob(_stamp("*")))


def _stamp(name: str) -> str:
    return f"{name}.packages.json"


def unless_made(
    name: str, what: str, output: Path, fingerprint: str, make: Callable[[], list[Path]]
) -> tuple[Path, ...]:
    """The packages in ``output`` that are of these inputs: those that are there, else new ones.

    Args:
        name: Of the record of what was made.
        what: The channel, for messages.
        make: Builds and publishes them. No other process does so meanwhile.
    """
    folder = private(output)
    with disk_errors(what, output):
        output.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / _stamp(name)
    with FileLock(folder / ".lock"):
        found = recorded(stamp, output, fingerprint)
        if not found:
            stamp.unlink(missing_ok=True)
            found = make()
            record(stamp, output, fingerprint, found)
    return tuple(found)


def _nothing(_: Path) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A recipe and what it is built with.

    Attributes:
        output: The channel's folder; its name is that of the build's folder too.
        channels: Where the build's environments come from.
        inputs: Variables that the recipe reads while it is rendered: the archive's path.
        variables: What the build's own process is given besides.
        amend: Adds to a package's unpacked content.
        audit: Called with each package before it is tested.
    """

    root: Path
    recipe: Path
    platform: str
    output: Path
    channels: tuple[str, ...]
    workspace: Workspace
    reporter: Reporter
    origin: Origin
    variant: Mapping[str, list[str]]
    inputs: Mapping[str, str]
    variables: Mapping[str, str] = field(default_factory=dict)
    amend: Callable[[Path], None] = _nothing
    audit: Callable[[Path], None] = _nothing

    @property
    def folder(self) -> Path:
        """Where it is built."""
        return self.workspace.folder / self.output.name

    def run(self, beside: Sequence[Path] = ()) -> list[Path]:
        """Build, test and publish every output of the recipe; returns the packages.

        Args:
            beside: Packages to publish with them, but for those that were built anew.
        """
        with disk_errors("the build folder", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with environment(self.inputs):
            config = RenderConfig(platform=PlatformConfig(target_platform=self.platform))
            rendered = Stage0Recipe.from_file(self.recipe).render(
                VariantConfig(dict(self.variant)), config
            )
        built = []
        for output in rendered:
            name = output.recipe.package.name
            request = {
                "action": "build",
                "recipe": str(self.recipe),
                "platform": self.platform,
                # Nothing is compiled across: a recipe is noarch, or for the machine that builds it.
                "build_platform": self.platform,
                "variant": dict(self.variant),
                "output": [name, str(output.recipe.build.string)],
                "folder": str(self.folder),
                "channels": list(self.channels),
            }
            package = Path(self._work("build", name, request)["package"])
            self._repack(package)
            self.audit(package)
            built.append(package)
        # An environment for a package's tests needs it in a channel, so they are published into a
        # draft first.
        draft = self.folder / "draft"
        self._index(built, draft)
        for package in built:
            self._test(package, [draft.as_uri(), *self.channels])
        return self._index([*built, *beside], self.output)[: len(built)]

    def _test(self, package: Path, channels: Sequence[str]) -> None:
        name = package.name.rsplit("-", 2)[0]
        refusal = check.host_refusal(channels, Package.from_file(package).depends, self.platform)
        if refusal:
            self.reporter.line(f"  skip  test {name}: {refusal}")
            return
        request = {"action": "test", "package": str(package), "channels": list(channels)}
        self._work("test", name, request)

    def _repack(self, package: Path) -> None:
        """As with the kernels: what the machine and the moment were is no fact of a package."""
        folders = (self.folder, self.root.resolve(), self.workspace.cache)
        repack(package, self.origin, folders, self.folder / "repack", self.amend)
        check.index(self.folder)

    def _work(self, stage: str, name: str, request: Mapping[str, object]) -> Event:
        path = private(self.output) / "logs" / f"{name}-{stage}.log"
        variables = {**self.variables, **self.inputs}
        with self.reporter.task(f"{stage} {name}") as task, JobLog(path, task) as log:
            result = run_worker(request, self.folder, variables, log.event)
            if result["event"] == "error":
                raise failure(name, result["message"], log.lines, str(log.path))
            if result.get("failed"):
                block = "\n  ".join(script_errors(log.lines))
                raise TestFailure(
                    f"{name}: tests in the package failed:\n  {block}\n", f"Full log: {log.path}"
                )
        return result

    def _index(self, packages: Sequence[Path], folder: Path) -> list[Path]:
        """Make ``folder`` a channel of exactly these packages; returns them there.

        The first of a name is taken.
        """
        near = self.folder / "waiting"
        placed: dict[str, list[Path]] = {NOARCH: [], self.platform: []}
        with disk_errors("the channel", folder):
            for package in packages:
                target = folder / package.parent.name / package.name
                if target in placed[package.parent.name]:
                    continue
                placed[package.parent.name].append(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                enter(package, target, waiting_place(folder, near / "outgoing"))
            write_index(folder, placed, near)
            kept = {target for targets in placed.values() for target in targets}
            for old in {path for subdir in placed for path in (folder / subdir).glob("*.conda")}:
                if old not in kept:
                    old.unlink()
            tidy(folder)
        return [folder / package.parent.name / package.name for package in packages]
