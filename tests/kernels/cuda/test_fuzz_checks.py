"""Calls for a GPU are drawn such that the checks of its ops let them pass; no GPU is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fuzz.calls import Call
from fuzz.checks import environment, preloaded
from fuzz.record import write

from vllm_kernels import engine_api

pytestmark = pytest.mark.no_gpu
ROOT = Path(__file__).parents[3]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    if engine_api.find_library(engine_api.cuda_library("hadamard")) is None:
        pytest.skip("the build lacks hadamard")
    if preloaded(tmp_path) is None:
        pytest.skip("needs a C compiler (set CC)")
    pytest.importorskip("hypothesis", reason="calls are drawn with hypothesis")
    x = torch.randn(3, 128)
    calls = [
        Call("hadacore_transform", (x.half(), False)),
        Call("hadacore_transform", (x.bfloat16(), True)),
        Call("hadacore_transform", (x, False)),  # no dtype of the op's
    ]
    path = tmp_path / "corpus.pt"
    write(path, calls)
    return path


def test_valid_calls_pass_the_checks(corpus: Path) -> None:
    """One of three recorded calls is refused, and so are most sizes that are no power of two."""
    drawn = corpus.with_name("calls.json")
    options = ["--family", "hadamard", "--calls", "300", "--batch", "150"]
    options += ["--write-calls", str(drawn)]
    subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--device", "cuda", *options],
        cwd=ROOT,
        env={**os.environ, "VLLM_FUZZ_CORPUS": str(corpus)},
        check=True,
    )
    batches = json.loads(drawn.read_text())["batches"]
    assert list(batches) == ["hadamard 0", "hadamard 1"]
    script = (
        "import json, sys, torch; from tests.fuzz import checks, corpus, strategies; "
        "from vllm_kernels import engine_api; "
        "library = engine_api.find_library(engine_api.cuda_library('hadamard')); "
        "torch.ops.load_library(str(library)); "
        "bases = corpus.bases('hadamard', 'cuda', None)['hadacore_transform']; "
        "calls = [strategies.made(op, how, bases, seed, 'cuda') "
        "for op, how, seed, _ in json.load(sys.stdin)]; "
        "print(json.dumps([checks.passes(checks._placed(call, seed)) "
        "for call, seed in zip(calls, json.loads(sys.argv[1]))]))"
    )
    library = preloaded(corpus.parent)
    assert library is not None
    for draws in batches.values():
        valid = [draw for draw in draws if draw[1] == "valid"]
        assert sum(count for *_, count in draws) >= 150
        assert len(valid) >= 60
        seeds = json.dumps([seed for _, _, seed, _ in valid])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, seeds],
            input=json.dumps(valid),
            cwd=ROOT,
            env={**environment(library), "VLLM_FUZZ_CORPUS": str(corpus)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert all(json.loads(done.stdout))
