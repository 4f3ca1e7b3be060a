"""Which runs the engine's test makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_conda.engine import testing
from vllm_conda.errors import SolveError
from vllm_conda.progress import Reporter


def options(**changes: object) -> testing.Options:
    return testing.Options(Path("/r"), Path("/o"), "linux-64", **changes)  # type: ignore[arg-type]


def test_short_test_on_the_cpu() -> None:
    names = [case.name for case in testing.cases(options())]
    assert names == ["trial llama float32 traced", "server llama float32 eager"]


def test_short_test_on_a_gpu_runs_eager_and_the_default_mode() -> None:
    names = [case.name for case in testing.cases(options(device="cuda"))]
    assert names == [
        "cuda trial llama bfloat16 eager",
        "cuda trial llama bfloat16 inductor",
        "cuda server llama bfloat16 inductor",
    ]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_full_test_runs_every_model_type_and_mode_once(device: str) -> None:
    found = testing.cases(options(full=True, device=device))
    assert len({case.name for case in found}) == len(found)
    quantised = testing.QUANTISED if device == "cpu" else ()
    assert {case.model for case in found} == {*testing.MODELS, *quantised}
    assert {case.mode for case in found} == set(testing.MODES[device])
    assert {case.dtype for case in found} >= set(testing.DTYPES[device])


@pytest.mark.parametrize(
    ("device", "mode", "hidden"),
    [("cpu", "traced", True), ("cpu", "inductor", False), ("cuda", "eager", False)],
)
def test_command_line(device: str, mode: str, hidden: bool) -> None:
    case = testing.Case("trial", "llama", "bfloat16", mode, device=device)
    words = case.command(Path("/m"), Path("/x.json"), Path("/x.log"))
    assert (f"CXX={testing.NO_COMPILER}" in words) == hidden
    assert words[words.index("--device") + 1] == device
    assert ("--eager" in words) == (mode == "eager")


def test_cuda_without_gpu_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "virtual_packages", list)
    with pytest.raises(SolveError, match="needs a GPU; this machine has no NVIDIA driver"):
        testing.run(options(device="cuda"), Reporter())
