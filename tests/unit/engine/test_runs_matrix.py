"""The table of what engines have been run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllm_conda.engine import gaps, left_out, matrix
from vllm_conda.errors import ConfigError


def results(path: Path, **changes: object) -> Path:
    row = {
        "program": "trial", "model": "llama", "dtype": "bfloat16", "mode": "eager", "right": True,
        "tokens": 192, "chosen": 184, "near_ties": 8, "misses": 0, "exact": 5, "prompts": 6,
    }  # fmt: skip
    failed = {**row, "mode": "inductor", "right": False, "failure": "RuntimeError: no | in /a/b.py"}
    feature = {
        "program": "features", "model": "llama", "dtype": "bfloat16", "mode": "prefix_caching",
        "right": True, "seen": {"cached_tokens": [288]},
    }  # fmt: skip
    document = {
        "engine": "0.26.0", "device": "cuda", "name": "NVIDIA H200", "gpus": 2,
        "versions": {"torch": "2.11.0"}, "date": "2026-01-02", "rows": [row, failed, feature],
    }  # fmt: skip
    path.write_text(json.dumps({**document, **changes}))
    return path


def test_page_has_a_cell_a_model_and_mode_and_says_what_is_wrong(tmp_path: Path) -> None:
    written = matrix.record(tmp_path, results(tmp_path / "r.json"))
    assert written == tmp_path / matrix.FOLDER / "0-26-0-nvidia-h200.json"
    text = matrix.page(tmp_path)
    assert "| 0.26.0 | NVIDIA H200 | 2 | 1 | " in text
    assert "| model | type | eager | inductor |" in text
    row = next(line for line in text.splitlines() if line.startswith("| llama | bfloat16"))
    right, wrong = row.strip("| ").split(" | ")[2:]
    assert right == "184/192, 8 near ties, 0 misses"
    assert wrong == "**wrong**: RuntimeError: no \\| in …"
    assert "| prefix caching | llama | bfloat16 | cached_tokens [288] |" in text
    assert "2026-01-02; torch 2.11.0." in text


def test_a_wrong_cell_says_which_bound_it_is_beyond(tmp_path: Path) -> None:
    path = results(tmp_path / "r.json")
    document = json.loads(path.read_text())
    wrong = {
        **document["rows"][0], "right": False, "far_logprobs": 23, "mean_difference": 0.306,
        "misses": 19, "same_alone": False,
        "allowed": {"logprob": 0.5, "outliers": 0.08, "mean": 0.22, "exact": False},
    }  # fmt: skip
    few = {**wrong, "far_logprobs": 15, "misses": 15}  # of 192
    cells = matrix.from_results(results(path, rows=[wrong, few])).cells
    mean = "they are off by 0.306 in the mean, more than 0.22"
    assert cells[0].found.endswith(
        "5/6 prompts exact; more than 8% miss; 23 log-probabilities are off by more than 0.5; "
        f"{mean}"
    )
    assert cells[1].found.endswith(f"5/6 prompts exact; {mean}")


def test_page_says_what_nobody_has_run(tmp_path: Path) -> None:
    matrix.record(tmp_path, results(tmp_path / "r.json"))
    text = matrix.page(tmp_path)
    (missing,) = matrix.missing(tmp_path).values()
    assert f"| 0.26.0 | NVIDIA H200 | 2 | 1 | {len(missing)} |" in text
    assert "| qwen3 | bfloat16 | not run | not run |" in text
    assert "| llama | float16 | not run | not run |" in text
    assert "| lora | llama | bfloat16 | not run |" in text
    assert "| prefix caching | gemma3 | bfloat16 | not run |" in text
    assert "| server, inductor | llama | bfloat16 | not run |" in text
    assert "gemma2 | float16 | not run" not in text  # left out
    have = {cell.key for one in matrix.recorded(tmp_path) for cell in one.cells}
    assert have.isdisjoint(one.key for one in missing)


def test_engines_in_between_and_gpus_without_packages_want_less(tmp_path: Path) -> None:
    for version in ("0.26.0", "0.27.1", "0.33.0"):
        matrix.record(tmp_path, results(tmp_path / "r.json", engine=version))
    name = "NVIDIA H200 without vllm-flashmla and vllm-deepgemm"
    matrix.record(tmp_path, results(tmp_path / "r.json", name=name, rows=[]))
    missing = {path.stem: found for path, found in matrix.missing(tmp_path).items()}
    assert not missing["0-27-1-nvidia-h200"]
    assert len(missing["0-33-0-nvidia-h200"]) > 50
    without = missing["0-26-0-nvidia-h200-without-vllm-flashmla-and-vllm-deepgemm"]
    assert {one.model for one in without} == set(gaps.OF_PACKAGES)
    assert {one.mode for one in without} == {"eager", "inductor"}


def test_what_is_recorded_as_right_is_known(tmp_path: Path) -> None:
    matrix.record(tmp_path, results(tmp_path / "r.json"))
    assert matrix.known_right(tmp_path, "0.26.0", "NVIDIA H200") == {
        ("trial", "llama", "bfloat16", "eager"),
        ("features", "llama", "bfloat16", "prefix_caching"),
    }
    assert not matrix.known_right(tmp_path, "0.33.0", "NVIDIA H200")


def test_page_states_why_runs_are_left_out(tmp_path: Path) -> None:
    matrix.record(tmp_path, results(tmp_path / "r.json"))
    text = matrix.page(tmp_path)
    assert all(one.reason in text for one in left_out.LEFT_OUT)
    assert "| tensor parallel graphs | all | cpu | all | A CPU has no CUDA graphs. |" in text
    assert "| llama_gptq | all | all | from 0.30 on |" in text


def test_a_refusal_is_its_sentence(tmp_path: Path) -> None:
    sentence = "The model /a/b/c (X) needs more"
    said = f"1 validation error for VllmConfig\n  Value error, {sentence} [type=v, input]"
    row = {
        "program": "trial", "model": "m", "dtype": "bfloat16", "mode": "eager", "right": True,
        "said": said,
    }  # fmt: skip
    matrix.record(tmp_path, results(tmp_path / "r.json", rows=[row]))
    assert "| m | bfloat16 | The model … (X) needs more |" in matrix.page(tmp_path)


def test_a_later_run_replaces_its_cells_and_keeps_the_others(tmp_path: Path) -> None:
    matrix.record(tmp_path, results(tmp_path / "r.json"))
    again = json.loads((tmp_path / "r.json").read_text())["rows"][1] | {"right": True}
    del again["failure"]
    matrix.record(tmp_path, results(tmp_path / "s.json", rows=[again], date="2026-02-03"))
    (found,) = matrix.recorded(tmp_path)
    assert [cell.right for cell in found.cells] == [True, True, True]
    assert [cell.date for cell in found.cells] == ["2026-01-02", "2026-02-03", "2026-01-02"]
    assert "2026-01-02 to 2026-02-03" in matrix.page(tmp_path)


def test_engines_are_in_the_order_of_their_versions(tmp_path: Path) -> None:
    for version in ("0.33.0", "0.9.1", "0.26.0"):
        matrix.record(tmp_path, results(tmp_path / "r.json", engine=version))
    assert [one.engine for one in matrix.recorded(tmp_path)] == ["0.9.1", "0.26.0", "0.33.0"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": 3}', '{"rows": [{}]}', "[" * 10000])
def test_other_files_are_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        matrix.record(tmp_path, path)
    folder = tmp_path / matrix.FOLDER
    folder.mkdir(parents=True)
    (folder / "x.json").write_text(text)
    with pytest.raises(ConfigError):
        matrix.page(tmp_path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.json cannot be read"):
        matrix.record(tmp_path, tmp_path / "missing.json")
