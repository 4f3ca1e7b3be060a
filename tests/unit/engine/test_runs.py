"""How the engine's test programs are run, and what is made of their results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from vllm_conda.engine import cases, runs
from vllm_conda.errors import ConfigError, TestFailure, UsageError
from vllm_conda.progress import Mode, Reporter

FACTS = {
    "engine": "0.26.0", "name": "a GPU", "gpus": 2, "gib": 24.0, "build": "one",
    "versions": {"torch": "2.11.0"},
}  # fmt: skip
RIGHT = {
    "mode": "eager", "right": True, "tokens": 4, "chosen": 4, "near_ties": 0, "misses": 0,
    "exact": 1, "prompts": 1,
}  # fmt: skip


def options(tmp_path: Path, **changes: object) -> cases.Options:
    return cases.Options(tmp_path, tmp_path / "output", "linux-64", **changes)  # type: ignore[arg-type]


class Programs:
    """Stands for the environment: answers a command by the program's name."""

    def __init__(self, **answers: object) -> None:
        self.answers = {"facts": FACTS, **answers}
        self.seen: list[tuple[list[str], Mapping[str, str]]] = []
        self._lock = threading.Lock()

    def start(
        self,
        command: Sequence[str],
        folder: Path,
        log: IO[str],
        settings: Mapping[str, str],
        limit: float,
    ) -> int:
        with self._lock:
            self.seen.append((list(command), settings))
        words = list(command)
        program = next(Path(word).stem for word in words if word.endswith(".py"))
        answer = self.answers.get(program)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            log.write("a traceback\nRuntimeError: no kernel\n")
            log.flush()
            return 1
        place = Path(words[words.index("--result") + 1]) if "--result" in words else Path(words[2])
        if program == "trial":
            asked = [words[at + 1] for at, word in enumerate(words) if word == "--run"]
            answer = answer(asked) if callable(answer) else answer
        place.write_text(json.dumps(answer))
        return 0

    def place(self, tmp_path: Path) -> runs.Place:
        return runs.Place(self.start, tmp_path / "work", tmp_path / "logs", tmp_path / "r.json")


def right(asked: Sequence[str]) -> list[dict[str, object]]:
    """A right row for each run that a trial is asked for."""
    return [{**RIGHT, "mode": one.split(":")[2]} for one in asked]


SERVED = [{"mode": "serve", "right": True, "concurrent_requests": 8, "concurrent_wrong": 0,
           "concurrent_seconds": 1.0}]  # fmt: skip


def test_every_result_is_in_the_document(tmp_path: Path) -> None:
    programs = Programs(trial=right, server=SERVED)
    found = runs.run(
        programs.place(tmp_path), options(tmp_path, device="cuda", at_once=3), Reporter(Mode.JSON)
    )
    assert json.loads((tmp_path / "r.json").read_text()) == found
    assert found["engine"] == "0.26.0"
    assert found["device"] == "cuda"
    # In the cases' order, whichever ends first.
    assert [row["mode"] for row in found["rows"]] == ["eager", "inductor", "inductor"]
    assert all(row["right"] for row in found["rows"])
    assert len(runs.table(found["rows"])) == 3
    used = {settings["CUDA_VISIBLE_DEVICES"] for command, settings in programs.seen[1:]}
    assert used <= {"0", "1"}


def test_what_fails_is_told_and_what_is_right_is_kept(tmp_path: Path) -> None:
    programs = Programs(trial=[{**RIGHT, "mode": "traced"}])
    with pytest.raises(TestFailure) as caught:
        runs.run(programs.place(tmp_path), options(tmp_path), Reporter(Mode.JSON))
    assert "1 of 2 runs of the engine are not right" in str(caught.value)
    assert "server llama float32 eager: RuntimeError: no kernel" in str(caught.value)
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [row["right"] for row in rows] == [True, False]


