"""Which programs the engine's test runs, on which models, in which types and modes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_conda.engine import left_out

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
QUANTISED = ("llama_gptq", "llama_gptq_in_order", "llama_awq", "llama_fp8", "llama_w8a8")
# Experts whose weights are stored in 4 bits, in INT8, or in FP8 with scales of blocks.
EXPERTS = ("qwen3_moe_awq", "qwen3_moe_w8a8", "qwen3_moe_fp8")
# The last by DeepGEMM's grouped products, which the engine takes when it is told to.
GROUPED = ("qwen3_moe_fp8_deep_gemm",)
# Llamas whose activations are rounded of weights in 4 bits, on a CPU and in bfloat16 alone.
ROUNDED = ("llama_w4a8",)
# The same on Hopper, rounded to FP8.
ROUNDED_TO_FLOAT8 = ("llama_w4a8_float8", "qwen3_moe_w4a8_float8")
# Weights in FP4, activations in 16 bits: experts in MXFP4, a Llama in NVFP4.
FP4 = ("gpt_oss", "llama_nvfp4")
# Models with gated delta nets.
HYBRID = ("qwen3_next",)
# Nothing but state-space layers.
STATE_SPACE = ("mamba", "mamba2")
# A Llama whose keys and values are kept in FP8.
CACHED = ("llama_fp8_cache",)
# What the engine or the kernels do not have on a CPU and have to refuse (`inside/refusal.py`).
REFUSED = ("deepseek_v2", "deepseek_v32", "llama_nvfp4", "mamba", "mamba2")
# Attention to selected keys: Hopper GPUs with vllm-flashmla and vllm-deepgemm; refused elsewhere.
SPARSE = ("deepseek_v32",)
# What a full test runs, but for what `left_out.py` says of a device.
EVERY = (
    *MODELS, *QUANTISED, *ROUNDED, *ROUNDED_TO_FLOAT8, *EXPERTS, *GROUPED, *FP4, *HYBRID,
    *STATE_SPACE, *CACHED, *SPARSE,
)  # fmt: skip
# On a GPU nothing is exact in float32: the engine's Triton kernels multiply in TF32.
DTYPES = {"cpu": ("float32", "bfloat16", "float16"), "cuda": ("bfloat16", "float16")}
# How the engine runs a model: without torch.compile; with it, but no C++ compiler, as in an
# environment of these packages alone; with the machine's compiler. On a GPU the last is the
# engine's default, with CUDA graphs; Triton needs a compiler in each.
MODES = {"cpu": ("eager", "traced", "inductor"), "cuda": ("eager", "inductor")}
# Hides the machine's own compiler, which is not part of the environment.
NO_COMPILER = "no-compiler"
# Features as a user switches them on, and their models (`inside/features.py`).
FEATURES: Mapping[str, tuple[str, ...]] = {
    "prefix_caching": ("llama", "gemma3"),
    "chunked_prefill": ("llama", "gemma2"),
    "tensor_parallel": ("llama",),
    "tensor_parallel_graphs": ("llama",),
    "ngram": ("llama",),
    "draft_model": ("llama",),
    "vision": ("qwen2_5_vl",),
    "lora": ("llama",),
    "structured": ("llama",),
    "sampling": ("llama",),
    "logprobs": ("llama",),
    "beams": ("llama",),
    "embedding": ("llama",),
    "classify": ("llama_classes",),
    "rerank": ("llama_score",),
    "long_context": ("llama_long",),
}
# Of two ranks: on a CPU they share its cores, else each wants a GPU.
RANKS = ("tensor_parallel", "tensor_parallel_graphs")
# What happens to servers, each with a server of its own (`inside/faults.py`).
FAULTS = ("terminated", "drained", "worker_killed", "benchmark")
# Cases of a process: its imports take longer than a small model's run. On a CPU all types and modes
# of one model, or so many models.
TOGETHER = {"cpu": 6, "cuda": 4}
# Compiling one takes as long as the imports, and what lasts longest decides when all are over: more
# than so many share a process only where there are fewer places than processes.
TOGETHER_COMPILED = 2
PROGRAMS = Path(__file__).parent / "inside"


@dataclass(frozen=True)
class Case:
    """One run of the engine.

    Attributes:
        program: ``trial`` (`LLM.generate`), ``features``, ``server`` (`vllm serve`), ``faults``
            or ``refusal`` (what the kernels do not have).
        mode: One of :data:`MODES`, :data:`FEATURES` or :data:`FAULTS`; of a refusal ``refused``.
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
    def names(self) -> tuple[str, ...]:
        """By what `left_out.py` knows it."""
        if self.program == "refusal":
            return (f"{self.program} {self.model}",)
        return self.model, self.mode

    @property
    def key(self) -> tuple[str, ...]:
        """By what its result is recorded."""
        return self.program, self.model, self.dtype, self.mode

    @property
    def gpus(self) -> int:
        """GPUs that it has to see."""
        if self.device == "cpu":
            return 0
        return 2 if self.mode in RANKS else 1

    @property
    def hides_compiler(self) -> bool:
        return self.device == "cpu" and self.mode != "inductor"

    @property
    def process(self) -> object:
        """What cases that run in one process have in common."""
        if self.device == "cpu" and self.program in ("trial", "features", "faults"):
            # The engine reads its variables once, and this model has one.
            together = self.program == "trial" and self.model not in ROUNDED
            return self.program, "" if together else self.model, self.hides_compiler
        if self.device != "cpu" and self.gpus == 1:
            # Their variables of the engine, some of which it sets itself, are for no other model.
            if self.program == "trial" and self.model not in (*GROUPED, *SPARSE):
                return self.program, self.dtype, self.mode
            if self.program == "features":
                return self.program, self.model
        return self

    @property
    def runs_as(self) -> tuple[str, ...]:
        """What a program may say that the engine made of it."""
        # By default engines from 0.33 on capture such a model without compiling it.
        more = ("graphs",) if self.model in SPARSE and self.mode == "inductor" else ()
        return (self.mode, *more, "serve", "refused")

    @property
    def ranks(self) -> bool:
        """Whether it takes several GPUs, whose ranks wait for each other."""
        return self.gpus > 1


