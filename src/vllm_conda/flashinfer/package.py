"""Builds FlashInfer's recipe from upstream's wheel into a channel of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as resource_files
from pathlib import Path

from vllm_conda import toolchain as toolchain_package
from vllm_conda.audit import built_for, modules
from vllm_conda.builder import check
from vllm_conda.builder.channel import toolchain_for
from vllm_conda.builder.commit import origin
from vllm_conda.builder.upstream import Upstream, recorded, stamps, unless_made
from vllm_conda.builder.workspace import (
    Workspace,
    worker_environment,
    workspace_for,
    write_settings,
)
from vllm_conda.downloads.store import key_of
from vllm_conda.engine import channel as engine_channel
from vllm_conda.errors import UsageError, did_you_mean
from vllm_conda.jobs import CUDA, Job, select, variant_keys
from vllm_conda.packages import FLASHINFER
from vllm_conda.platforms import host_platform
from vllm_conda.progress import Reporter
from vllm_conda.recipe import FLASHINFER_RECIPE_FILE, hash_files
from vllm_conda.render import toolkit_variables
from vllm_conda.targets import TARGETS_FILE, Targets

# Of the channel with our packages: FlashInfer's own channel.
FOLDER = "flashinfer"
PYTHON, MODULES = NAMES = ("flashinfer-python", FLASHINFER)
_TITLE = "Channel of FlashInfer's dependencies"


@dataclass(frozen=True)
class Choice:
    """What is packaged: a release, the words of a set of modules, and for which CUDA and GPU."""

    job: Job
    release: str
    modules: str

    @property
    def name(self) -> str:
        """Of the record of what was made."""
        return f"{self.job.name}-{self.release}-{self.modules}"


@dataclass(frozen=True)
class Made:
    """The packages and the channels that an environment with them is solved from."""

    packages: tuple[Path, ...]
    channels: tuple[str, ...]

    def beside(self, others: Sequence[str]) -> tuple[str, ...]:
        """The channels, and before them the ``others`` that are none of them."""
        return (*(one for one in others if one not in self.channels), *self.channels)


def choose(targets: Targets, cuda: str = "", modules: str = "", release: str = "") -> Choice:
    """What the command line asks for; what it leaves out is the table's, and for this machine.

    Raises:
        UsageError, ConfigError: A word that the table does not have, or another platform's.
    """
    table = targets.flashinfer
    job = select(
        targets,
        platforms=[host_platform()],
        devices=[CUDA],
        cuda=[cuda or toolchain_package.PYTORCH_CUDA],
        slices=[table.slice],
    )[0]
    for what, word, known in (
        ("set of modules", modules, table.sets),
        ("release of FlashInfer", release, table.releases),
    ):
        if word and word not in known:
            raise UsageError(
                f"Unknown {what} {word!r}.{did_you_mean(word, known)}",
                f"Known: {', '.join(known)}.",
            )
    return Choice(job, release or table.release, modules or table.modules)


def ensure(
    root: Path,
    targets: Targets,
    choice: Choice,
    output: Path,
    channels: Sequence[str],
    reporter: Reporter,
    jobs: int | None = None,
) -> Made:
    """Build FlashInfer's packages into ``output`` unless they are there, from the same inputs.

    Args:
        root: The checkout.
        output: The channel's folder.
        channels: Where compilers, Python and PyTorch come from; empty for the embedded channels.
        jobs: Compiles at once; otherwise as many as there are cores, as far as memory reaches.

    Raises:
        VllmError: A download, the build, the audit or the packages' own tests failed.
    """
    platform = choice.job.platform
    toolchain = toolchain_for(platform, channels, reporter, [choice.job.toolkit])
    others = toolchain.channels_for(choice.job.toolkit)
    if toolchain.glibc:  # the embedded channels
        text = (resource_files(__package__) / "wheels.toml").read_text(encoding="utf-8")
        own = toolchain_package.ensure_wheels(platform, text, _TITLE, reporter=reporter)
        others = (own.url, engine_channel.ensure(platform, reporter=reporter).url, *others)
    sources = [(root / FLASHINFER_RECIPE_FILE).parent, root / "licenses"]
    made = origin(root, sources)  # what the table says of it enters by value
    release = targets.flashinfer.releases[choice.release]
    common = (
        hash_files(root, sources), choice.release, release.sha256, release.engines,
        made.revision, str(made.epoch),
    )  # fmt: skip
    hashes = {
        PYTHON: key_of(*common, toolchain.fingerprint),
        MODULES: key_of(*common, *others, *targets.flashinfer.sets[choice.modules]),
    }
    keys = variant(targets, choice, hashes)
    made_of = fingerprint(keys)
    workspace = workspace_for(root)

    def make() -> list[Path]:
        write_settings(workspace, jobs)
        wheel = toolchain_package.pinned_wheel(
            f"{PYTHON}=={choice.release}", release.sha256, TARGETS_FILE, platform, reporter
        )
        build = Upstream(
            root=root,
            recipe=root / FLASHINFER_RECIPE_FILE,
            platform=platform,
            output=output,
            channels=others,
            workspace=workspace,
            reporter=reporter,
            origin=made,
            variant=keys,
            inputs={**inputs(targets, choice), "VLLM_FLASHINFER_WHEEL": str(wheel)},
            variables={
                **worker_environment(workspace, toolchain.fingerprint),
                **toolkit_variables(choice.job, toolchain.toolkit_fingerprint(choice.job.cuda)),
            },
            amend=lambda content: _describe(targets, choice.job, content),
            audit=lambda package: _audit(package, root, targets, workspace, reporter),
        )
        others_made = {path: None for one in stamps(output) for path in recorded(one, output)}
        return build.run(list(others_made))

    found = unless_made(choice.name, "FlashInfer's channel", output, made_of, make)
    return Made(found, (output.resolve().as_uri(), *others))


def inputs(targets: Targets, choice: Choice) -> dict[str, str]:
    """The variables in which the recipe reads the release."""
    release = targets.flashinfer.releases[choice.release]
    return {
        "VLLM_FLASHINFER_RELEASE": choice.release,
        "VLLM_FLASHINFER_SHA256": release.sha256,
        "VLLM_FLASHINFER_ENGINES": release.engines,
    }


def variant(targets: Targets, choice: Choice, hashes: Mapping[str, str]) -> dict[str, list[str]]:
    """The keys of the job, and those of this recipe."""
    sets, platform = targets.flashinfer.sets, targets.platforms[choice.job.platform]
    (arch,) = targets.cuda.slices[choice.job.slice].archs
    keys = {
        **variant_keys(targets, choice.job),
        "flashinfer_arch": arch,
        "flashinfer_hardening": " ".join(platform.hardening),
        "flashinfer_hardening_link": " ".join(platform.hardening_link),
        "flashinfer_modules": " ".join(sets[choice.modules]),
        "flashinfer_rank": str(list(sets).index(choice.modules)),
        "flashinfer_set": choice.modules,
        **{f"{name.replace('-', '_')}_package_hash": value for name, value in hashes.items()},
    }
    return {key: [value] for key, value in keys.items()}


def fingerprint(keys: Mapping[str, Sequence[str]]) -> str:
    """Of a build's inputs: the recipe, its sources and channels are among them by their hashes."""
    return key_of(json.dumps(keys, sort_keys=True))


def _describe(targets: Targets, job: Job, content: Path) -> None:
    """Write into a package what it is for, which the audit holds it to."""
    entry, cuda = targets.platforms[job.platform], None
    summary = content / modules.FILE
    if summary.is_file():
        code = built_for.GpuCode(targets.cuda.slices[job.slice].archs, ())
        cuda = dict.fromkeys(modules.read(summary.read_bytes()).modules, code)
    promise = built_for.BuiltFor(job.platform, entry.glibc, entry.libstdcxx, cuda=cuda)
    built_for.write(content, promise)


def _audit(
    package: Path, root: Path, targets: Targets, workspace: Workspace, reporter: Reporter
) -> None:
    for warning in check.audit_package(package, root, targets, workspace.folder):
        reporter.line(f"  {package.name}: {warning}")
