"""`vllm-conda build`: toolchain, render, build what changed, test, publish, install."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from rattler_build import Package

from vllm_conda import packages
from vllm_conda.audit import built_for
from vllm_conda.builder import check, whole
from vllm_conda.builder.channel import Toolchain, toolchain_for
from vllm_conda.builder.commit import source_commit
from vllm_conda.builder.diagnose import failure, script_errors
from vllm_conda.builder.logs import JobLog
from vllm_conda.builder.plan import Plan, make_plan
from vllm_conda.builder.repack import repack
from vllm_conda.builder.session import run_worker
from vllm_conda.builder.store import Store
from vllm_conda.builder.workspace import (
    Workspace,
    locked,
    prune_stagings,
    seed,
    worker_environment,
    workspace_for,
    write_settings,
)
from vllm_conda.errors import SolveError, TestFailure
from vllm_conda.jobs import Job
from vllm_conda.microarch import level_cpu
from vllm_conda.packages import CPU, CUDA, ROCM, of_device
from vllm_conda.paths import private_folder
from vllm_conda.platforms import host_platform
from vllm_conda.progress import Reporter
from vllm_conda.recipe import load_recipe
from vllm_conda.render import Output, toolkit_variables
from vllm_conda.solve import solve_specs, virtual_packages
from vllm_conda.targets import Targets
from vllm_conda.toolchain import PYTORCH_CUDA

INSTALLED = of_device(CPU)
PASSED = "passed"
UNRESOLVED = "Failed to resolve dependencies"


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        channels: Empty means the embedded toolchain channel.
        compile_jobs: Compiles at once; without it CMake decides from cores and memory.
        task: One of several builds of the checkout at a time, each into a channel of its own: with
            a workspace of its own, and nothing is installed.
    """

    root: Path
    output: Path
    jobs: tuple[Job, ...]
    channels: tuple[str, ...] = ()
    compile_jobs: int | None = None
    task: bool = False


@dataclass(frozen=True)
class Built:
    """One package that was made: its file, its job, and how its own tests went."""

    package: str
    job: str
    seconds: float
    log: str
    tests: str


@dataclass
class Report:
    """The result, as `--json` prints it."""

    output: str
    channel: str
    built: list[Built] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    installed: list[str] = field(default_factory=list)
    install_command: str = ""
    serve_commands: list[str] = field(default_factory=list)
    seconds: float = 0.0


def build(options: Options, targets: Targets, reporter: Reporter) -> Report:
    """Bring the output channel up to date with the checkout.

    Raises:
        VllmError: See docs/packagers/exit-codes.md; the output folder is as before or better.
    """
    started = time.monotonic()
    recipe = load_recipe(options.root)  # bad input fails before the first download
    workspace = workspace_for(options.root, options.output if options.task else None)
    report = Report(str(options.output), options.output.resolve().as_uri())
    with locked(workspace, options.output.resolve()):
        # In the table's order: the machine's own platform comes first, and is tested.
        for platform in dict.fromkeys(job.platform for job in options.jobs):
            jobs = [job for job in options.jobs if job.platform == platform]
            toolkits = [job.toolkit for job in jobs]
            toolchain = toolchain_for(platform, options.channels, reporter, toolkits)
            plan = make_plan(recipe, targets, jobs, toolchain)
            _build_platform(options, plan, workspace, toolchain, reporter, report)
    report.seconds = round(time.monotonic() - started, 2)
    return report


def _build_platform(
    options: Options,
    plan: Plan,
    workspace: Workspace,
    toolchain: Toolchain,
    reporter: Reporter,
    report: Report,
) -> None:
    """Build the jobs of one platform and add to ``report``; the caller holds the locks."""
    first = plan.jobs[0]
    store = Store(options.output, first.platform, workspace)
    run = _Run(options, plan, store, workspace, toolchain, reporter, report)
    run.packages()
    if not options.task:
        whole.take_levels(store, toolchain.channels)
    report.removed += store.settle(plan.uses(), {job.name for job in plan.jobs})
    if first.platform == host_platform() and not options.task:
        run.installation()
    if not report.install_command:
        report.install_command = _install_command(store, toolchain, first)