def test_another_mode_than_the_wanted_one_is_not_right(tmp_path: Path) -> None:
    programs = Programs(trial=[{**RIGHT, "mode": "eager"}], server=SERVED)
    with pytest.raises(TestFailure, match="the engine ran the model eager"):
        runs.run(programs.place(tmp_path), options(tmp_path), Reporter(Mode.JSON))


@pytest.mark.parametrize(("model", "right"), [("deepseek_v32", True), ("llama", False)])
def test_graphs_without_compiling_are_right_where_the_engine_does_so(
    tmp_path: Path, model: str, right: bool
) -> None:
    only = (f"trial {model} bfloat16 inductor",)
    asked = options(tmp_path, device="cuda", full=True, models=(model,), only=only)
    programs = Programs(trial=[{**RIGHT, "mode": "graphs"}])
    with nullcontext() if right else pytest.raises(TestFailure, match="ran the model graphs"):
        runs.run(programs.place(tmp_path), asked, Reporter(Mode.JSON))


def test_wrong_tokens_are_told_in_a_line(tmp_path: Path) -> None:
    allowed = {"logprob": 0.5, "outliers": 0.05, "mean": 0.18, "exact": False}
    row = {**RIGHT, "mode": "traced", "right": False, "far_logprobs": 3, "answers": [5] * 1000,
           "mean_difference": 0.25, "allowed": allowed, "same_alone": False}  # fmt: skip
    server = {**SERVED[0], "right": False, "chat": False, "completion": True}
    with pytest.raises(TestFailure) as caught:
        runs.run(
            Programs(trial=[row], server=[server]).place(tmp_path), options(tmp_path),
            Reporter(Mode.JSON),
        )  # fmt: skip
    lines = str(caught.value).splitlines()
    [trial] = [line for line in lines if "trial" in line]
    assert "prompts exact; 3 log-probabilities are off by more than 0.5; they are off by" in trial
    assert trial.endswith("0.25 in the mean, more than 0.18")
    assert "5, 5" not in trial
    [served] = [line for line in lines if line.strip().startswith("server")]
    assert "concurrent requests in 1.0 s; not so: chat Logs:" in served


def test_a_refusal_in_a_sentence_is_a_result(tmp_path: Path) -> None:
    row = {"mode": "refused", "right": True, "said": "needs vllm-flashmla"}
    programs = Programs(trial=[row], server=SERVED)
    found = runs.run(programs.place(tmp_path), options(tmp_path), Reporter(Mode.JSON))
    assert runs.words(found["rows"][0]) == "needs vllm-flashmla"


def test_a_process_that_does_not_end_is_ended(tmp_path: Path) -> None:
    programs = Programs(trial=subprocess.TimeoutExpired("trial.py", 5.0), server=SERVED)
    with pytest.raises(TestFailure, match="not over after 5 s"):
        runs.run(programs.place(tmp_path), options(tmp_path, seconds=5.0), Reporter(Mode.JSON))


def test_what_a_failed_process_had_found_is_kept(tmp_path: Path) -> None:
    programs = Programs(trial=[{**RIGHT, "mode": "traced"}], server=SERVED)

    def start(words: Sequence[str], *rest: object) -> int:
        code = programs.start(words, *rest)  # type: ignore[arg-type]
        return 1 if any("trial" in word for word in words) else code

    place = runs.Place(start, tmp_path / "work", tmp_path / "logs", tmp_path / "r.json")
    with pytest.raises(TestFailure):
        runs.run(place, options(tmp_path), Reporter(Mode.JSON))
    row = json.loads((tmp_path / "r.json").read_text())["rows"][0]
    assert (row["right"], row["failure"], row["chosen"]) == (False, "no output", 4)


def models_of(command: Sequence[str]) -> list[str]:
    return [one.split(":")[0] for one in command if one.count(":") == 2]


