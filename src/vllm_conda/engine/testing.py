"""The engine on the finished packages: small models against transformers, and its server."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllm_conda.builder.workspace import workspace_for
from vllm_conda.engine import files, package, sdist
from vllm_conda.engine.interface.table import load as load_engines
from vllm_conda.environment import ensure_environment, run_in
from vllm_conda.errors import SolveError, TestFailure
from vllm_conda.packages import CPU, CUDA, serving
from vllm_conda.paths import disk_errors, private_folder, write_atomic
from vllm_conda.progress import Reporter
from vllm_conda.solve import virtual_packages
from vllm_conda.targets import load_targets

# What a user asks for, and nothing beside it.
SPECS = {device: (serving(device),) for device in (CPU, CUDA)}
MODELS = (
    "llama",
    "qwen3",
    "gemma2",
    "gemma3",
    "mixtral",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
)
# Llamas whose weights are stored in 4 bits, in FP8, or in INT8 with activations rounded too.
QUANTISED = ("llama_gptq", "llama_awq", "llama_fp8", "llama_w8a8")
# Models with gated delta nets, which the engine runs on a CPU in bfloat16 only.
HYBRID = ("qwen3_next",)
# A Llama whose keys and values are kept in FP8.
CACHED = ("llama_fp8_cache",)
# On a GPU nothing is exact in float32: the engine's Triton kernels multiply in TF32.
DTYPES = {"cpu": ("float32", "bfloat16", "float16"), "cuda": ("bfloat16", "float16")}
# The engine itself refuses them in float16: Gemma for its range, FP8 as its CPU kernel lacks it.
WITHOUT_FLOAT16 = ("gemma2", "gemma3", "llama_fp8")
# How the engine runs a model: without torch.compile; with it, but no C++ compiler, as in an
# environment of these packages alone; with the machine's compiler. On a GPU the last is the
# engine's default, with CUDA graphs; Triton needs a compiler in each.
MODES = {"cpu": ("eager", "traced", "inductor"), "cuda": ("eager", "inductor")}
# Hides the machine's own compiler, which is not part of the environment.
NO_COMPILER = "no-compiler"
PROGRAMS = Path(__file__).parent / "inside"
FILES_CHECK = Path("recipe/engine/tests/check_engine.py")
# A build tree, a forced tier or another plugin mode of the caller would test something else.
CLEARED = (
    "VLLM_KERNELS_ALL_REDUCE",
    "VLLM_KERNELS_ATTENTION",
    "VLLM_KERNELS_BACKEND",
    "VLLM_KERNELS_CPU_COMPACT",
    "VLLM_KERNELS_CPU_ISA",
    "VLLM_KERNELS_DEVICE",
    "VLLM_KERNELS_ENGINE",
    "VLLM_KERNELS_LIBRARY_DIR",
    "VLLM_KERNELS_PLUGIN",
    "VLLM_PLUGINS",
)


@dataclass(frozen=True)
class Case:
    """One run of the engine.

    Attributes:
        program: ``trial`` (`LLM.generate`), ``server`` (`vllm serve`) or ``refusal`` (what the
            kernels do not have).
        mode: One of :data:`MODES`; of a refusal ``refused``.
        arguments: More of the program's arguments.
        device: ``cpu`` or ``cuda``.
    """

    program: str
    model: str
    dtype: str
    mode: str
    arguments: tuple[str, ...] = ()
    device: str = "cpu"

    @property
    def name(self) -> str:
        where = "" if self.device == "cpu" else f"{self.device} "
        return f"{where}{self.program} {self.model} {self.dtype} {self.mode}"

    @property
    def hides_compiler(self) -> bool:
        return self.device == "cpu" and self.mode != "inductor"


@dataclass(frozen=True)
class Job:
    """One process: a server, or trials of one model that find the same compilers."""

    cases: tuple[Case, ...]

    @property
    def name(self) -> str:
        first = self.cases[0]
        if len(self.cases) == 1:
            return first.name
        return f"{first.program} {first.model} x{len(self.cases)}"

    def command(self, models: Path, result: Path, log: Path) -> list[str]:
        """The program's command line in the environment."""
        case = self.cases[0]
        compiler = ["env", f"CXX={NO_COMPILER}"] if case.hides_compiler else []
        words = [
            *compiler, "python", str(PROGRAMS / f"{case.program}.py"), case.model,
            "--models", str(models), "--result", str(result),
            "--device", case.device, *case.arguments,
        ]  # fmt: skip
        if case.program == "server":
            words += ["--dtype", case.dtype, "--log", str(log.with_suffix(".server.log"))]
            return [*words, "--eager"] if case.mode == "eager" else words
        if case.program == "refusal":
            return words
        for one in self.cases:
            words += ["--run", f"{one.dtype}:{one.mode}"]
        # A separate process for the engine's core would cost each run a third of its time.
        return [*words, "--inline"] if len(self.cases) > 1 else words


