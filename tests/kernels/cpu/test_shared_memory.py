"""Collectives and messages over shared memory: ranks as threads of this process, and as processes.

The files of a group are in /dev/shm only until its last rank has joined.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from vllm_kernels.reference.all_reduce import cpu as reference

ops = torch.ops.vllm_kernels
SUMMED = (torch.float32, torch.bfloat16, torch.float16)
MOVED = (*SUMMED, torch.int64, torch.uint8, torch.bool, torch.float64, torch.float8_e4m3fn)
CHUNK = 1 << 20  # bytes
SHARED = Path("/dev/shm")  # noqa: S108 - where the system has it
_numbers = count()


def new_name() -> str:
    return f"test-{os.getpid()}-{next(_numbers)}"


def files(name: str) -> list[str]:
    return sorted(path.name for path in SHARED.glob(f"vllm-kernels.*.{name}.*"))


class Ranks:
    """A group whose ranks are threads."""

    def __init__(self, number: int, provider: Any = ops) -> None:
        name = new_name()
        self.provider = provider
        self.handles = [provider.init_shm_manager(name, number, rank, 1) for rank in range(number)]
        for handle in self.handles:
            assert provider.join_shm_manager(handle, name) == name
        self._threads = ThreadPoolExecutor(number)

    def run(self, call: Callable[[Any, int, int], Any]) -> list[Any]:
        """``call(ops, handle, rank)`` of every rank at once; what each returned or raised."""

        def one(rank: int) -> Any:
            try:
                return call(self.provider, self.handles[rank], rank)
            except RuntimeError as error:
                return error

        return list(self._threads.map(one, range(len(self.handles))))


@pytest.fixture(params=[1, 2, 3, 5])
def number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def same(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, list):
            same(one, other)
        else:
            assert one.dtype == other.dtype
            assert one.shape == other.shape
            assert torch.equal(one.contiguous().view(-1).view(torch.uint8),
                               other.contiguous().view(-1).view(torch.uint8))  # fmt: skip


def data(dtype: torch.dtype, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(size, generator=generator) * 50
    return values.to(dtype) if dtype != torch.bool else values > 0


def collective(kind: str, inputs: list[torch.Tensor], dst: int) -> Callable[[Any, int, int], Any]:
    def call(provider: Any, handle: int, rank: int) -> Any:
        mine = inputs[rank].clone()
        if kind == "sum":
            provider.shm_allreduce(handle, mine)
            return mine
        if kind == "all_gather":
            out = mine.new_zeros(len(inputs) * mine.numel())
            provider.shm_all_gather(handle, mine, out)
            return out
        outs = [torch.zeros_like(mine) for _ in inputs] if rank == dst else None
        provider.shm_gather(handle, mine, outs, dst)
        return outs or []

    return call


def test_collectives_one_after_the_other(number: int) -> None:
    """Of all kinds, dtypes and sizes, and bit by bit what the reference gives."""
    draw = random.Random(number)  # noqa: S311 - test data
    ours, theirs = Ranks(number), Ranks(number, reference)
    for seed in range(60):
        kind = draw.choice(("sum", "all_gather", "gather"))
        dtype = draw.choice(SUMMED if kind == "sum" else MOVED)
        around = CHUNK // dtype.itemsize
        size = draw.choice((0, 1, 3, 64, 1001, around - 1, around, around + 1, around * 5 // 2))
        inputs = [data(dtype, size, seed * 8 + rank) for rank in range(number)]
        call = collective(kind, inputs, draw.randrange(number))
        same(ours.run(call), theirs.run(call))


def test_shapes_and_layouts() -> None:
    group = Ranks(2)
    x = torch.arange(24.0).view(2, 3, 4)

    def call(provider: Any, handle: int, rank: int) -> list[torch.Tensor]:
        turned = (x + 100 * rank).transpose(0, 2)  # gathered in the order of its elements
        out, parts = torch.zeros(8, 3, 2), [torch.zeros(4, 3, 2) for _ in range(2)]
        provider.shm_all_gather(handle, turned, out)
        provider.shm_gather(handle, turned, parts if rank == 1 else None, 1)
        scalar = torch.tensor(2.5 + rank)
        provider.shm_allreduce(handle, scalar)
        return [out, *parts, scalar]

    first, second = (x + 100 * rank for rank in range(2))
    wanted = torch.cat([first.transpose(0, 2), second.transpose(0, 2)])
    of_0, of_1 = group.run(call)
    zeros = torch.zeros(4, 3, 2)
    same(of_0, [wanted, zeros, zeros, torch.tensor(6.0)])
    same(of_1, [wanted, first.transpose(0, 2), second.transpose(0, 2), torch.tensor(6.0)])


def test_calls_that_differ_are_refused_on_every_rank() -> None:
    group = Ranks(3)
    for calls in (
        lambda o, h, rank: o.shm_allreduce(h, torch.zeros(8 + (rank == 2))),
        lambda o, h, rank: o.shm_allreduce(h, torch.zeros(8 * (rank != 1))),
        lambda o, h, rank: o.shm_allreduce(h, torch.zeros(8, dtype=SUMMED[min(rank, 1)])),
        lambda o, h, rank: (
            o.shm_allreduce(h, torch.zeros(9))
            if rank
            else o.shm_all_gather(h, torch.zeros(9), torch.zeros(27))
        ),
    ):
        for outcome in group.run(calls):
            assert isinstance(outcome, RuntimeError)
            assert "makes another call than rank" in str(outcome)

    def good(provider: Any, handle: int, rank: int) -> torch.Tensor:
        x = torch.full((5,), float(rank))
        provider.shm_allreduce(handle, x)
        return x

    same(group.run(good), [torch.full((5,), 3.0)] * 3)  # the group still works


MESSAGES: list[list[torch.Tensor]] = [
    [],
    [torch.empty(0, 4)],
    [torch.tensor(3), torch.arange(12).view(3, 4).t(), torch.rand(2, 3, 1, 2, 2, 1).bfloat16()],
    [torch.tensor([1 + 2j]), torch.tensor([True]), torch.rand(5).to(torch.float8_e5m2)],
    [torch.rand(CHUNK), torch.arange(7, dtype=torch.uint8), torch.rand(CHUNK // 4, 3)],
    [torch.arange(9, dtype=torch.int16)] * 40,
]


def test_messages() -> None:
    group = Ranks(3)

    def call(provider: Any, handle: int, rank: int) -> list[list[torch.Tensor]]:
        received = []
        for message in MESSAGES:
            if rank < 2:
                provider.shm_send_tensor_list(handle, message, rank + 1)
            if rank > 0:
                received.append(provider.shm_recv_tensor_list(handle, rank - 1))
        return received

    none, second, third = group.run(call)
    assert none == []
    for received in (second, third):
        same(received, MESSAGES)
        assert all(one.is_contiguous() for message in received for one in message)


def test_two_messages_wait_to_be_taken() -> None:
    """Sent before anyone asks, in any order of the receivers, and between collectives."""
    group = Ranks(3)
    ops.shm_send_tensor_list(group.handles[0], [torch.tensor(1)], 1)
    ops.shm_send_tensor_list(group.handles[0], [torch.tensor(2)], 2)
    same(
        group.run(collective("sum", [torch.ones(3)] * 3, 0)),
        [torch.full((3,), 3.0)] * 3,
    )
    same(ops.shm_recv_tensor_list(group.handles[2], 0), [torch.tensor(2)])
    same(ops.shm_recv_tensor_list(group.handles[1], 0), [torch.tensor(1)])


def test_refusals(subtests: pytest.Subtests) -> None:
    name = new_name()
    alone = ops.init_shm_manager(name, 2, 0, 1)
    group = Ranks(2)
    one, x = group.handles[0], torch.zeros(4)
    init, join, total = ops.init_shm_manager, ops.join_shm_manager, ops.shm_allreduce
    gather, every = ops.shm_gather, ops.shm_all_gather
    send, receive = ops.shm_send_tensor_list, ops.shm_recv_tensor_list
    cases: list[tuple[Any, tuple[Any, ...], str]] = [
        (init, ("", 2, 0, 1), "name is empty"),
        (init, (name, 0, 0, 1), "group_size is 0, want 1 to 64 ranks"),
        (init, (name, 65, 0, 1), "group_size is 65"),
        (init, (name, 2, 2, 1), "rank is 2, want 0 to 1"),
        (init, (name, 2, -1, 1), "rank is -1"),
        (init, (name, 2, 0, 0), "thread_num is 0"),
        (init, ("x" * 221, 2, 0, 1), "name has 221 bytes, want at most 220"),
        (join, (alone, "other"), "name is `other`"),
        (join, (alone, name), "rank 1 has not called init_shm_manager with that name"),
        (join, (one, name), "want the name that the handle was made of"),
        (join, (2**40, name), "handle is 1099511627776"),
        (total, (alone, x), "this rank has not joined its group"),
        (total, (-1, x), "handle is -1"),
        (total, (one, torch.zeros(4, dtype=torch.int32)), "data is int32"),
        (total, (one, torch.zeros(4, 4).t()), "data"),
        (every, (one, x, torch.zeros(9)), "output has 9 elements, want 8"),
        (every, (one, x, torch.zeros(8).half()), "output is float16"),
        (every, (one, x, torch.zeros(16)[::2]), "output"),
        (gather, (one, x, None, 0), "outputs has 0 tensors, want one of each of 2 ranks"),
        (gather, (one, x, [x], 0), "outputs has 1 tensors"),
        (gather, (one, x, [x, torch.zeros(5)], 0), "outputs has 5 elements of rank 1"),
        (gather, (one, x, [x, torch.zeros(4).half()], 0), "outputs is float16"),
        (gather, (one, x, None, 2), "dst is 2, want a rank from 0 to 1"),
        (send, (one, [x], 0), "dst is 0, this rank itself"),
        (send, (one, [x], -1), "dst is -1"),
        (send, (alone, [x], 1), "this rank has not joined its group"),
        (receive, (one, 0), "src is 0, this rank itself"),
        (receive, (one, 9), "src is 9"),
        (receive, (alone, 1), "this rank has not joined its group"),
    ]
    for op, arguments, message in cases:
        with (
            subtests.test(op.__name__, message=message),
            pytest.raises(RuntimeError, match=f"^{op.__name__}: .*{message}"),
        ):
            op(*arguments)
    assert len(files(name)) == 1
    join(init(name, 1, 0, 1), name)  # takes the place of the group that nobody joined
    assert files(name) == []
    with pytest.raises(RuntimeError, match=f"handle is {alone}, want one"):
        total(alone, x)


def test_compiled() -> None:
    """torch.compile takes the collectives of a model's layers as one graph."""
    (handle,) = Ranks(1).handles

    def layer(x: torch.Tensor) -> torch.Tensor:
        x = x * 2
        ops.shm_allreduce(handle, x)
        out = torch.empty(x.shape)
        ops.shm_all_gather(handle, x, out)
        return out + 1

    x = torch.rand(3, 4)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), x * 2 + 1)


