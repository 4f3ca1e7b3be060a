"""`vllm-conda build --on slurm`: submit, watch, collect, verify, and index once.

The machine that this runs on renders and publishes; the tasks compile. A task is an ordinary build
of one job into a channel of its own, so that what it has made survives whatever ends it, and a
second run takes up what is there. Packages enter the output channel when their bytes have been
compared with what their builders recorded and with those that other tasks made under the same name.
"""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllm_conda.builder import pipeline
from vllm_conda.builder.channel import toolchain_for
from vllm_conda.builder.pipeline import Built, Options, Report
from vllm_conda.builder.plan import Plan, make_plan
from vllm_conda.builder.store import Store, sha256
from vllm_conda.builder.workspace import Workspace, locked, workspace_for
from vllm_conda.cluster import slurm
from vllm_conda.cluster.ending import Ending, ending
from vllm_conda.cluster.script import Place, batch_script
from vllm_conda.errors import BuildFailure, IntegrityError
from vllm_conda.jobs import Job
from vllm_conda.matrix import load_costs
from vllm_conda.paths import disk_errors, private_folder, write_atomic
from vllm_conda.processes import Stopped
from vllm_conda.progress import Reporter
from vllm_conda.recipe import load_recipe
from vllm_conda.render import Output
from vllm_conda.resources import Resources, resources
from vllm_conda.targets import Targets

# Between two questions to Slurm: a short build is seen to end at once, a long one asks rarely.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
_PAUSE_GROWTH = 1.2


@dataclass(frozen=True)
class Submission:
    """What the command line asks of the cluster.

    Attributes:
        extra: Options of sbatch, such as ``--partition=long``.
    """

    extra: tuple[str, ...] = ()


@dataclass
class _Task:
    job: Job
    need: Resources
    place: Place
    script: str
    plan: Plan
    number: str = ""
    word: str = ""
    failed: Ending | None = None

    @property
    def outputs(self) -> list[Output]:
        return [output for output in self.plan.outputs if output.job == self.job]


def scripts(options: Options, targets: Targets, submission: Submission) -> str:
    """The batch scripts of all jobs, as ``--dry-run`` prints them; nothing is made or asked."""
    parts = []
    for job in options.jobs:
        place, _, text = _prepared(options, targets, submission, job)
        parts.append(f"# sbatch {place.script}\n{text}")
    return "\n".join(parts)


def _prepared(
    options: Options, targets: Targets, submission: Submission, job: Job
) -> tuple[Place, Resources, str]:
    cost = load_costs(options.root).jobs.get(job.name)
    need = resources(targets, job, cost, options.compile_jobs)
    beside = private_folder(options.output)
    place = Place(options.root.resolve(), beside / "slurm" / job.name)
    return place, need, batch_script(place, job, need, options.channels, submission.extra)


def build(options: Options, targets: Targets, reporter: Reporter, submission: Submission) -> Report:
    """Bring the output channel up to date by one task a job.

    Raises:
        MissingToolError, ClusterError: Slurm is not there, refuses a task or does not answer.
        BuildFailure: Names each task that failed, why, its log, and the command that retries it.
            What the others made is in the channel.
        IntegrityError: A task's packages are not what it recorded, or two tasks differ.
    """
    started = time.monotonic()
    slurm.require()
    workspace = workspace_for(options.root)
    run = _Run(options, targets, reporter, submission, workspace)
    with locked(workspace, options.output.resolve()):
        tasks = run.tasks()
        run.submit(tasks)
        run.watch(tasks)
        built = run.collect(tasks)
    done = [task.job for task in tasks if task.failed is None]
    # Nothing is left to build: this indexes, once, and installs what this machine can run.
    report = Report(str(options.output), options.output.resolve().as_uri())
    if done:
        finished = dataclasses.replace(options, jobs=tuple(done))
        report = pipeline.build(finished, targets, reporter)
    names = {item.package for item in built}
    report.built = built
    report.unchanged = [name for name in report.unchanged if name not in names]
    report.seconds = round(time.monotonic() - started, 2)
    _complain(options, submission, tasks)
    return report