@dataclass(frozen=True)
class Options:
    """Arguments of one test run.

    Attributes:
        output: The channel with our packages.
        channels: Where Python and PyTorch come from; empty for the embedded toolchain channel.
        models: Models to run; empty for the selection below.
        full: Every model, type and mode, and the server with 64 requests at once;
            otherwise one model, traced, and the server.
        device: ``cpu`` or ``cuda``, which needs a GPU.
    """

    root: Path
    output: Path
    platform: str
    channels: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    full: bool = False
    device: str = "cpu"


def cases(options: Options) -> list[Case]:
    """The runs that the options ask for."""
    found = _cuda_cases(options) if options.device == "cuda" else _cpu_cases(options)
    return [replace(case, device=options.device) for case in found]


def jobs(found: Sequence[Case]) -> Iterator[Job]:
    """The processes in which ``found`` run, in its order."""

    def process(case: Case) -> object:
        alone = case.program != "trial" or case.device != "cpu"
        return case if alone else (case.model, case.hides_compiler)

    for _, group in itertools.groupby(found, process):
        yield Job(tuple(group))


def _cpu_cases(options: Options) -> list[Case]:
    if not options.full:
        models = options.models or MODELS[:1]
        found = [Case("trial", model, _cpu_dtypes(model)[0], "traced") for model in models]
        return [
            *found,
            Case("server", models[0], _cpu_dtypes(models[0])[0], "eager", ("--concurrent", "8")),
        ]
    models = options.models or (*MODELS, *QUANTISED, *HYBRID, *CACHED)
    found = [
        Case("trial", model, dtype, mode)
        for model in models
        for mode in ("eager", "traced")
        for dtype in _cpu_dtypes(model)
    ]
    found += [Case("trial", models[0], dtype, "inductor") for dtype in _cpu_dtypes(models[0])]
    many = ("--concurrent", "64")
    found += [Case("server", models[0], "float32", mode, many) for mode in MODES["cpu"]]
    return [*found, Case("refusal", models[0], "bfloat16", "refused")]


def _cpu_dtypes(model: str) -> tuple[str, ...]:
    if model in HYBRID:
        return ("bfloat16",)
    # The engine accepts most quantised checkpoints in 16 bits only.
    dtypes = DTYPES["cpu"][1:] if model in QUANTISED else DTYPES["cpu"]
    return tuple(d for d in dtypes if d != "float16" or model not in WITHOUT_FLOAT16)


def _cuda_cases(options: Options) -> list[Case]:
    models = options.models or (MODELS if options.full else MODELS[:1])
    dtypes = DTYPES["cuda"] if options.full else DTYPES["cuda"][:1]
    found = [
        Case("trial", model, dtype, mode)
        for dtype in dtypes
        for mode in MODES["cuda"]
        for model in models
    ]
    many = ("--concurrent", "64" if options.full else "8")
    return [*found, Case("server", models[0], dtypes[0], "inductor", many)]


