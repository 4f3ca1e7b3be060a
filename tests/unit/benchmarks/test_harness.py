"""The benchmark harness: what it measures, prints and records."""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from built import require_kernels

require_kernels()

import torch

import vllm_kernels
from benchmarks import record, run
from benchmarks.harness import (
    Call,
    Case,
    behind_another,
    command,
    compiled,
    load,
    main,
    offered,
)
from benchmarks.harness.case import Compilation
from benchmarks.harness.cpu import CpuContender, CpuTimer
from benchmarks.harness.measure import measure

ROOT = Path(__file__).parents[3]
QUICK, FULL = CpuTimer.quick, CpuTimer.full


class Clock:
    """Time that passes only inside the calls under test."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.log: list[str] = []
        self.timer = CpuTimer(lambda: self.now_ns)

    def call(self, name: str, microseconds: int) -> Call:
        def run() -> None:
            self.now_ns += 1000 * microseconds
            self.log.append(name)

        return run

    def case(self, make: Callable[[], dict[str, Call]] | None = None, **more: int) -> Case:
        def three() -> dict[str, Call]:
            times = {"ours": 10, "eager": 30, "compile": 20, "ours, turned": 5}
            return {name: self.call(name, time) for name, time in times.items()}

        return Case("x", {"m": 1}, "f32", make or three, "decode", **more)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_ratio_is_the_fastest_peer_over_ours(clock: Clock) -> None:
    result = measure(clock.case(bytes_moved=1000), clock.timer, FULL)
    assert result.label == "x 1 f32"
    assert result.best_peer == "compile"
    assert result.ratio == pytest.approx(2.0)
    assert list(result.ratios) == ["compile", "eager"]
    assert result.ours.median == pytest.approx(10e-6)
    assert result.bytes_per_s == pytest.approx(1e8)
    assert result.flops_per_s is None


def test_another_form_of_ours_is_no_peer(clock: Clock) -> None:
    result = measure(clock.case(), clock.timer, QUICK)
    assert list(result.forms) == ["ours, turned"]
    assert set(result.peers) == {"eager", "compile"}


def test_blocks_interleave_and_the_first_one_rotates(clock: Clock) -> None:
    measure(clock.case(), clock.timer, QUICK)
    runs = [name for i, name in enumerate(clock.log) if i == 0 or clock.log[i - 1] != name]
    last = runs[-12:]  # three blocks
    rounds = [tuple(last[i : i + 4]) for i in (0, 4, 8)]
    assert {tuple(sorted(names)) for names in rounds} == {
        ("compile", "eager", "ours", "ours, turned")
    }
    assert len({names[0] for names in rounds}) == 3


def test_a_block_is_long_enough_for_the_timer(clock: Clock) -> None:
    def contender(microseconds: int) -> CpuContender:
        call = clock.call("x", microseconds)
        return CpuContender(call, lambda: clock.now_ns, FULL.block_seconds)

    assert contender(1).repeats * 1e-6 >= 1e-3
    assert contender(5_000_000).repeats == 1


def test_a_case_without_ours_is_refused(clock: Clock) -> None:
    bad = clock.case(lambda: {"eager": clock.call("eager", 1)})
    with pytest.raises(ValueError, match="x: no contender is named 'ours'"):
        measure(bad, clock.timer, QUICK)


def test_peers_that_this_pytorch_lacks_are_left_out() -> None:
    def lacks() -> None:
        raise RuntimeError("not for this shape")

    assert list(offered({"a": lambda: None, "b": lacks})) == ["a"]


def test_without_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The peer is not even compiled, the record says so, and a whole run's figures stay."""
    monkeypatch.setattr(Compilation, "wanted", True)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "whole")
    monkeypatch.setattr(torch, "compile", None)

    def make() -> dict[str, Call]:
        x = torch.ones(64)
        return {"ours": lambda: x + x, "eager": lambda: x * 2, "compile": compiled(torch.add, x, x)}

    cases = [Case("add", {"width": 64}, "f32", make, "decode")]
    arguments = ["--without-compile", "--quick"]
    assert main("cpu", "norm", lambda: cases, arguments) == 0
    assert not (tmp_path / "whole").exists()
    assert main("cpu", "norm", lambda: cases, [*arguments, "--results", str(tmp_path)]) == 0
    (document,) = record.kernels(tmp_path)
    assert list(document.cases[0].peers) == ["eager"]
    assert "torch.compile is not among the peers." in document.note


