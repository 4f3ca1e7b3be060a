"""Collectives: ranks as streams of one GPU, which meet as the GPUs of a group do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch

import vllm_kernels  # noqa: F401  registers the ops

ops = torch.ops.vllm_kernels
LARGEST = 1 << 20
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Group:
    """Ranks of one process: each has a communicator, a stream and the same addresses."""

    communicators: list[int]
    streams: list[torch.cuda.Stream]
    buffers: list[int]
    kept: list[torch.Tensor]

    @property
    def ranks(self) -> int:
        return len(self.communicators)

    def run(self, call: Callable[[int], None]) -> None:
        """``call`` of every rank, each on its stream."""
        torch.cuda.synchronize()
        for rank, stream in enumerate(self.streams):
            with torch.cuda.stream(stream):
                call(rank)
        torch.cuda.synchronize()


@pytest.fixture(params=[2, 4, 6, 8])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    ranks = request.param
    signals = [
        ops.allocate_shared_buffer_and_handle(ops.meta_size() + LARGEST)[0] for _ in range(ranks)
    ]
    buffers = [ops.allocate_shared_buffer_and_handle(LARGEST)[0] for _ in range(ranks)]
    data = [torch.empty(1 << 12, dtype=torch.uint8, device="cuda") for _ in range(ranks)]
    made = [ops.init_custom_ar(signals, data[rank], rank, True) for rank in range(ranks)]
    for one in made:
        ops.register_buffer(one, buffers)
    yield Group(made, [torch.cuda.Stream() for _ in range(ranks)], buffers, data)
    torch.cuda.synchronize()
    for one in made:
        ops.dispose(one)
    for address in (*signals, *buffers):
        ops.free_shared_buffer(address)


def _sum(inputs: list[torch.Tensor]) -> torch.Tensor:
    total = inputs[0].float()
    for one in inputs[1:]:
        total = total + one.float()
    return total.to(inputs[0].dtype)


@pytest.mark.meets
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_reduce(group: Group, dtype: torch.dtype) -> None:
    generator = torch.Generator("cuda").manual_seed(group.ranks)
    size = torch.finfo(dtype).bits // 8
    for bytes_ in (16, 48, 4096, 65552, 1 << 18, (1 << 19) + 16, LARGEST):
        shape = (bytes_ // size,)
        inputs = [
            torch.randn(shape, device="cuda", dtype=torch.float32, generator=generator).to(dtype)
            for _ in range(group.ranks)
        ]
        outputs = [torch.full_like(one, float("nan")) for one in inputs]
        for _ in range(3):  # on the same memory
            group.run(
                lambda rank, given=inputs, out=outputs: ops.all_reduce(
                    group.communicators[rank], given[rank], out[rank], group.buffers[rank], LARGEST
                )
            )
            for out in outputs:
                assert torch.equal(out, _sum(inputs))


@pytest.mark.meets
def test_order_of_dimensions_may_be_any(group: Group) -> None:
    inputs = [torch.randn(8, 16, device="cuda").t() for _ in range(group.ranks)]
    outputs = [torch.empty_like(one) for one in inputs]
    group.run(
        lambda rank: ops.all_reduce(
            group.communicators[rank], inputs[rank], outputs[rank], group.buffers[rank], LARGEST
        )
    )
    assert torch.equal(outputs[0], _sum(inputs))


@pytest.mark.meets
def test_gather_and_scatter(group: Group) -> None:
    for rows in (1, 5, 200):
        inputs = [
            torch.randn(rows * group.ranks, 8, device="cuda").bfloat16() for _ in range(group.ranks)
        ]
        parts = [inputs[0].new_empty(rows, 8) for _ in inputs]
        wholes = [inputs[0].new_empty(rows * group.ranks**2, 8) for _ in inputs]

        # One collective at a time: a kernel's first launch loads it, which waits for what runs,
        # and here one thread launches all ranks.
        for op, outputs in ((ops.custom_reduce_scatter, parts), (ops.custom_all_gather, wholes)):
            group.run(
                lambda rank, op=op, given=inputs, out=outputs: op(
                    group.communicators[rank], given[rank], out[rank], group.buffers[rank], LARGEST
                )
            )
        assert torch.equal(torch.cat(parts), _sum(inputs))
        for whole in wholes:
            assert torch.equal(whole, torch.cat(inputs))


def test_bad_calls_are_refused(group: Group) -> None:
    one, address = group.communicators[0], group.buffers[0]
    x = torch.randn(64, device="cuda")

    def refused(match: str, *arguments: object) -> None:
        with pytest.raises(RuntimeError, match=match):
            ops.all_reduce(*arguments)

    refused("fa is no communicator", 12345, x, x.clone(), address, LARGEST)
    refused("want at most the buffer's 64", one, x, x.clone(), address, 64)
    refused("reg_buffer is no registered buffer", one, x, x.clone(), address + 16, LARGEST)
    refused("inp is not registered", one, x, x.clone(), 0, 0)
    refused("multiple of 16", one, x[:3], x[:3].clone(), address, LARGEST)
    refused("strides", one, x.view(8, 8).t(), x.clone().view(8, 8), address, LARGEST)
    refused("inp", one, x.int(), x.int().clone(), address, LARGEST)
    short = x.to(torch.int16)
    with pytest.raises(
        RuntimeError, match=r"^custom_all_gather: inp has a dtype that is not known"
    ):
        ops.custom_all_gather(one, short, short.repeat(group.ranks), address, LARGEST)
    with pytest.raises(RuntimeError, match="want 2, 4, 6 or 8"):
        ops.init_custom_ar([address] * 3, x.view(torch.uint8), 0, True)
    with pytest.raises(RuntimeError, match="rank is 2"):
        ops.init_custom_ar([address] * 2, x.view(torch.uint8), 2, True)
    with pytest.raises(RuntimeError, match="mem_handle"):
        ops.open_mem_handle(torch.zeros(3, dtype=torch.uint8))


class Sums:
    """What ranks exchange sums in, as the engine makes it: three areas, a state, a layout."""

    def __init__(self, ranks: int) -> None:
        area = ranks * 16384
        self.areas = [torch.full((3 * area // 4,), -0.0, device="cuda") for _ in range(ranks)]
        self.states = [torch.zeros(3, dtype=torch.int32, device="cuda") for _ in range(ranks)]
        self.layouts = [torch.tensor([0, area], device="cuda") for _ in range(ranks)]
        places = [one.data_ptr() for one in self.areas]
        self.workspaces = [
            torch.tensor(
                [0] * 2 * ranks + places + [state.data_ptr(), layout.data_ptr()], device="cuda"
            )
            for state, layout in zip(self.states, self.layouts, strict=True)
        ]


@pytest.mark.meets
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_norms_over_ranks(dtype: torch.dtype, ranks: int) -> None:
    sums, alone, eps = Sums(ranks), Sums(1), 1e-5
    streams = [torch.cuda.Stream() for _ in range(ranks)]
    rtol = {torch.float32: 2e-6, torch.bfloat16: 2**-8 * 1.02, torch.float16: 2**-11 * 1.02}[dtype]
    for tokens, q_size, k_size in ((1, 1536, 256), (33, 64, 64), (2048, 3072, 512), (5, 8, 8)):
        rows = [
            torch.randn(tokens, q_size + 2 * k_size, device="cuda").to(dtype) for _ in range(ranks)
        ]
        rows[0][0] = 0  # sums of 0 are sums
        weights = [
            [torch.randn(size, device="cuda").to(dtype) for size in (q_size, k_size)]
            for _ in range(ranks)
        ]
        # Loads the kernel and gets each stream its memory, which may wait for what runs.
        for rank, stream in enumerate(streams):
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                args = (rows[rank], *weights[rank], alone.workspaces[0], q_size, k_size)
                ops.minimax_allreduce_rms_qk(*args, 0, 1, eps)
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        for _ in range(4):  # every area
            found.clear()
            torch.cuda.synchronize()
            for rank, stream in enumerate(streams):
                with torch.cuda.stream(stream):
                    args = (rows[rank], *weights[rank], sums.workspaces[rank], q_size, k_size)
                    found.append(ops.minimax_allreduce_rms_qk(*args, rank, ranks, eps))
            torch.cuda.synchronize()
        for part, size, first in ((0, q_size, 0), (1, k_size, q_size)):
            wide = torch.stack([one[:, first : first + size].double() for one in rows])
            factor = (wide.square().mean((0, 2)) + eps).rsqrt().unsqueeze(-1)
            for rank in range(ranks):
                want = wide[rank] * factor * weights[rank][part].double()
                torch.testing.assert_close(found[rank][part].double(), want, rtol=rtol, atol=1e-6)


def test_bad_calls_of_norms_are_refused() -> None:
    sums = Sums(2)
    rows, q, k = torch.randn(4, 96), torch.randn(64), torch.randn(16)
    good = [rows.cuda(), q.cuda(), k.cuda(), sums.workspaces[0], 64, 16, 0, 2, 1e-6]
    for at, value, message in (
        (0, rows.int().cuda(), "qkv is int32"),
        (1, q.half().cuda(), "norm_weight_q is float16, want float32"),
        (3, sums.workspaces[0][:7], r"workspace has shape \[7\], want 8"),
        (4, 90, "q_size is 90 and kv_size 16, want multiples of 4 within qkv's 96 columns"),
        (6, 2, "rank is 2 of 2"),
        (0, torch.randn(2049, 96).cuda(), "qkv has 2049 tokens, want at most 2048"),
    ):
        args = [value if place == at else one for place, one in enumerate(good)]
        with pytest.raises(RuntimeError, match=f"minimax_allreduce_rms_qk: {message}"):
            ops.minimax_allreduce_rms_qk(*args)