def test_after_a_case_that_ends_a_process_another_goes_on(tmp_path: Path) -> None:
    def falls_over(asked: Sequence[str]) -> list[dict[str, object]]:
        found = right(asked)
        models = [one.split(":")[0] for one in asked]
        return found[: models.index("gemma2")] if "gemma2" in models else found

    programs = Programs(trial=falls_over)
    models = ("llama", "qwen3", "gemma2", "gemma3")
    asked = options(tmp_path, device="cuda", full=True, models=models, only=("bfloat16 eager",))
    with pytest.raises(TestFailure, match="1 of 4 runs") as caught:
        runs.run(programs.place(tmp_path), asked, Reporter(Mode.JSON))
    assert "trial gemma2 bfloat16 eager: no output" in str(caught.value)
    started = [models_of(command) for command, _ in programs.seen[1:]]
    assert started == [["llama", "qwen3", "gemma2", "gemma3"], ["gemma3"]]


def test_ranks_run_one_after_another(tmp_path: Path) -> None:
    ranks = Programs(trial=right, features=[{"mode": "tensor_parallel", "right": True, "seen": {}}])
    at_once, most = 0, 0

    def start(words: Sequence[str], *rest: object) -> int:
        nonlocal at_once, most
        two = any("features" in word for word in words)
        at_once += two
        most = max(most, at_once)
        code = ranks.start(words, *rest)  # type: ignore[arg-type]
        at_once -= two
        return code

    place = runs.Place(start, tmp_path / "work", tmp_path / "logs", tmp_path / "r.json")
    asked = options(tmp_path, device="cuda", full=True, models=("llama",), at_once=4,
                    only=(*cases.RANKS, "trial llama bfloat16"))  # fmt: skip
    with pytest.raises(TestFailure):  # the second program answers as the first
        runs.run(place, asked, Reporter(Mode.JSON))
    assert most == 1
    assert [row["mode"] for row in json.loads((tmp_path / "r.json").read_text())["rows"]] == [
        "tensor_parallel", "tensor_parallel_graphs", "eager", "inductor",
    ]  # fmt: skip


def test_a_run_goes_on_with_what_is_not_right(tmp_path: Path) -> None:
    asked = options(tmp_path, device="cuda")
    failing = Programs(trial=right)  # no server
    with pytest.raises(TestFailure, match="1 of 3 runs"):
        runs.run(failing.place(tmp_path), asked, Reporter(Mode.JSON))
    path = tmp_path / "r.json"
    before = json.loads(path.read_text()) | {"date": "2026-01-02"}
    path.write_text(json.dumps(before))
    programs = Programs(server=SERVED)
    again = replace(asked, resume=True)
    found = runs.run(programs.place(tmp_path), again, Reporter(Mode.JSON))
    assert [
        Path(next(w for w in words if w.endswith(".py"))).stem for words, _ in programs.seen
    ] == ["facts", "server"]
    assert [row["mode"] for row in found["rows"]] == ["eager", "inductor", "inductor"]
    assert [row.get("date") for row in found["rows"]] == ["2026-01-02", "2026-01-02", None]


def test_a_run_that_goes_on_with_less_keeps_the_rest(tmp_path: Path) -> None:
    asked = options(tmp_path, device="cuda")
    first = Programs(trial=right, server=SERVED)
    before = runs.run(first.place(tmp_path), asked, Reporter(Mode.JSON))["rows"]
    programs = Programs()
    less = replace(asked, resume=True, only=("server",))
    found = runs.run(programs.place(tmp_path), less, Reporter(Mode.JSON))["rows"]
    assert len(programs.seen) == 1  # the facts alone
    assert {row["case"] for row in found} == {row["case"] for row in before}
    assert len(before) == 3


def test_what_nobody_has_recorded_comes_first(tmp_path: Path) -> None:
    def known(engine: str, name: str) -> frozenset[tuple[str, ...]]:
        assert (engine, name) == (FACTS["engine"], FACTS["name"])
        return frozenset({("trial", "llama", "bfloat16", "eager")})

    programs = Programs(trial=right, server=SERVED)
    asked = options(tmp_path, device="cuda", at_once=1, recorded=known)
    found = runs.run(programs.place(tmp_path), asked, Reporter(Mode.JSON))
    modes = [
        one.split(":")[2] for words, _ in programs.seen for one in words if one.count(":") == 2
    ]
    assert modes == ["inductor", "eager"]
    assert [row["mode"] for row in found["rows"]] == ["eager", "inductor", "inductor"]