@dataclass
class _Run:
    options: Options
    targets: Targets
    reporter: Reporter
    submission: Submission
    workspace: Workspace
    started: dict[str, float] = field(default_factory=dict)

    def tasks(self) -> list[_Task]:
        """A task for each job. Toolchains are made here: nodes may have no network."""
        recipe = load_recipe(self.options.root)
        found = []
        for platform in dict.fromkeys(job.platform for job in self.options.jobs):
            jobs = [job for job in self.options.jobs if job.platform == platform]
            toolkits = [job.toolkit for job in jobs]
            toolchain = toolchain_for(platform, self.options.channels, self.reporter, toolkits)
            plan = make_plan(recipe, self.targets, jobs, toolchain)
            for job in jobs:
                place, need, text = _prepared(self.options, self.targets, self.submission, job)
                found.append(_Task(job, need, place, text, plan))
        return found

    def submit(self, tasks: Sequence[_Task]) -> None:
        """Submit what neither the channel nor a task of an earlier run holds or still makes."""
        running = self._running(tasks)
        submitted: list[str] = []
        try:
            for task in tasks:
                if self._held(task) or _made(task):
                    continue
                if task.place.number in running:
                    task.number = running[task.place.number]
                    self.reporter.line(f"  goes on  {task.job.name}: task {task.number}")
                    continue
                with disk_errors("the batch script", task.place.folder):
                    task.place.folder.mkdir(parents=True, exist_ok=True)
                    task.place.log.unlink(missing_ok=True)
                    write_atomic(task.place.script, task.script)
                task.number = slurm.submit(task.place.script, task.job.name)
                submitted.append(task.number)
                write_atomic(task.place.number, f"{task.number}\n")
                need = task.need
                self.reporter.line(
                    f"  submit   {task.job.name}: task {task.number}, {need.cores} cores, "
                    f"{need.memory_mib} MiB, {need.minutes} minutes, log {task.place.log}"
                )
        except BaseException:
            slurm.cancel(submitted)
            raise

    def _running(self, tasks: Sequence[_Task]) -> dict[Path, str]:
        """Numbers of tasks that an earlier run submitted and that have not ended."""
        numbers = {
            task.place.number: task.place.number.read_text(encoding="utf-8").strip()
            for task in tasks
            if task.place.number.is_file()
        }
        known = slurm.states(numbers.values()) if numbers else {}
        return {file: number for file, number in numbers.items() if known[number].alive}

    def watch(self, tasks: Sequence[_Task]) -> None:
        """Wait for every task; those that can never start are cancelled.

        Whoever stops this stops the tasks too.
        """
        waiting = {task.number: task for task in tasks if task.number}
        now = time.monotonic()
        self.started = dict.fromkeys(waiting, now)
        pause = _FIRST_PAUSE_SECONDS
        try:
            while waiting:
                for number, state in slurm.states(waiting).items():
                    if self._ended(waiting[number], state):
                        del waiting[number]
                if waiting:
                    time.sleep(pause)
                    pause = min(_LONGEST_PAUSE_SECONDS, pause * _PAUSE_GROWTH)
        except (KeyboardInterrupt, Stopped):
            slurm.cancel(waiting)
            raise

    def _ended(self, task: _Task, state: slurm.State) -> bool:
        word = f"{state.word}: {state.reason}" if state.reason else state.word
        if word != task.word:
            task.word = word
            where = f" on {state.node}" if state.node else ""
            reason = f" ({state.reason})" if state.reason else ""
            self.reporter.line(f"  {state.word.lower():<9}  {task.job.name}{where}{reason}")
        if state.hopeless:
            slurm.cancel([task.number])
        elif state.alive:
            return False
        if not _made(task):
            task.failed = ending(state, task.place, task.need)
        return True

    def _held(self, task: _Task) -> bool:
        store = Store(self.options.output, task.job.platform, self.workspace)
        return all(store.holds(o.file_name, o.fingerprint) for o in task.outputs)

    def collect(self, tasks: Sequence[_Task]) -> list[Built]:
        """Verify and publish what the tasks made; the index is written afterwards."""
        built: list[Built] = []
        seen: dict[tuple[str, str], tuple[str, str]] = {}
        for task in tasks:
            if task.failed or self._held(task):
                continue
            made = task_store(task.place, task.job)
            store = Store(self.options.output, task.job.platform, self.workspace)
            for output in task.outputs:
                entry = made.state.packages[output.file_name]
                file = made.packages / output.file_name
                _verify(file, entry.sha256, task.job)
                key = (task.job.platform, output.file_name)
                digest, other = seen.setdefault(key, (entry.sha256, task.job.name))
                if digest != entry.sha256:
                    raise IntegrityError(
                        f"{output.file_name} of {task.job.name} and of {other} differ, though they "
                        "were made from the same sources.",
                        f"Compare {file} with {tasks_file(tasks, other, output)}.",
                    )
                if store.holds(output.file_name, output.fingerprint):
                    continue
                store.publish(file, task.job.name, output.fingerprint, entry.tested, entry.commit)
                seconds = round(time.monotonic() - self.started.get(task.number, time.monotonic()))
                log = str(task.place.log)
                built.append(Built(output.file_name, task.job.name, seconds, log, entry.tested))
        return built


