"""A plugin of pytest that keeps the ops' calls in tests, one file of them a process.

No GPU is needed: the references answer in the place of its kernels (standin.py). A call is kept for
what it is like: the smallest ones of every mix of types, flags and absent arguments.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vllm_kernels import engine_api

from . import standin
from .calls import Call, fits, full, named
from .guard import processes

VARIABLE = "VLLM_FUZZ_CORPUS"
ROOT = Path(__file__).resolve().parents[2]
_LARGEST = 1 << 24
# Numbers of a tensor past which a corpus says how they are drawn instead of what they are.
_WRITTEN_OUT = 1 << 12
_LIKE = 3
_OF_AN_OP = 48
_OF_A_TEST = 24
# Processor time of a test: references may be slow, and what follows its calls is not wanted.
_TEST_SECONDS = 3
# Processor time of a file, after which no test is begun.
_FILE_SECONDS = 60
# Wall time of a file, after which its process ends without calls.
_LONGEST_SECONDS = 600


# Numbers that say of which type packed values are.
_TYPES = ("bit", "num_bits", "b_type_id")


def _likeness(call: Call) -> tuple[object, ...]:
    """What calls that are alike share."""

    def of(name: str, value: object) -> object:
        if isinstance(value, Tensor):
            return value.dtype, value.dim()
        flag = name in _TYPES or value is None or isinstance(value, (bool, str))
        return value if flag else type(value)

    names = (argument.name for argument in engine_api.schema(call.op).arguments)
    return call.op, *map(of, names, call.arguments)


def _bytes(call: Call) -> int:
    return sum(x.nbytes for _, x in call.tensors())


def chosen(calls: Iterable[Call]) -> list[Call]:
    """The smallest few of every likeness, in an order that does not depend on that of ``calls``."""
    alike, ops = Counter[tuple[object, ...]](), Counter[str]()
    found = []
    for call in sorted(calls, key=lambda call: (call.op, _bytes(call), str(call))):
        likeness = _likeness(call)
        if alike[likeness] < _LIKE and ops[call.op] < _OF_AN_OP:
            alike[likeness] += 1
            ops[call.op] += 1
            found.append(call)
    return found


class _Keep(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[tuple[object, ...], list[Call]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "vllm_kernels":
            return func(*args, **kwargs)
        call = full(func._schema.name.split("::")[1], args, kwargs)
        # The ranks of a collective wait for each other: no copy may come between their calls.
        if engine_api.family_of(call.op) == "all_reduce":
            return func(*args, **kwargs)
        size = _bytes(call)
        kept = self.calls.setdefault(_likeness(call), [])
        wanted = len(kept) < _LIKE or size < _bytes(kept[-1])
        if size > _LARGEST:
            raise standin.MissingError("the references would take long")
        if not wanted:
            return func(*args, **kwargs)
        copied = tuple(
            x.detach().cpu().clone() if isinstance(x, Tensor) else x for x in call.arguments
        )
        result = func(*args, **kwargs)  # what the op refuses is not kept
        kept.append(Call(call.op, copied))
        kept.sort(key=_bytes)
        del kept[_LIKE:]
        return result


_keep = _Keep()


def pytest_addoption() -> None:
    """Hook of pytest: the first of all, before the tests and their fixtures are imported."""
    standin.install()
    signal.signal(signal.SIGPROF, standin.missing)


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Hook of pytest: a sample of each test's cases, drawn evenly."""
    cases: dict[str, list[Any]] = {}
    for item in items:
        cases.setdefault(item.originalname, []).append(item)
    wanted = {item for found in cases.values() for item in found[:: -(-len(found) // _OF_A_TEST)]}
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = [item for item in items if item in wanted]


def pytest_runtest_call(item: Any) -> None:
    """Hook of pytest: what the test calls is kept; nobody asks whether the references pass it."""
    test = item.obj

    def kept(*args: Any, **kwargs: Any) -> None:
        signal.setitimer(signal.ITIMER_PROF, _TEST_SECONDS)
        try:
            with _keep, suppress(Exception):
                test(*args, **kwargs)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    item.obj = kept


def pytest_runtest_teardown(item: Any) -> None:
    """Hook of pytest: the tests after this one are left out once the time is over."""
    if time.process_time() > _FILE_SECONDS:
        item.session.shouldstop = "no time is left"


def pytest_sessionfinish() -> None:
    """Hook of pytest: write the calls."""
    write(Path(os.environ[VARIABLE]), (call for kept in _keep.calls.values() for call in kept))


@dataclass(frozen=True)
class Numbers:
    """A large tensor of floats, whose values are drawn anew: no op depends on them."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    deviation: float
    positive: bool

    @classmethod
    def of(cls, x: Tensor) -> Numbers:
        wide = x.double()
        finite = wide[wide.isfinite()]
        deviation = float(finite.square().mean().sqrt()) if finite.numel() else 1.0
        positive = bool((finite >= 0).all())
        return cls(tuple(x.shape), x.stride(), x.dtype, deviation, positive)

    def drawn(self, seed: int) -> Tensor:
        dice = torch.Generator().manual_seed(seed)
        x = torch.empty_strided(self.shape, self.stride, dtype=self.dtype)
        values = torch.randn(self.shape, generator=dice) * self.deviation
        return x.copy_(values.abs() if self.positive else values)


def _packed(value: object) -> object:
    """What the file holds of an argument."""
    if not isinstance(value, Tensor) or value.numel() < _WRITTEN_OUT:
        return value
    return Numbers.of(value) if value.dtype.is_floating_point and _dense(value) else value


def _dense(x: Tensor) -> bool:
    """Whether no two elements share memory."""
    return all(stride > 0 or size == 1 for size, stride in zip(x.shape, x.stride(), strict=True))


def write(path: Path, calls: Iterable[Call]) -> None:
    """A corpus, whole or not there; :func:`read` reads it."""
    part = path.with_name(f"{path.name}.part")
    torch.save(
        [
            (call.op, {name: _packed(value) for name, value in named(call).items()})
            for call in calls
        ],
        part,
    )
    part.replace(path)


def _written(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """What :func:`write` wrote, numbers that are drawn anew not drawn yet."""
    found: list[tuple[str, dict[str, Any]]] = torch.load(path, weights_only=False)
    return found


def read(path: Path, ops: Iterable[str] | None = None) -> list[Call]:
    """The calls of :func:`write`, or those of ``ops``, that fit the schemas of today.

    Drawing takes longer than reading, and a process needs the calls of one family.
    """
    wanted = None if ops is None else set(ops)
    found, seed = [], 0  # whichever are left out, the others are the same
    for op, values in _written(path):
        drawing = (wanted is None or op in wanted) and fits(op, values)
        arguments = []
        for value in values.values():
            if isinstance(value, Numbers):
                arguments.append(value.drawn(seed) if drawing else value)
                seed += 1
            else:
                arguments.append(value)
        if drawing:
            found.append(Call(op, tuple(arguments)))
    return found


def misfits(path: Path) -> Counter[str]:
    """How many calls of which op :func:`read` leaves out, for the op is another by now."""
    return Counter(op for op, values in _written(path) if not fits(op, values))


def cuda_tests() -> list[Path]:
    """The test files that call the ops on a GPU."""
    files = sorted((ROOT / "tests" / "kernels" / "cuda").glob("test_*.py"))
    return [file for file in files if not file.stem.endswith(("_emulation", "_without_gpu"))]


def record(path: Path, tests: Iterable[Path], jobs: int) -> None:
    """Run test files under this plugin, ``jobs`` at once, and write what they call."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:

        def run(test: Path) -> list[Call]:
            part = Path(folder) / f"{test.stem}.pt"
            # The kernels of this process, be they installed or in the checkout.
            plugin = ["-p", "no:cacheprovider", "-p", "tests.fuzz.record", "-o", "pythonpath="]
            kernels = Path(engine_api.__file__).parents[1]
            with suppress(subprocess.TimeoutExpired):
                processes.run(
                    [sys.executable, "-m", "pytest", "-q", *plugin, str(test)],
                    timeout=_LONGEST_SECONDS,
                    cwd=ROOT,
                    env={
                        **os.environ,
                        VARIABLE: str(part),
                        "CUDA_VISIBLE_DEVICES": "",
                        "OMP_NUM_THREADS": "1",
                        "PYTHONPATH": f"{kernels}:{os.environ.get('PYTHONPATH', '')}:{ROOT}",
                    },
                    stdout=subprocess.DEVNULL,
                )
            return read(part) if part.is_file() else []

        calls = [call for part in pool.map(run, tests) for call in part]
    if not calls:
        sys.exit("fuzz: the tests left no calls to start from")
    write(path, chosen(calls))