def test_behind_another_kernel(clock: Clock) -> None:
    between = torch.ones(2)
    behind_another({"ours": clock.call("ours", 1)}, between)["ours"]()
    assert between.tolist() == [-1, -1]
    assert clock.log == ["ours"]


def test_loads() -> None:
    assert [load(tokens) for tokens in (1, 64, 65)] == ["decode", "decode", "prefill"]


def add(group: str = "decode") -> Case:
    def make() -> dict[str, Call]:
        x = torch.ones(64)
        return {"ours": lambda: x + x, "mul": lambda: x * 2}

    return Case("add", {"width": 64}, "f32", make, group, bytes_moved=512)


def test_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cases() -> Iterator[Case]:
        yield add()
        yield add("prefill")

    arguments = ["--quick", "--filter", "dec", "--results", str(tmp_path), "--machine", "here"]
    assert main("cpu", "norm", cases, arguments) == 0
    path = tmp_path / "cpu" / "here" / "norm.json"
    document = record.read(path, record.KernelCase.read)
    assert [case.group for case in document.cases] == ["decode"]
    assert document.versions["torch"] == torch.__version__
    assert document.text() == path.read_text()
    assert platform.node() not in path.read_text()
    assert re.search(r"norm: [01] of 1 not slower", capsys.readouterr().out)


def test_partial_run_leaves_the_recorded_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(CpuTimer, "full", QUICK)
    assert main("cpu", "norm", lambda: [add()], ["--quick"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert main("cpu", "norm", lambda: [add()], []) == 0
    (path,) = tmp_path.rglob("*.json")
    assert path.name == "norm.json"
    assert json.loads(path.read_text())["schema"] == record.SCHEMA


def test_part_of_the_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Nth one, into another folder than that of whole runs."""
    monkeypatch.setattr(command, "RESULTS", tmp_path / "whole")
    monkeypatch.setattr(CpuTimer, "full", QUICK)

    def cases() -> list[Case]:
        return [add(group) for group in ("a", "b", "c", "d", "e")]

    assert main("cpu", "norm", cases, ["--part", "2/3"]) == 0
    assert not (tmp_path / "whole").exists()
    arguments = ["--part", "2/3", "--results", str(tmp_path), "--machine", "of {tier}"]
    assert main("cpu", "norm", cases, arguments) == 0
    (path,) = tmp_path.rglob("*.json")
    assert [case["group"] for case in json.loads(path.read_text())["cases"]] == ["b", "e"]
    tier = vllm_kernels.cpu_isa() or "reference"
    assert path.parent.name == f"of-{tier.replace('_', '-')}"


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "x/y"])
def test_no_such_part(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main("cpu", "norm", list, ["--part", part])
    assert "argument --part: invalid" in capsys.readouterr().err


def test_filter_without_a_match(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("cpu", "norm", list, ["--filter", "nothing"]) == 2
    assert "no case matches --filter nothing" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_no_gpu_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("cuda", "norm", list, []) == 2
    assert "bench_norm: PyTorch sees no GPU" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "kernels"), [("cpu", "*/*_tier.cc"), ("cuda", "*/**/*.cu*")])
def test_every_family_has_a_benchmark(device: str, kernels: str) -> None:
    folder = ROOT / "csrc" / device
    families = {path.relative_to(folder).parts[0] for path in folder.glob(kernels)}
    assert families
    benchmarks = set(run.families(device)) | run.OF_THEIR_OWN
    assert families - {"common", "ptx", "sm90"} <= benchmarks


def test_tiers_are_measured_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a process whose kernels and peers have that tier's instructions."""
    seen: list[dict[str, str | None]] = []

    def child(
        command: tuple[str, ...], env: dict[str, str], **_: object
    ) -> subprocess.CompletedProcess[str]:
        names = ("VLLM_KERNELS_CPU_ISA", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
        seen.append({name: env.get(name) for name in names})
        assert command[-2:] == ("benchmarks.cpu.bench_gemm", "--quick")
        return subprocess.CompletedProcess(command, 0)

    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(subprocess, "run", child)
    assert run.main(["gemm", "--quick", "--tiers", "avx2", "neon"]) == 0
    assert [list(one.values()) for one in seen] == [["avx2", "avx2", "AVX2"], ["neon", None, None]]


def test_tiers_are_those_of_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        run.main(["--device", "cuda", "--tiers", "avx2"])
    assert error.value.code == 2
    assert "--tiers is for the CPU's kernels" in capsys.readouterr().err


def test_unknown_family(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        run.main(["nrom"])
    assert error.value.code == 2
    assert "no benchmark of nrom; there are:" in capsys.readouterr().err
