"""The benchmark harness: what it measures, prints and records."""

from __future__ import annotations

import importlib
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from built import require_kernels

require_kernels()

import torch

ROOT = Path(__file__).parents[3]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("harness")


@pytest.fixture
def run_all() -> ModuleType:
    return importlib.import_module("benchmarks.run_all")


class Clock:
    """Time that passes only inside the calls under test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def call(self, name: str, seconds: float) -> object:
        def run() -> None:
            self.now += seconds
            self.log.append(name)

        return run


@pytest.fixture
def clock(harness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(harness.time, "perf_counter_ns", lambda: round(clock.now * 1e9))
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock.now)
    return clock


def case(harness: ModuleType, clock: Clock, **more: object) -> object:
    peers = {"eager": clock.call("eager", 30e-6), "compile": clock.call("compile", 20e-6)}
    return harness.Case("x 1 f32", "decode", clock.call("ours", 10e-6), peers, **more)


def test_ratio_is_the_fastest_peer_over_ours(harness: ModuleType, clock: Clock) -> None:
    result = harness.measure(case(harness, clock, bytes_moved=1000, flops=None), harness.FULL)
    assert result.best_peer == "compile"
    assert result.ratio == pytest.approx(2.0, rel=1e-3)
    assert result.ours.median == pytest.approx(10e-6, rel=1e-3)
    assert result.gb_per_s == pytest.approx(0.1, rel=1e-3)
    assert result.gflop_per_s is None


def test_blocks_interleave_and_the_first_one_rotates(harness: ModuleType, clock: Clock) -> None:
    harness.measure(case(harness, clock), harness.QUICK)
    runs = [name for i, name in enumerate(clock.log) if i == 0 or clock.log[i - 1] != name]
    rounds = runs[-9:]  # the last three blocks of three contenders
    assert {tuple(sorted(rounds[i : i + 3])) for i in (0, 3, 6)} == {("compile", "eager", "ours")}


def test_a_block_is_long_enough_for_the_timer(harness: ModuleType, clock: Clock) -> None:
    repeats = harness._repeats(clock.call("x", 1e-6), harness.FULL.block_seconds)
    assert repeats * 1e-6 >= 1e-3
    assert harness._repeats(clock.call("x", 5.0), harness.FULL.block_seconds) == 1


def test_no_peer_may_be_called_ours(harness: ModuleType, clock: Clock) -> None:
    bad = harness.Case("x", "decode", clock.call("a", 1e-3), {"ours": clock.call("b", 1e-3)})
    with pytest.raises(ValueError, match="a peer is named 'ours'"):
        harness.measure(bad, harness.QUICK)


def test_record(harness: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cases() -> Iterator[object]:
        x = torch.ones(64)
        yield harness.Case("add", "decode", lambda: x + x, {"mul": lambda: x * 2}, x.nbytes * 2)
        yield harness.Case("skipped", "prefill", lambda: x + x, {})

    path = tmp_path / "norm.json"
    assert harness.main("norm", cases, ["--quick", "--filter", "dec", "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert [result["label"] for result in document["results"]] == ["add"]
    assert document["machine"]["torch"] == torch.__version__
    assert platform.node() not in path.read_text()
    assert re.search(r"norm: [01] of 1 not slower", capsys.readouterr().out)


def test_partial_run_leaves_the_recorded_figures(
    harness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    one = [harness.Case("add", "decode", lambda: None, {"pass": lambda: None})]
    assert harness.main("norm", lambda: one, ["--quick"]) == 0
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(harness, "FULL", harness.QUICK)
    assert harness.main("norm", lambda: one, []) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["norm.json"]


def test_filter_without_a_match(harness: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness.main("norm", list, ["--filter", "nothing"]) == 2
    assert "no case matches --filter nothing" in capsys.readouterr().err


def run(ratio: float) -> dict[str, object]:
    result = {
        "label": "silu 1x64 f32",
        "group": "decode",
        "ours": {"median": 2e-6, "min": 1e-6},
        "peers": {"eager": {"median": 2e-6 * ratio, "min": 1e-6}},
        "best_peer": "eager",
        "ratio": ratio,
        "gb_per_s": 1.5,
        "gflop_per_s": None,
    }
    machine = {"cpu": "CPU", "threads": 2, "tier": "avx2", "torch": "2.13"}
    return {"family": "activation", "machine": machine, "results": [result]}


def test_table(run_all: ModuleType) -> None:
    text = run_all.table([run(0.8)])
    assert text.startswith("<!-- Generated by")
    assert "| activation | decode | 0 of 1 | 0.80 | 0.80 |" in text
    assert "| silu 1x64 f32 | decode | 2.0 | 1.6 | eager | 0.80 | 1.5 GB/s |" in text


def test_engine_section(run_all: ModuleType) -> None:
    row = {"tokens_per_second": 10.0, "first_token": 0.5, "between_tokens": 0.1}
    document = {
        "machine": {"cpu": "CPU", "tier": "avx2", "torch": "2.13"},
        "model": "llama",
        "shapes": {
            "1x128": {
                "threads": 1,
                "bound": 0.05,
                "contenders": {
                    "kernels": [{**row, "decode_tokens_per_second": 20.0}],
                    "upstream": [{**row, "decode_tokens_per_second": 10.0}],
                },
            }
        },
    }
    other = {**document, "machine": {"cpu": "Other", "tier": "amx", "torch": "2.13"}}
    text = run_all.engine_table.section([document, other])
    assert "### CPU, tier avx2\n" in text
    assert "### Other, tier amx\n" in text
    assert run_all.engine_table.section([]) == ""
    lines = run_all.engine_table.section([document]).splitlines()
    assert lines[-2] == "| 1x128 | the kernels | 10.0 | 20.0 | 500 | 100.0 |  | 50.0 |  |"
    assert lines[-1] == (
        "| 1x128 | upstream's CPU build | 10.0 | 10.0 | 500 | 100.0 | 2.00 | 50.0 | 2.00 |"
    )


def test_recorded_table_is_fresh(run_all: ModuleType) -> None:
    if not run_all.RESULTS.is_dir():
        pytest.skip("no figures are recorded")
    assert run_all.main(["--check"]) == 0


def test_every_family_has_a_benchmark(run_all: ModuleType) -> None:
    folders = [path.name for path in (ROOT / "csrc" / "cpu").iterdir() if path.is_dir()]
    families = {name for name in folders if name not in ("generated", "moe")}
    assert families
    assert families <= set(run_all.families())


def test_unknown_family(run_all: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        run_all.main(["nrom"])
    assert error.value.code == 2
    assert "no benchmark of nrom; there are:" in capsys.readouterr().err