def _install_command(store: Store, toolchain: Toolchain, job: Job) -> str:
    embedded = toolchain.toolkit_fingerprint(job.toolkit) and job.platform == host_platform()
    if embedded and job.cuda.split(".")[0] == PYTORCH_CUDA.split(".")[0]:
        # The CUDA build of PyTorch is made when it is asked for.
        piece = f"[build=cuda{job.cuda.replace('.', '')}_{job.slice}_*]"
        return f"vllm-conda exec --with '{of_device(CUDA)}{piece}' -- python -m vllm_kernels"
    package = of_device(job.device)
    if not toolchain.glibc:
        named = (store.url, *toolchain.channels)
    elif job.device == CPU and whole.is_made(store.folder, job.platform):
        named = (whole.local_folder(store.folder).resolve().as_uri(),)
    elif job.device == ROCM:  # conda-forge has no PyTorch for it
        named = (store.url, "CHANNEL_WITH_PYTORCH_FOR_ROCM", "conda-forge")
    else:  # of the embedded channel's packages nothing runs elsewhere
        named = (store.url, "conda-forge")
    return f"conda install {' '.join(f'-c {channel}' for channel in named)} {package}"


class _Run:
    """One run's packages, in the recipe's order."""

    def __init__(
        self,
        options: Options,
        plan: Plan,
        store: Store,
        workspace: Workspace,
        toolchain: Toolchain,
        reporter: Reporter,
        report: Report,
    ) -> None:
        self.options, self.plan, self.store = options, plan, store
        self.workspace, self.toolchain = workspace, toolchain
        self.reporter, self.report = reporter, report
        self.platform = store.platform
        self.environment = worker_environment(workspace, toolchain.fingerprint)
        self.channels = [workspace.folder.as_uri(), *toolchain.channels]

    def packages(self) -> None:
        """Build, test and publish each package that the store does not hold."""
        outputs = self.plan.distinct()
        current = [o for o in outputs if self.store.holds(o.file_name, o.fingerprint)]
        self.report.unchanged += [output.file_name for output in current]
        todo = [output for output in outputs if output not in current]
        if not todo:
            return
        seed(
            self.workspace,
            self.platform,
            [self.store.packages / output.file_name for output in current],
        )
        write_settings(self.workspace, self.options.compile_jobs)
        recipe = self.plan.recipe
        sources = {path for output in todo for path in recipe.made_of[output.name]}
        commit = source_commit(recipe.root, sorted(sources))
        for output in todo:
            started = time.monotonic()
            package = self._build(output)
            seconds = round(time.monotonic() - started, 2)
            self._repack(output, package)
            self._audit(package)
            tested = self._test(output, package)
            self.store.publish(package, output.job.name, output.fingerprint, tested, commit)
            log = str(self._log(output, "build"))
            self.report.built.append(Built(output.file_name, output.job.name, seconds, log, tested))
        prune_stagings(self.workspace)

    def _log(self, output: Output, stage: str) -> Path:
        folder = private_folder(self.options.output) / "logs" / output.job.name
        return folder / f"{output.name}-{stage}.log"

    def _cpu(self, job: Job) -> str:
        """The CPU that a build's environments are solved for."""
        return level_cpu(self.plan.targets.platforms[job.platform].family, job.level)

    def _build(self, output: Output) -> Path:
        request = {
            "action": "build",
            "recipe": str(self.plan.recipe.path),
            "platform": self.platform,
            "build_platform": host_platform(),
            "variant": {
                key: values
                for key, values in self.plan.keys[output.job.name].items()
                if key != "target_platform"
            }
            | {key: [value] for key, value in self.plan.recipe.source_hashes.items()}
            | dict(output.package_hashes),
            "output": [output.name, output.build_string],
            "folder": str(self.workspace.folder),
            "channels": list(self.toolchain.channels_for(output.job.toolkit)),
        }
        # Builds do not look at the host's CPU: a level-4 package is made on any x86-64 machine.
        environment = {
            **self.environment,
            "CONDA_OVERRIDE_ARCHSPEC": self._cpu(output.job),
            **toolkit_variables(output.job, self.toolchain.toolkit_fingerprint(output.job.toolkit)),
        }
        if self.platform != host_platform() and self.toolchain.glibc:
            # rattler-build assumes an older one of a platform that is not this machine's.
            environment["CONDA_OVERRIDE_GLIBC"] = self.toolchain.glibc
        name = f"build {output.name} ({output.job.name})"
        with (
            self.reporter.task(name) as task,
            JobLog(self._log(output, "build"), task) as log,
        ):
            result = run_worker(request, self.workspace.folder, environment, log.event)
            if result["event"] == "error":
                what = f"{output.name} for {output.job.name}"
                if UNRESOLVED in result["message"]:
                    self._explain(output, what)
                raise failure(what, result["message"], log.lines, str(log.path))
        return Path(result["package"])

    def _explain(self, output: Output, what: str) -> None:
        """Solve the build's environments here: rattler-build keeps the solver's reason to itself.

        Raises:
            SolveError, NetworkError: The reason; nothing is raised where both solve.
        """
        stage1 = output.rendered.recipe
        parts = [stage1.requirements, *(cache.requirements for cache in stage1.staging_caches)]
        virtual = virtual_packages([f"__archspec=1={self._cpu(output.job)}"])
        for part in parts:
            for environment, platform in (
                (part.build, host_platform()),
                (part.host, self.platform),
            ):
                specs = [str(spec) for spec in environment if not isinstance(spec, dict)]
                try:
                    channels = self.toolchain.channels_for(output.job.toolkit)
                    solve_specs(channels, specs, platform, virtual)
                except SolveError as error:
                    raise SolveError(
                        f"Building {what} failed: its environment cannot be solved: "
                        f"{error.message}",
                        "Check what the channels hold, or leave --channel out.",
                    ) from None

    def _repack(self, output: Output, package: Path) -> None:
        """Make the package's bytes depend on its content alone, and index it again."""
        root = self.options.root
        folder = self.workspace.folder
        # The cache holds the toolchain channel, whose address the package's records name.
        folders = (folder, root.resolve(), self.workspace.cache)
        entry = packages.table()[output.name]
        # What holds no kernels is one package, whichever level's job makes it.
        level = output.job.level if entry.compiled and entry.device == CPU else None

        def amend(content: Path) -> None:
            promise = built_for.describe(self.plan.targets, self.platform, level, content)
            built_for.write(content, promise)

        repack(package, self.plan.origins[output.name], folders, folder / "repack", amend)
        check.index(folder)

    def _audit(self, package: Path) -> None:
        root, folder = self.options.root, self.workspace.folder
        for warning in check.audit_package(package, root, self.plan.targets, folder):
            self.reporter.line(f"  {package.name}: {warning}")

    def _test(self, output: Output, package: Path) -> str:
        depends = Package.from_file(package).depends
        toolchain = self.toolchain.channels_for(output.job.toolkit)
        refusal = ""
        if self.platform != host_platform():
            refusal = f"this machine is {host_platform()}"
        refusal = refusal or check.host_refusal(toolchain, depends, self.platform)
        if refusal:
            self.reporter.line(f"  skip  test {output.name} ({output.job.name}): {refusal}")
            return f"not run: {refusal}"
        channels = [self.channels[0], *toolchain]
        request = {"action": "test", "package": str(package), "channels": channels}
        name = f"test {output.name} ({output.job.name})"
        with self.reporter.task(name) as task, JobLog(self._log(output, "test"), task) as log:
            result = run_worker(request, self.workspace.folder, self.environment, log.event)
            if result["event"] == "error":
                what = f"the test environment of {output.name}"
                raise failure(what, result["message"], log.lines, str(log.path))
            if result["failed"]:
                block = "\n  ".join(script_errors(log.lines))
                raise TestFailure(
                    f"{output.file_name}: {len(result['failed'])} of {result['tests']} tests in "
                    f"the package failed:\n  {block}\n",
                    f"Full log: {log.path}",
                )
        return PASSED

    def installation(self) -> None:
        """Solve and install as a user of this machine does, unless that very set was checked."""
        channels = [self.store.url, *self.toolchain.channels]
        identity = self._identity()
        embedded = bool(self.toolchain.glibc)
        made = not embedded or whole.is_made(self.store.folder, self.platform)
        if self.store.state.installed == identity and made:
            return
        found = self.store.state.packages
        tested = [e.tested for name, e in found.items() if name.startswith(f"{INSTALLED}-")]
        if not tested:
            return
        if PASSED not in tested:
            self.reporter.line(f"  skip  install {INSTALLED}: {', '.join(sorted(set(tested)))}")
            return
        cache = self.workspace.rattler
        with self.reporter.task(f"install {INSTALLED} into a fresh environment") as task:
            task.status("solve")
            records = check.installation(channels, INSTALLED, self.platform, cache)
            task.status(f"install {len(records)} packages")
            prefix = self.workspace.folder / "installed"
            check.install_fresh(records, prefix, self.platform, cache)
        if embedded:
            whole.make_local(self.store, INSTALLED, records)
        ours = {output.name for output in self.plan.outputs}
        self.report.installed = [r.file_name for r in records if r.name.normalized in ours]
        self.store.mark_installed(identity, self.toolchain.channels)

    def _identity(self) -> str:
        packages = sorted((name, e.sha256) for name, e in self.store.state.packages.items())
        text = f"{packages} {self.toolchain.fingerprint}"
        return hashlib.sha256(text.encode()).hexdigest()