class Process:
    """A rank of its own: evaluates the lines that it is told."""

    PROGRAM = """
        import resource, sys, torch, vllm_kernels
        ops = torch.ops.vllm_kernels
        def summed(handle, *values):
            x = torch.tensor(values)
            ops.shm_allreduce(handle, x)
            return x.tolist()
        for line in sys.stdin:
            try:
                print(eval(line), flush=True)
            except RuntimeError as error:
                print(error, flush=True)
    """

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(self.PROGRAM)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.answer()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def pair() -> Iterator[tuple[Process, Process]]:
    both = Process(), Process()
    yield both
    for one in both:
        one.end()


def test_processes(pair: tuple[Process, Process]) -> None:
    name = new_name()
    handles = []
    for rank, one in enumerate(pair):
        handles.append(one.ask(f"ops.init_shm_manager({name!r}, 2, {rank}, 1)"))
    assert len(files(name)) == 2
    (mode,) = {(SHARED / file).stat().st_mode & 0o777 for file in files(name)}
    assert mode == 0o600
    for handle, one in zip(handles, pair, strict=True):
        assert one.ask(f"ops.join_shm_manager({handle}, {name!r})") == name
    assert files(name) == []

    for handle, one, value in zip(handles, pair, (1.5, 2.0), strict=True):
        one.tell(f"summed({handle}, {value}, -{value})")
    assert [one.answer() for one in pair] == ["[3.5, -3.5]"] * 2
    pair[0].ask(f"ops.shm_send_tensor_list({handles[0]}, [torch.arange(3)], 1)")
    assert pair[1].ask(f"ops.shm_recv_tensor_list({handles[1]}, 0)") == "[tensor([0, 1, 2])]"

    # A rank that waits for one that is killed, in a sum and for a message.
    pair[0].tell(f"summed({handles[0]}, 1.0)")
    pair[1].end()
    ended = "the process of rank 1 has ended; its own log says why"
    assert pair[0].answer() == f"shm_allreduce: {ended}"
    waiting = f"ops.shm_recv_tensor_list({handles[0]}, 1)"
    assert pair[0].ask(waiting) == f"shm_recv_tensor_list: {ended}"


