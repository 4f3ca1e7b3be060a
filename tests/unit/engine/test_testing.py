"""Which runs the engine's test makes."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

from vllm_conda.engine import cases, left_out, testing
from vllm_conda.errors import SolveError
from vllm_conda.progress import Reporter


def options(**changes: object) -> cases.Options:
    return cases.Options(Path("/r"), Path("/o"), "linux-64", **changes)  # type: ignore[arg-type]


def dtypes(model: str, device: str) -> set[str]:
    """The types in which some engine runs it on the device."""
    every = cases.DTYPES[device]
    return {one for one in every if not left_out.reason((model,), one, device, "", frozenset())}


def test_short_test_on_the_cpu() -> None:
    names = [case.name for case in cases.cases(options())]
    assert names == ["trial llama float32 traced", "server llama float32 eager"]


def test_short_test_on_a_gpu_runs_eager_and_the_default_mode() -> None:
    names = [case.name for case in cases.cases(options(device="cuda"))]
    assert names == [
        "cuda trial llama bfloat16 eager",
        "cuda trial llama bfloat16 inductor",
        "cuda server llama bfloat16 inductor",
    ]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_full_test_runs_every_model_type_and_mode_once(device: str) -> None:
    found = cases.cases(options(full=True, device=device))
    assert len({case.name for case in found}) == len(found)
    trials = [case for case in found if case.program == "trial"]
    nowhere = {model for model in cases.EVERY if not dtypes(model, device)}
    assert {case.model for case in trials} == set(cases.EVERY) - nowhere
    not_on_gpus = {*cases.ROUNDED}
    not_on_cpus = {
        *cases.GROUPED, *cases.ROUNDED_TO_FLOAT8, *cases.SPARSE, "llama_nvfp4", "mamba",
    }  # fmt: skip
    assert nowhere == (not_on_gpus if device == "cuda" else not_on_cpus)
    assert {case.dtype for case in found if case.model in cases.HYBRID} <= {"bfloat16"}
    assert {case.mode for case in trials} == {*cases.MODES[device]}
    assert ("refusal" in {case.program for case in found}) == (device == "cpu")
    # A machine with one GPU has no room for two ranks.
    not_here = ("tensor_parallel_graphs",) if device == "cpu" else cases.RANKS
    features = {case.mode for case in found if case.program == "features"}
    assert features == {*cases.FEATURES} - {*not_here}
    assert {case.mode for case in found if case.program == "faults"} == {*cases.FAULTS}
    for model in cases.EVERY:
        assert {case.dtype for case in trials if case.model == model} == dtypes(model, device)


@pytest.mark.parametrize(
    ("engine", "runs"), [("", True), ("0.26.0", True), ("0.30.0", False), ("0.33.1", False)]
)
def test_what_an_engine_itself_refuses_is_left_out(engine: str, runs: bool) -> None:
    found = cases.cases(options(full=True, device="cuda", engine=engine))
    assert ("llama_gptq" in {case.model for case in found}) == runs
    assert "llama_gptq_in_order" in {case.model for case in found}


@pytest.mark.parametrize(
    ("engine", "refused"),
    [
        ("0.26.0", {"deepseek_v2", "deepseek_v32", "llama_nvfp4", "mamba", "mamba2"}),
        ("0.31.0", {"deepseek_v2", "deepseek_v32", "llama_nvfp4", "mamba"}),
        ("0.32.0", {"deepseek_v32", "llama_nvfp4", "mamba"}),
    ],
)
def test_what_an_engine_has_is_not_refused(engine: str, refused: set[str]) -> None:
    found = cases.cases(options(full=True, engine=engine))
    assert {case.model for case in found if case.program == "refusal"} == refused
    # What is refused is not run, and the other way round; DeepSeek runs without latent attention.
    trials = {case.model for case in found if case.program == "trial"}
    assert trials & {*cases.REFUSED} == {*cases.REFUSED} - refused | {"deepseek_v2"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, ""),
        ({"models": ("mamba",)}, "Nothing is left to run. No engine has the scan"),
        ({"models": ("mamba",), "full": True}, ""),
        ({"models": ("llama_w4a8",), "device": "cuda"}, "are a switch of CPUs"),
        ({"models": ("llama_gptq",), "device": "cuda", "engine": "0.29.0"}, ""),
        ({"models": ("llama_gptq",), "device": "cuda", "engine": "0.30.0"}, "act-order itself"),
        ({"only": ("nothing", "such")}, "No run has 'nothing' or 'such' in its name."),
        (
            {"only": ("tensor_parallel",), "device": "cuda", "full": True},
            "No run for one GPU has 'tensor_parallel' in its name.",
        ),
    ],
)
def test_why_there_is_nothing_to_run(changes: dict[str, object], sentence: str) -> None:
    asked = options(**changes)
    assert bool(cases.why_none(asked)) == bool(sentence)
    assert sentence in cases.why_none(asked)
    assert bool(cases.cases(asked)) == (not sentence)


def test_what_a_missing_package_is_for_is_left_out() -> None:
    (package,) = left_out.packages()
    for lacks, runs in ((frozenset(), True), (frozenset({package}), False)):
        for device in ("cpu", "cuda"):
            found = cases.cases(options(full=True, device=device, lacks=lacks))
            # On a GPU the engine itself does not start without it.
            assert ("vision" in {case.mode for case in found}) == (runs or device == "cuda")


def test_a_short_test_takes_the_first_type_that_a_model_is_run_in() -> None:
    models = ("llama_awq", "llama")
    names = [case.name for case in cases.cases(options(models=models))]
    assert names == [
        "trial llama_awq bfloat16 traced",
        "trial llama float32 traced",
        "server llama_awq bfloat16 eager",
    ]


def test_ranks_want_two_gpus() -> None:
    found = cases.cases(options(full=True, device="cuda", gpus=2))
    ranks = [case for case in found if case.mode in cases.RANKS]
    assert {case.mode for case in ranks} == {*cases.RANKS}
    assert {case.gpus for case in ranks} == {2}
    assert {case.gpus for case in found if case not in ranks} == {1}
    assert {case.gpus for case in cases.cases(options(full=True))} == {0}
    # What says most is not lost where the run is cut short.
    assert found[: len(ranks)] == ranks
    assert [case.dtype for case in found] == sorted(case.dtype for case in found)


def test_trials_share_processes_on_the_cpu() -> None:
    found = cases.cases(options(full=True))
    made = list(cases.jobs(found))
    assert [case for job in made for case in job.cases] == found
    trials = [job for job in made if job.cases[0].program == "trial"]
    (own,) = (job for job in trials if job.cases[0].model in cases.ROUNDED)
    assert {case.model for case in own.cases} == {*cases.ROUNDED}
    assert max(len(job.cases) for job in trials) == cases.TOGETHER["cpu"]
    # Those before it, those after it, and Llama with a compiler.
    assert sum(len(job.cases) < cases.TOGETHER["cpu"] for job in trials if job is not own) <= 3
    # One with the compiler hidden, the last with it.
    assert [job.cases[0].hides_compiler for job in trials] == [True] * (len(trials) - 1) + [False]


def test_compiled_models_share_a_process_where_places_are_few() -> None:
    asked = options(full=True, device="cuda", only=("float16 inductor",))
    found = cases.cases(asked)
    sizes = {
        places: {len(job.cases) for job in cases.jobs(found, places)}
        for places in (1, 6, len(found))
    }
    assert max(sizes[1]) == cases.TOGETHER["cuda"]
    assert cases.TOGETHER_COMPILED < max(sizes[6]) < cases.TOGETHER["cuda"]
    assert max(sizes[len(found)]) == cases.TOGETHER_COMPILED


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("llama float16 eager", {"float16"}),
        ("llama  eager", set()),
        ("eager", {"bfloat16", "float16"}),
        ("float", set()),
    ],
)
def test_words_of_a_name_are_whole_ones_in_its_order(words: str, wanted: set[str]) -> None:
    asked = options(full=True, device="cuda", models=("llama", "llama_awq"), only=(words,))
    found = [case for case in cases.cases(asked) if case.program == "trial"]
    assert {case.dtype for case in found} == wanted
    if " " in words and wanted:
        assert {case.model for case in found} == {"llama"}


def test_small_models_share_a_process_on_a_gpu() -> None:
    found = cases.cases(options(full=True, device="cuda", gpus=2))
    made = list(cases.jobs(found))
    assert [case for job in made for case in job.cases] == found
    assert max(len(job.cases) for job in made) == cases.TOGETHER["cuda"]
    for job in made:
        kinds = {(case.program, case.dtype, case.mode) for case in job.cases}
        models = {case.model for case in job.cases}
        assert min(len(kinds), len(models)) == 1
    # Ranks and servers have processes of their own, and models with variables of the engine.
    own = (*cases.GROUPED, *cases.SPARSE)
    assert {len(job.cases) for job in made if job.cases[0].model in own} == {1}
    shared = {case.program for job in made for case in job.cases if len(job.cases) > 1}
    assert shared == {"trial", "features"}
    ranks = [job for job in made if job.cases[0].ranks]
    assert [len(job.cases) for job in ranks] == [1] * len(cases.RANKS)


def test_programs_check_the_features_and_faults_that_are_named() -> None:
    for program, names in (("features", set(cases.FEATURES)), ("faults", set(cases.FAULTS))):
        tree = ast.parse((cases.PROGRAMS / f"{program}.py").read_text(encoding="utf-8"))
        assert names <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert names <= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def test_models_that_are_named_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(cases.PROGRAMS)
    monkeypatch.delitem(sys.modules, "configurations", raising=False)
    known = set(importlib.import_module("configurations").MODELS)
    del sys.modules["configurations"]
    found = [
        case
        for device in ("cpu", "cuda")
        for case in cases.cases(options(full=True, device=device, gpus=2))
    ]
    assert {case.model for case in found} <= known
    named = {name for case in found for name in case.names}
    assert {name for one in left_out.LEFT_OUT for name in one.names} <= named


def test_command_line_of_features() -> None:
    named = ("prefix_caching", "lora")
    job = cases.Job(tuple(cases.Case("features", "llama", "float32", name) for name in named))
    words = job.command(Path("/m"), Path("/x.json"), Path("/x.log"))
    assert words[-4:] == ["--run", "prefix_caching", "--run", "lora"]


@pytest.mark.parametrize(
    ("device", "mode", "hidden"),
    [("cpu", "traced", True), ("cpu", "inductor", False), ("cuda", "eager", False)],
)
def test_command_line(device: str, mode: str, hidden: bool) -> None:
    job = cases.Job((cases.Case("trial", "llama", "bfloat16", mode, device=device),))
    words = job.command(Path("/m"), Path("/x.json"), Path("/x.log"))
    assert (f"CXX={cases.NO_COMPILER}" in words) == hidden
    assert words[words.index("--device") + 1] == device
    assert words[words.index("--run") + 1] == f"llama:bfloat16:{mode}"
    assert ("--inline" in words) == (device == "cuda")


def test_command_line_of_several_runs() -> None:
    case = cases.Case("trial", "llama", "bfloat16", "eager")
    job = cases.Job((case, cases.Case("trial", "llama", "float16", "traced")))
    words = job.command(Path("/m"), Path("/x.json"), Path("/x.log"))
    runs = ["llama:bfloat16:eager", "llama:float16:traced"]
    assert words[-5:] == ["--run", runs[0], "--run", runs[1], "--inline"]
    assert job.name == "trial llama bfloat16 eager and 1 more"


def test_command_line_of_the_server() -> None:
    job = cases.Job((cases.Case("server", "llama", "float32", "eager"),))
    words = job.command(Path("/m"), Path("/x.json"), Path("/x.log"))
    assert words[-5:] == ["--dtype", "float32", "--log", "/x.server.log", "--eager"]


def test_cuda_without_gpu_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "virtual_packages", list)
    with pytest.raises(SolveError, match="needs a GPU; this machine has no NVIDIA driver"):
        testing.run(options(device="cuda"), Reporter())
