"""Every block shape, number of stages and number of blocks of the 4-bit product, side by side.

For tuning: what `bench_wna16.py` times is the op's own choice, "ours" here.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.cuda.wna16_weights import Layer
from benchmarks.harness import Call, Case, load, main
from vllm_kernels import engine_api

K, N = 8192, 8192
TOKENS = (1, 8, 16, 32, 64, 256)
FREE = -1


def _force(*choice: int) -> int:
    """Of all following launches; returns how many block shapes there are."""
    library = engine_api.find_library(engine_api.cuda_library("wna16"))
    if library is None:
        raise SystemExit("sweep_wna16: libvllm_kernels_cuda_wna16.so is not installed.")
    return int(ctypes.CDLL(str(library)).vk_cuda_marlin_force(*choice))


def _calls(m: int) -> dict[str, Call]:
    product = Layer("u4b8", K, N).product(m)
    multiprocessors = torch.cuda.get_device_properties().multi_processor_count
    few = load(m) == "decode"
    choices = itertools.product(
        range(_force(FREE, FREE, FREE, FREE)),
        (3, 4, 6) if few else (FREE,),
        (multiprocessors, 2 * multiprocessors) if few else (FREE,),
        (-2, 0, 4, 8) if few else (FREE,),
    )

    def forced(choice: tuple[int, ...]) -> Call:
        def call() -> object:
            _force(*choice)
            try:
                return product()
            finally:
                _force(FREE, FREE, FREE, FREE)

        return call

    names = "shape {}, {} stages, {} blocks, prefetch {}"
    return {"ours": product, **{names.format(*choice): forced(choice) for choice in choices}}


def cases() -> Iterator[Case]:
    for m in TOKENS:
        yield Case(
            "marlin_gemm", {"m": m, "k": K, "n": N}, "u4b8", partial(_calls, m), load(m),
            bytes_moved=Layer("u4b8", K, N).traffic(m), flops=2 * m * N * K,
        )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main("cuda", "wna16_sweep", cases))