@dataclass(frozen=True)
class Job:
    """One process: cases that have :attr:`Case.process` in common."""

    cases: tuple[Case, ...]

    @property
    def name(self) -> str:
        first = self.cases[0]
        more = len(self.cases) - 1
        return f"{first.name} and {more} more" if more else first.name

    def command(self, models: Path, result: Path, log: Path) -> list[str]:
        """The program's command line in the environment."""
        case = self.cases[0]
        compiler = ["env", f"CXX={NO_COMPILER}"] if case.hides_compiler else []
        words = [
            *compiler, "python", str(PROGRAMS / f"{case.program}.py"),
            *([] if case.program == "trial" else [case.model]),
            "--models", str(models), "--result", str(result),
            "--device", case.device, *case.arguments,
        ]  # fmt: skip
        server_log = ["--log", str(log.with_suffix(".server.log"))]
        if case.program == "server":
            words += ["--dtype", case.dtype, *server_log]
            return [*words, "--eager"] if case.mode == "eager" else words
        if case.program == "refusal":
            return words
        if case.program in ("features", "faults"):
            words += ["--dtype", case.dtype]
            words += [*server_log, "--eager"] if case.program == "faults" else []
            return [*words, *itertools.chain(*(("--run", one.mode) for one in self.cases))]
        for one in self.cases:
            words += ["--run", f"{one.model}:{one.dtype}:{one.mode}"]
        # A separate process for the engine's core would cost each run a third of its time; on a GPU
        # the server's runs have one.
        return [*words, "--inline"] if len(self.cases) > 1 or case.device != "cpu" else words


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
        gpus: How many GPUs there are.
        at_once: Processes at a time, spread over the GPUs; 0: as many as the machine has room for.
        seconds: After which a process is ended.
        only: Cases whose names have one of these, words one after another; all where empty.
        resume: Keep what an earlier run of the same engine has found right, and run the rest.
        recorded: The keys of the cases that are recorded of an engine on a machine, by their names.
        engine: Its version; empty where it is not known yet.
        lacks: Python packages of ``left_out.py`` that are known not to be installed.
    """

    root: Path
    output: Path
    platform: str
    channels: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    full: bool = False
    device: str = "cpu"
    gpus: int = 1
    at_once: int = 0
    seconds: float = 3600.0
    only: tuple[str, ...] = ()
    resume: bool = False
    recorded: Callable[[str, str], frozenset[tuple[str, ...]]] = lambda engine, name: frozenset()
    engine: str = ""
    lacks: frozenset[str] = frozenset()


def cases(options: Options) -> list[Case]:
    """The runs that the options ask for, but for those that are left out."""
    return [case for case in _asked(options) if not _left_out(case.names, case.dtype, options)]


def why_none(options: Options) -> str:
    """Why :func:`cases` are none, in a sentence or more; empty where there are some."""
    asked = _asked(options)
    if not asked:
        named = " or ".join(map(repr, options.only))
        of = " for one GPU" if options.device == "cuda" and options.gpus < 2 else ""
        return f"No run{of} has {named} in its name."
    reasons = dict.fromkeys(_left_out(case.names, case.dtype, options) for case in asked)
    return "" if "" in reasons else f"Nothing is left to run. {' '.join(reasons)}"


def _asked(options: Options) -> list[Case]:
    found = _cuda_cases(options) if options.device == "cuda" else _cpu_cases(options)
    named = [replace(case, device=options.device) for case in found]
    only = options.only
    return [case for case in named if not only or any(_has(case.name, words) for words in only)]


def _has(name: str, words: str) -> bool:
    """Whether the words, whole ones, stand in the name one after another."""
    return f" {' '.join(words.split())} " in f" {name} "


def _left_out(names: tuple[str, ...], dtype: str, options: Options) -> str:
    return left_out.reason(names, dtype, options.device, options.engine, options.lacks)


def _dtypes(model: str, options: Options) -> list[str]:
    """The types in which a model is run."""
    every = DTYPES[options.device]
    return [dtype for dtype in every if not _left_out((model,), dtype, options)]


def jobs(found: Sequence[Case], at_once: int = 1) -> Iterator[Job]:
    """The processes in which ``found`` run, in its order, ``at_once`` of them at a time."""
    each = -(-len(found) // max(at_once, 1))
    for _, group in itertools.groupby(found, lambda case: case.process):
        process = list(group)
        one_start = process[0].program == "trial" or process[0].device != "cpu"
        most = TOGETHER[process[0].device] if one_start else len(process)
        if process[0].device != "cpu" and process[0].mode == "inductor":
            most = min(max(TOGETHER_COMPILED, each), most)
        for first in range(0, len(process), most):
            yield Job(tuple(process[first : first + most]))


def _cpu_cases(options: Options) -> list[Case]:
    if not options.full:
        models = options.models or MODELS[:1]
        first = {model: (_dtypes(model, options) or DTYPES["cpu"])[0] for model in models}
        found = [Case("trial", model, dtype, "traced") for model, dtype in first.items()]
        served = models[0]
        return [*found, Case("server", served, first[served], "eager", ("--concurrent", "8"))]
    models = options.models or EVERY
    found = [
        Case("trial", model, dtype, mode)
        for model in models
        for mode in ("eager", "traced")
        for dtype in DTYPES["cpu"]
    ]
    found += [Case("trial", models[0], dtype, "inductor") for dtype in DTYPES["cpu"]]
    many = ("--concurrent", "64")
    found += [Case("server", models[0], "float32", mode, many) for mode in MODES["cpu"]]
    found += _features("float32", options.models)
    refused = [model for model in REFUSED if not options.models or model in options.models]
    return [*found, *(Case("refusal", model, "bfloat16", "refused") for model in refused)]


def _features(dtype: str, models: Sequence[str]) -> list[Case]:
    """Features and faults, of ``models`` only where some are named; a model's one after another."""
    found = [
        Case("features", model, dtype, name)
        for name, its_models in FEATURES.items()
        for model in its_models
        if not models or model in models
    ]
    found.sort(key=lambda case: case.model)
    first = models[0] if models else MODELS[0]
    return [*found, *(Case("faults", first, dtype, name) for name in FAULTS)]


def _cuda_cases(options: Options) -> list[Case]:
    models = options.models or (EVERY if options.full else MODELS[:1])
    first, *others = DTYPES["cuda"]

    def trials(dtype: str, mode: str) -> list[Case]:
        return [Case("trial", model, dtype, mode) for model in models]

    many = ("--concurrent", "64" if options.full else "8")
    server = Case("server", models[0], first, "inductor", many)
    if not options.full:
        return [*trials(first, "eager"), *trials(first, "inductor"), server]
    # What says most comes first: a run that is cut short has it.
    features = _features(first, options.models)
    found = [case for case in features if case.mode in RANKS and options.gpus > 1]
    found += trials(first, "eager")
    found += [case for case in features if case.mode not in RANKS and case.program == "features"]
    found += [*trials(first, "inductor"), server]
    found += [case for case in features if case.program == "faults"]
    return found + [
        case for dtype in others for mode in MODES["cuda"] for case in trials(dtype, mode)
    ]