def run(options: Options, reporter: Reporter) -> list[dict[str, Any]]:
    """Run every case; return what each found.

    Raises:
        TestFailure: A run failed or gave wrong tokens, or the engine's files are not upstream's.
        SolveError: There is no GPU to run on.
        VllmError: The engine's package or environment could not be made.
    """
    virtual = virtual_packages()
    if options.device == "cuda" and "__cuda" not in {one.name.normalized for one in virtual}:
        raise SolveError(
            "The engine's test on CUDA needs a GPU; this machine has no NVIDIA driver.",
            "Copy the checkout and output/ to a GPU host and run the same command there.",
        )
    engine = package.ensure(
        options.root, options.platform, options.output / package.FOLDER, options.channels, reporter
    )
    workspace = workspace_for(options.root)
    channels = [options.output.resolve().as_uri(), *engine.channels]
    prefix = ensure_environment(
        channels, SPECS[options.device], options.platform, workspace, reporter, virtual
    )
    folder = workspace.folder / "engine-test"
    with disk_errors("the test's folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    name = "engine-test.json" if options.device == "cpu" else f"engine-test-{options.device}.json"
    path = private_folder(options.output) / name
    rows: list[dict[str, Any]] = []
    registry = sdist.Registry(engine.channels, options.platform, workspace, reporter)
    release = load_targets(options.root).engine.release
    archive = registry.pinned(release, load_engines(options.root))
    _check_files(prefix, archive.path, options, folder, reporter)
    for job in jobs(cases(options)):
        rows += _run(job, prefix, folder, options, reporter)
        write_atomic(path, json.dumps(rows, indent=1) + "\n")
    wrong = [row for row in rows if not row["right"]]
    if wrong:
        lines = "\n  ".join(f"{row['case']}: {row.get('failure', row)}" for row in wrong)
        raise TestFailure(
            f"{len(wrong)} of {len(rows)} runs of the engine are not right:\n  {lines}",
            f"Logs: {_logs(options)}",
        )
    return rows


def _settings(folder: Path) -> dict[str, str]:
    """Variables of every program: the caller's that would change the test taken away."""
    return {**dict.fromkeys(CLEARED, ""), "VLLM_CACHE_ROOT": str(folder / "cache")}


def _check_files(
    prefix: Path, archive: Path, options: Options, folder: Path, reporter: Reporter
) -> None:
    """Upstream's files, no other, and what they require."""
    path = _log_path(options, "files")
    with reporter.task("compare the engine's files with upstream's") as task, path.open("w") as log:
        same, problems = files.differences(prefix, archive)
        log.writelines(f"{line}\n" for line in problems)
        log.flush()
        check = ["python", str(options.root / FILES_CHECK)]
        code = run_in(prefix, check, folder, log, _settings(folder))
        task.status(f"{same} files the same, {len(problems)} not")
    if code or problems:
        raise TestFailure(
            "The installed engine is not upstream's: " + _last_line(path), f"Full log: {path}"
        )


def _run(
    job: Job, prefix: Path, folder: Path, options: Options, reporter: Reporter
) -> list[dict[str, Any]]:
    """A row a case, also for those that a process that ended early never came to."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    path = _log_path(options, job.name.replace(" ", "-"))
    started = time.monotonic()
    with reporter.task(job.name) as task, path.open("w") as log:
        command = job.command(folder / "models", result, path)
        code = run_in(prefix, command, folder, log, _settings(folder))
        found = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else []
        rows: list[dict[str, Any]] = []
        for index, case in enumerate(job.cases):
            if index < len(found) and (not code or len(job.cases) > 1):
                row = {"case": case.name, **found[index]}
                if row["mode"] not in (case.mode, "serve"):
                    row |= {"right": False, "failure": f"the engine ran the model {row['mode']}"}
            else:
                row = {"case": case.name, "right": False, "failure": _last_line(path)}
            rows.append(row)
        wrong = [row["case"] for row in rows if not row["right"]]
        task.status(f"WRONG: {', '.join(wrong)}" if wrong else "right")
    seconds = (time.monotonic() - started) / len(rows)
    return [{**row, "seconds": round(seconds, 1)} for row in rows]


def _logs(options: Options) -> Path:
    return private_folder(options.output) / "logs" / "engine-test"


def _log_path(options: Options, name: str) -> Path:
    path = _logs(options) / f"{name}.log"
    with disk_errors("a log", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One line a run: what ran, how the tokens compare, how long it took."""
    lines = []
    for row in rows:
        if "tokens" in row:
            found = f"{row['chosen']}/{row['tokens']} tokens, {row['near_ties']} near ties"
            found += f", {row['misses']} misses; {row['exact']}/{row['prompts']} prompts exact"
        elif "said" in row:
            found = " ".join(row["said"].split())
        else:
            total = row["concurrent_requests"]
            found = f"{total - row['concurrent_wrong']}/{total} concurrent requests"
            found += f" in {row['concurrent_seconds']} s"
        lines.append([row["case"], row["mode"], found, f"{row['seconds']} s"])
    return lines
