"""What the fuzzer's driver makes of processes that die, hang or are left behind."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from waiting import until

ROOT = Path(__file__).parents[3]
CALLS = 60
# Stands for an op that crashes or hangs, once.
FAULT = """
import os, time
from tests.fuzz import oracle
check, made = oracle.Oracle.check, []
def faulty(self, how, call, seed):
    made.append(call)
    if len(made) == 45:
        {fault}
    check(self, how, call, seed)
oracle.Oracle.check = faulty
"""


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Calls from a file, so that the processes start without hypothesis."""
    path = tmp_path / "calls.json"
    hows = enumerate(["valid", "spoilt"] * 3)
    draws = [["rotary_embedding", how, 10 * at, 10] for at, how in hows]
    path.write_text(json.dumps({"batches": {"rope 0": draws}}))
    return path


def command(drawn: Path, *more: str) -> list[str]:
    options = ["--family", "rope", "--calls", str(CALLS), "--batch", str(CALLS)]
    options += ["--read-calls", str(drawn), "--report", str(drawn.with_name("report.json"))]
    return [sys.executable, "-m", "tests.fuzz", *options, *more]


def faulty(tmp_path: Path, fault: str) -> dict[str, str]:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'tests.fuzz.worker' in sys.orig_argv:\n"
        + "".join(f"    {line}\n" for line in FAULT.format(fault=fault).splitlines())
    )
    path = f"{tmp_path}:{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    return {**os.environ, "PYTHONPATH": path}


def report(drawn: Path) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = json.loads(drawn.with_name("report.json").read_text())
    return found["rope"]