def test_names_of_ended_processes_are_taken_over(pair: tuple[Process, Process]) -> None:
    name = new_name()
    made = f"ops.init_shm_manager({name!r}, 1, 0, 1)"
    assert pair[0].ask(made) == "1"
    refused = pair[1].ask(made)
    assert refused.startswith("init_shm_manager: another process has made /dev/shm/vllm-kernels.")
    assert refused.endswith("and still runs; give the group another name, or end that process")
    pair[0].end()
    assert len(files(name)) == 1
    assert pair[1].ask(made) == "1"
    assert pair[1].ask(f"ops.join_shm_manager(1, {name!r})") == name
    assert files(name) == []


def test_no_room(pair: tuple[Process, Process]) -> None:
    name = new_name()
    limited = "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    assert pair[0].ask(limited) == "None"
    refused = pair[0].ask(f"ops.init_shm_manager({name!r}, 2, 0, 1)")
    assert refused.startswith("init_shm_manager: /dev/shm cannot give 4 MiB to this rank: ")
    assert "docker run --shm-size" in refused
    assert files(name) == []


def test_no_address_space(pair: tuple[Process, Process]) -> None:
    name = new_name()
    pages = "int(open('/proc/self/statm').read().split()[0])"
    limit = f"{pages} * resource.getpagesize() + (3 << 20)"
    limited = f"resource.setrlimit(resource.RLIMIT_AS, ({limit}, resource.RLIM_INFINITY))"
    assert pair[0].ask(limited) == "None"
    refused = pair[0].ask(f"ops.init_shm_manager({name!r}, 2, 0, 1)")
    assert refused.startswith("init_shm_manager: 4 MiB of shared memory cannot be mapped: ")
    assert files(name) == []