@pytest.mark.parametrize("text", ["", "{}", '{"rows": 3}', "[" * 10000])
def test_no_run_goes_on_after_another_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UsageError, match="no result to go on from"):
        runs.run(Programs().place(tmp_path), options(tmp_path, resume=True), Reporter(Mode.JSON))


@pytest.mark.parametrize("differs", [{"engine": "0.33.0"}, {"build": "another"}])
def test_no_run_goes_on_after_another_engine_or_build(
    tmp_path: Path, differs: dict[str, str]
) -> None:
    other = {**FACTS, "device": "cpu", "date": "2026-01-02", "rows": [], **differs}
    (tmp_path / "r.json").write_text(json.dumps(other))
    with pytest.raises(UsageError, match="another engine, build of the kernels"):
        runs.run(Programs().place(tmp_path), options(tmp_path, resume=True), Reporter(Mode.JSON))


def test_as_many_processes_as_the_machine_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(24)))
    one, two = (options(tmp_path, device="cuda", gpus=gpus) for gpus in (1, 2))
    assert [runs.processes_at_once(asked, 24.0) for asked in (one, two)] == [8, 16]
    assert runs.processes_at_once(two, 15.7) == 10
    assert runs.processes_at_once(one, 2.0) == 1
    assert runs.processes_at_once(options(tmp_path), 0) == 1
    assert runs.processes_at_once(options(tmp_path, at_once=3), 0) == 3


def test_an_environment_without_engine_is_one_sentence(tmp_path: Path) -> None:
    programs = Programs(facts=None)
    with pytest.raises(ConfigError, match="no engine and kernels that run: RuntimeError"):
        runs.run(programs.place(tmp_path), options(tmp_path), Reporter(Mode.JSON))


def test_ranks_see_all_gpus_and_processes_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    place = Programs().place(tmp_path)
    ranks, alone = (
        cases.Job((cases.Case("features", "llama", "bfloat16", name, device="cuda"),))
        for name in ("tensor_parallel", "lora")
    )
    assert runs.settings(place, ranks, ["1", "0"], 1)["CUDA_VISIBLE_DEVICES"] == "0,1"
    found = runs.settings(place, alone, ["1", "0"], 8)
    assert found["CUDA_VISIBLE_DEVICES"] == "1"
    assert found["OMP_NUM_THREADS"] == "2"
    cpu = cases.Job((cases.Case("trial", "llama", "float32", "eager"),))
    assert set(runs.settings(place, cpu, [], 1)) == {"VLLM_CACHE_ROOT", "TRITON_CACHE_DIR"}
    # Inside the run's own folder, the same for all.
    kept = {runs.settings(place, job, ["0"], 8)["TRITON_CACHE_DIR"] for job in (ranks, alone)}
    assert [Path(one).is_relative_to(place.folder) for one in kept] == [True]


def test_the_named_interpreter_runs_the_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of Python a script, which says which programs it was to run."""
    said = tmp_path / "said"
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\n"
        f"open({str(said)!r}, 'a').write(pathlib.Path(sys.argv[1]).stem + ' ')\n"
        f"facts = {FACTS!r}\nrow = {RIGHT!r} | {{'mode': 'traced'}}\n"
        "words = sys.argv\n"
        "place = words[words.index('--result') + 1] if '--result' in words else words[2]\n"
        "open(place, 'w').write(json.dumps(facts if 'facts' in words[1] else [row]))\n"
    )
    script.chmod(0o755)
    with pytest.raises(TestFailure, match="the engine ran the model traced"):
        runs.in_environment(str(script), options(tmp_path), Reporter(Mode.JSON))
    assert said.read_text().split() == ["facts", "trial", "server"]