@pytest.mark.parametrize(
    ("fault", "count", "name"),
    [("os.kill(os.getpid(), 11)", "crashes", "SIGSEGV"), ("time.sleep(600)", "hangs", "hang")],
)
def test_calls_after_a_fault_are_made(
    drawn: Path, tmp_path: Path, fault: str, count: str, name: str
) -> None:
    done = subprocess.run(
        command(drawn, "--hang-seconds", "2"),
        cwd=ROOT,
        env=faulty(tmp_path, fault),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = report(drawn)
    assert found["counts"][count] == 1
    assert found["counts"]["calls"] == CALLS
    (kind,) = found["faults"]
    assert kind.startswith(f"{name}: ")
    assert "[--family rope --seed 0 --calls 60" in found["faults"][kind]


def processes_with(mark: str) -> set[int]:
    """Living processes whose environment holds it."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_the_driver(drawn: Path, tmp_path: Path, number: int) -> None:
    mark, hanging = str(tmp_path), tmp_path / "hanging"
    environment = faulty(tmp_path, f"open({str(hanging)!r}, 'w').close(); time.sleep(3600)")
    words = command(drawn, "--hang-seconds", "3600")
    with subprocess.Popen(words, cwd=ROOT, env=environment) as driver:
        try:
            assert until(lambda: hanging.exists() or driver.poll() is not None, 600)
            assert driver.poll() is None
            assert len(processes_with(mark)) == 3  # the driver, a guard and a worker
            driver.send_signal(number)
            driver.wait(60)
        finally:
            driver.kill()  # or a failure would wait for an hour
        assert until(lambda: not processes_with(mark), 10), processes_with(mark)


def test_batches_of_a_file_may_differ_in_size_and_come_in_its_order(drawn: Path) -> None:
    """So that slow families are cut into more parts, and come first."""
    one = ["rotary_embedding", "generic", 7, 10]
    drawn.write_text(json.dumps({"batches": {"rope 1": [one] * 2, "rope 0": [one]}}))
    done = subprocess.run(command(drawn), cwd=ROOT, capture_output=True, text=True, check=True)
    assert report(drawn)["counts"]["calls"] == 30
    assert done.stderr.index("rope, seed 1: ") < done.stderr.index("rope, seed 0: ")


def test_it_ends_when_its_time_is_over() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--family", "runtime", "--seconds", "0"],
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0


def test_calls_for_a_gpu_are_recorded_without_one(tmp_path: Path) -> None:
    """And drawn, so that a machine with a GPU only makes them."""
    from fuzz.record import read, record

    corpus, drawn = tmp_path / "corpus.pt", tmp_path / "calls.json"
    record(corpus, [ROOT / "tests/kernels/cuda/test_hadamard.py"], jobs=1)
    calls = read(corpus)
    assert {call.op for call in calls} == {"hadacore_transform"}
    assert {x.device.type for call in calls for _, x in call.tensors()} == {"cpu"}
    assert len({x.dtype for call in calls for _, x in call.tensors()}) > 1
    options = ["--device", "cuda", "--family", "hadamard", "--calls", "300", "--batch", "200"]
    subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *options, "--write-calls", str(drawn)],
        cwd=ROOT,
        env={**os.environ, "VLLM_FUZZ_CORPUS": str(corpus)},
        check=True,
    )
    found = json.loads(drawn.read_text())["batches"]
    assert {name: len(draws) for name, draws in found.items()} == {
        "hadamard 0": 20, "hadamard 1": 20,
    }  # fmt: skip


def test_calls_recorded_for_another_schema_are_left_out(tmp_path: Path) -> None:
    """An op has another argument by now, or is gone; so it was on a GPU, and ended the batch."""
    from fuzz.calls import Call
    from fuzz.record import misfits, read, write

    path, drawn = tmp_path / "corpus.pt", tmp_path / "calls.json"
    x = torch.ones(2, 128, dtype=torch.float16)
    kept = Call("hadacore_transform", (x, False))
    write(path, [kept])
    (values,) = (values for _, values in torch.load(path, weights_only=False))
    less, other = {"x": x}, {"y": x, "inplace": False}
    torch.save(
        [("hadacore_transform", each) for each in (values, less, other)] + [("no_op", {"x": x})],
        path,
    )
    assert [call.op for call in read(path)] == ["hadacore_transform"]
    assert misfits(path) == {"hadacore_transform": 2, "no_op": 1}
    one = ["hadacore_transform", "valid", 1, 10]
    drawn.write_text(json.dumps({"batches": {"hadamard 0": [one]}}))
    options = ["--device", "cuda", "--family", "hadamard", "--seconds", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *options, "--read-calls", str(drawn)],
        cwd=ROOT,
        env={**os.environ, "VLLM_FUZZ_CORPUS": str(path), "CUDA_VISIBLE_DEVICES": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = "left out for another schema: hadacore_transform (2), no_op (1)"
    assert done.stderr == f"fuzz: {path}: {said}\n"


def test_drawn_calls_of_an_op_that_is_gone_are_counted(drawn: Path) -> None:
    one, gone = ["rotary_embedding", "valid", 7, 10], ["no_op", "valid", 8, 10]
    drawn.write_text(json.dumps({"batches": {"rope 0": [one, gone]}}))
    subprocess.run(command(drawn), cwd=ROOT, capture_output=True, check=True)
    counts = report(drawn)["counts"]
    assert counts["left out for want of the op"] == 10
    assert counts["calls"] == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "gem"], "--family: gem is none of activation, "),
        (["--calls", "0"], "argument --calls: 0 is not above 0"),
        (["--read-calls", "no/such.json"], "--read-calls: there is no file no/such.json"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from fuzz.__main__ import parse

    with pytest.raises(SystemExit):
        parse(arguments)
    assert message in capsys.readouterr().err


def test_jobs_are_spread_over_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from fuzz.__main__ import gpus

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert gpus("cuda") == ["2", "5"]
    assert gpus("cpu") == [None]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert gpus("cuda") == ["0", "1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SystemExit, match="no usable GPU"):
        gpus("cuda")


def test_sums_that_cancel_differ_by_their_terms() -> None:
    from fuzz.calls import Call
    from fuzz.oracle import references
    from fuzz.tolerance import cancelled, rounding

    mat1, codes = torch.tensor([[3e3, -3e3, 1.0]]), torch.tensor([[100, 100, -1]], dtype=torch.int8)
    arguments = (mat1, codes, torch.ones(1), None, torch.float32, False)
    call = Call("int8_scaled_mm_with_quant", arguments)
    exact = torch.tensor([[-1.0]])
    most = cancelled(call, references())
    assert most == 6e5 + 1
    assert rounding(exact + 0.05, exact, most)
    assert not rounding(exact + 0.05, exact)
    assert not rounding(exact + 2.0, exact, most)
    assert cancelled(Call("rms_norm", (exact, exact, None, 1e-6)), references()) == 0.0


def test_a_recursion_that_grows_on_its_way_differs_by_what_its_inputs_move() -> None:
    """One key for all tokens and beta beyond [0, 1]: 25 steps of the type off the largest."""
    from fuzz.calls import full, ops
    from fuzz.oracle import references
    from fuzz.tolerance import NUDGES, distance, nudged, rounding

    torch.manual_seed(2)
    key = torch.randn(300).as_strided((1, 256, 2, 256), (0, 1, 3, 0))
    query, value, state = (
        torch.randn(size) for size in ((1, 256, 2, 256), (1, 256, 4, 32), (4, 4, 256, 32))
    )
    g, beta = torch.randn(2, 1, 256, 4)
    starts, rows = (
        torch.tensor([0, 2, 40], dtype=torch.int32),
        torch.tensor([2, 0], dtype=torch.int32),
    )
    call = full(
        "chunk_gated_delta_rule_cpu",
        (query, key, value, g, beta, state, True, starts, False, True, rows), {},
    )  # fmt: skip
    ours, theirs = call.copied(), call.copied()
    ours.run(ops)
    theirs.run(references())
    at = next(place for place, x in call.tensors() if x is state)
    got, want = ours.arguments[at], theirs.arguments[at]
    moved = next(x for x in nudged(call.copied(), references()) if x.shape == state.shape)
    assert not rounding(got, want)
    assert distance(got, want) <= NUDGES * distance(moved, want)
    assert distance(got + 1.0, want) > NUDGES * distance(moved, want)


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (1.0, 1.5, 0.5),
        (math.nan, math.nan, 0.0),
        (math.inf, math.inf, 0.0),
        (math.nan, 0.0, math.inf),
        (math.inf, -math.inf, math.inf),
        (torch.finfo(torch.float32).max, math.inf, math.inf),
    ],
)
def test_how_far_results_are_apart(one: float, other: float, apart: float) -> None:
    from fuzz.tolerance import distance

    assert distance(torch.tensor([2.0, one]), torch.tensor([2.0, other])) == apart


def test_tokens_that_two_blocks_write_are_not_compared() -> None:
    """18 pads the places of 9 tokens; with 48 it is a token, of which every block had another."""
    from fuzz.calls import full
    from fuzz.oracle import _scatters_twice

    def call(tokens: int) -> Any:
        x, y = torch.zeros(tokens, 32), torch.zeros(tokens, 2, 2)
        places = torch.tensor([5, 18, 18, 18, 9, 18, 18, 18], dtype=torch.int32)
        arguments = (x, y, y, y, None, None, places, places, places, 2, 4, 128, 128, 4)
        return full("moe_wna16_gemm", arguments, {})

    assert not _scatters_twice(call(9))
    assert _scatters_twice(call(48))
    # Numbers of 32 bits are not compared with one of 64, which would wrap.
    given = call(48).arguments
    assert _scatters_twice(full("moe_wna16_gemm", (*given[:9], 2**62, *given[10:]), {}))


def test_a_number_that_is_no_dtype_ends_before_it_reaches_us() -> None:
    """PyTorch's own conversion refuses it; what our code says still has to be a sentence."""
    from fuzz.oracle import _bad_sentence

    x, codes = torch.zeros(2, 8), torch.zeros(8, 8, dtype=torch.int8)
    for number in (-1, 7777):
        with pytest.raises(RuntimeError) as refused:
            torch.ops.vllm_kernels.int8_scaled_mm_with_quant(
                x, codes, torch.ones(8), None, number, False
            )
        assert not list(_bad_sentence("int8_scaled_mm_with_quant", str(refused.value)))
        # Of our copy of that header, or of another file, it would be ours.
        for prefix in ("include", "/python/include"):
            ours = re.sub(r"/\S+/torch/csrc", f"{prefix}/torch/csrc", str(refused.value))
            assert ours != str(refused.value)
            assert list(_bad_sentence("int8_scaled_mm_with_quant", ours))
        ours = re.sub(r"/\S+/stableivalue_conversions", "/x/convert", str(refused.value))
        assert list(_bad_sentence("int8_scaled_mm_with_quant", ours))
