"""The CUDA benchmarks without a GPU: every call of every case fits the ops' schemas.

Tensors are fake: they have shapes and dtypes but no memory, and lie on the CPU, the only device of
a CPU build of PyTorch. Nothing is compiled.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from built import require_kernels

require_kernels()

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.overrides import TorchFunctionMode

from benchmarks import run


class OnCpu(TorchFunctionMode):
    """Whatever asks for a GPU gets the CPU."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if given.get("device") == "cuda":
            given["device"] = "cpu"
        return function(*args, **given)


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


# PyTorch reference code compares addresses.
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("family", run.families("cuda"))
def test_calls_fit_the_schemas(family: str) -> None:
    labels = set()
    module = importlib.import_module(f"benchmarks.cuda.bench_{family}")
    for case in module.cases():
        mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
        with torch.inference_mode(), OnCpu(), mode:
            for call in case.make().values():
                call()
        assert case.label not in labels, "two cases have one name"
        labels.add(case.label)