def task_store(place: Place, job: Job) -> Store:
    """The channel that a task fills."""
    return Store(place.output, job.platform, Workspace(place.folder, place.folder))


def _made(task: _Task) -> bool:
    """Whether the task's channel holds all that was rendered here, whole."""
    store = task_store(task.place, task.job)
    return all(store.holds(o.file_name, o.fingerprint) for o in task.outputs)


def _verify(file: Path, recorded: str, job: Job) -> None:
    with disk_errors("a task's package", file):
        found = sha256(file)
    if found != recorded:
        raise IntegrityError(
            f"{file.name}, made by the task {job.name}, is damaged: its hash is {found[:16]}…, its "
            f"builder recorded {recorded[:16]}….",
            f"Remove {file.parent.parent} and run the same command again.",
        )


def tasks_file(tasks: Sequence[_Task], name: str, output: Output) -> Path:
    """Where the task of job ``name`` has the package."""
    place = next(task.place for task in tasks if task.job.name == name)
    return place.output / output.job.platform / output.file_name


def _again(options: Options, submission: Submission, task: _Task, failed: Ending) -> str:
    """The command that builds the one job again, with what would help."""
    words = ["vllm-conda", "build", "--on", "slurm", "--variant", task.job.name]
    for channel in options.channels:
        words += ["--channel", channel]
    if options.output != options.root / "output":
        words += ["--output", str(options.output)]
    if options.compile_jobs:
        words += ["--jobs", str(options.compile_jobs)]
    words += [f"--sbatch={option}" for option in submission.extra]
    return shlex.join([*words, *filter(None, [failed.option])])


def _complain(options: Options, submission: Submission, tasks: Sequence[_Task]) -> None:
    failed = [task for task in tasks if task.failed]
    if not failed:
        return
    lines = []
    for task in failed:
        if task.failed is None:
            continue
        lines.append(f"{task.job.name} (task {task.number}): {task.failed.reason}")
        lines.append(f"  log: {task.place.log}")
        lines.append(f"  retry: {_again(options, submission, task, task.failed)}")
    block = "\n  ".join(lines)
    whole = len(tasks) - len(failed)
    raise BuildFailure(
        f"{len(failed)} of {len(tasks)} tasks failed:\n  {block}\n",
        f"The packages of the other {whole} are in {options.output}."
        if whole
        else "Nothing was published.",
    )
