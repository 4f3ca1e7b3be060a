"""Attention on a GPU: decode against copy bandwidth, prefill against PyTorch's SDPA backends.

    VLLM_KERNELS_LIBRARY_DIR=build/cuda/lib PYTHONPATH=src python benchmarks/cuda/bench_attention.py

Decode is bound by reading keys and values once: the rate is their bytes over time, and the ratio is
to a device-to-device copy (bytes read and written) of the same run. Prefill is bound by arithmetic:
4 x head_size operations a visible query-key pair and head.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

import vllm_kernels  # noqa: F401  registers the ops
from vllm_conda.paths import write_atomic

ops = torch.ops.vllm_kernels
FP8 = torch.float8_e4m3fn


def median_ms(calls: list[Callable[[], object]], repeats: int) -> float:
    """Median time in milliseconds; the calls take turns, so that none finds its data in the L2."""
    for call in calls * 3:
        call()
    torch.cuda.synchronize()
    times = []
    for repeat in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        calls[repeat % len(calls)]()
        end.record()
        end.synchronize()
        times.append(float(start.elapsed_time(end)))
    return statistics.median(times)


def copy_bandwidth(repeats: int) -> float:
    """Bytes per second of a copy of 1 GiB, read and written."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * source.numel() / median_ms([lambda: target.copy_(source)], repeats) * 1e3


def paged(
    batch: int, keys: int, kv_heads: int, head_size: int, block: int, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Random caches whose pages are in random order."""
    blocks = batch * -(-keys // block)
    shape = (blocks, block, kv_heads, head_size)
    caches = [torch.randn(shape, dtype=torch.bfloat16, device="cuda").to(dtype) for _ in range(2)]
    table = torch.randperm(blocks, device="cuda").int().view(batch, -1)
    lengths = torch.full((batch,), keys, dtype=torch.int32, device="cuda")
    return {"key": caches[0], "value": caches[1], "block_table": table, "seq_lens": lengths}


def decode_call(
    batch: int,
    keys: int,
    heads: int,
    kv_heads: int,
    head_size: int,
    block: int,
    dtype: torch.dtype,
) -> tuple[Callable[[int], object], int]:
    """The op on one batch, by number of splits, and the bytes that it must read."""
    query = torch.randn(batch, heads, head_size, dtype=torch.bfloat16, device="cuda")
    cache = paged(batch, keys, kv_heads, head_size, block, dtype)
    out = torch.empty_like(query)
    starts = torch.arange(batch + 1, dtype=torch.int32, device="cuda")

    def call(splits: int) -> None:
        ops.varlen_attention(
            out,
            query,
            cache["key"],
            cache["value"],
            starts,
            cache["seq_lens"],
            None,
            cache["block_table"],
            1,
            keys,
            head_size**-0.5,
            num_splits=splits,
        )

    return call, 2 * batch * keys * kv_heads * head_size * cache["key"].element_size()


# batch, keys, heads, kv_heads, head_size, block_size
DECODES = (
    (64, 8192, 32, 8, 128, 16),
    (64, 8192, 32, 8, 128, 64),
    (64, 8192, 8, 1, 128, 16),
    (64, 8192, 64, 8, 64, 16),
    (16, 8192, 16, 16, 128, 16),
    (8, 8192, 32, 8, 128, 16),
    (1, 32768, 32, 8, 128, 16),
    (64, 4096, 16, 8, 256, 16),
)


def decodes(quick: bool) -> Iterator[dict[str, Any]]:
    """Rows of the decode table."""
    bandwidth = copy_bandwidth(20)
    for shape in DECODES[:4] if quick else DECODES:
        for dtype in (torch.bfloat16, FP8):
            call, moved = decode_call(*shape, dtype)
            # The caches of one call exceed the L2 many times over.
            times = {
                splits: median_ms([partial(call, splits)], 10 if quick else 30)
                for splits in (1, 2, 4, 8, 16, 0)
            }
            del call
            torch.cuda.empty_cache()
            best = min(times, key=lambda splits: times[splits])
            yield {
                "kind": "decode",
                "shape": dict(
                    zip(
                        ("batch", "keys", "heads", "kv_heads", "head_size", "block_size"),
                        shape,
                        strict=True,
                    )
                ),
                "cache": str(dtype).removeprefix("torch."),
                "ms": times[0],
                "ms_by_splits": times,
                "bytes_per_s": moved / times[0] * 1e3,
                "copy_bytes_per_s": bandwidth,
                "of_copy": moved / times[0] * 1e3 / bandwidth,
                "best_splits": best,
                "of_copy_best": moved / times[best] * 1e3 / bandwidth,
            }


# tokens, requests, heads, kv_heads, head_size, causal
PREFILLS = (
    (16384, 1, 16, 16, 128, True),
    (16384, 1, 16, 16, 128, False),
    (16384, 1, 32, 8, 128, True),
    (4096, 4, 16, 16, 128, True),
    (16384, 1, 32, 32, 64, True),
    (16384, 1, 8, 8, 256, True),
    (2048, 8, 32, 8, 128, True),
)
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
}


def sdpa_ms(backend: SDPBackend, tensors: list[torch.Tensor], causal: bool) -> float | None:
    """Time of PyTorch's backend, or None where it does not take the problem."""
    query, key, value = tensors
    try:
        with sdpa_kernel(backend):
            return median_ms(
                [
                    lambda: F.scaled_dot_product_attention(
                        query,
                        key,
                        value,
                        is_causal=causal,
                        enable_gqa=key.shape[1] != query.shape[1],
                    )
                ],
                10,
            )
    except RuntimeError:
        return None


def prefill_calls(
    tokens: int, requests: int, heads: int, kv_heads: int, size: int, causal: bool
) -> tuple[dict[str, Callable[[], object]], list[torch.Tensor]]:
    """The op over packed keys and over caches of blocks of 16; query, key, value for SDPA."""
    total = tokens * requests
    query, key, value = (
        torch.randn(total, n, size, dtype=torch.bfloat16, device="cuda")
        for n in (heads, kv_heads, kv_heads)
    )
    out = torch.empty_like(query)
    starts = torch.arange(0, total + 1, tokens, dtype=torch.int32, device="cuda")
    common = (tokens, tokens, size**-0.5, causal)

    def packed() -> None:
        ops.varlen_attention(out, query, key, value, starts, None, starts, None, *common)

    def over(dtype: torch.dtype) -> Callable[[], object]:
        cache = paged(requests, tokens, kv_heads, size, 16, dtype)
        keys = (cache["key"], cache["value"], starts, cache["seq_lens"], None, cache["block_table"])
        return lambda: ops.varlen_attention(out, query, *keys, *common)

    calls = {"packed": packed, "paged": over(torch.bfloat16), "paged_fp8": over(FP8)}
    views = [
        x.view(requests, tokens, -1, size).transpose(1, 2).contiguous() for x in (query, key, value)
    ]
    return calls, views


def prefills(quick: bool) -> Iterator[dict[str, Any]]:
    """Rows of the prefill table."""
    names = ("tokens", "requests", "heads", "kv_heads", "head_size", "causal")
    for shape in PREFILLS[:3] if quick else PREFILLS:
        tokens, requests, heads, _, size, causal = shape
        calls, views = prefill_calls(*shape)
        repeats = 10 if quick else 20
        times: dict[str, float | None] = {
            name: median_ms([call], repeats) for name, call in calls.items()
        }
        for name, backend in BACKENDS.items():
            times[name] = sdpa_ms(backend, views, causal)
        pairs = tokens * (tokens + 1) / 2 if causal else tokens * tokens
        work = 4 * size * heads * requests * pairs
        yield {
            "kind": "prefill",
            "shape": dict(zip(names, shape, strict=True)),
            "ms": times,
            "tflops": {name: ms and work / ms / 1e9 for name, ms in times.items()},
        }


def _line(row: dict[str, Any]) -> str:
    shape = "x".join(str(value) for value in row["shape"].values())
    if row["kind"] == "prefill":
        rates = " ".join(f"{name} {rate or 0:.0f}" for name, rate in row["tflops"].items())
        return f"prefill {shape:28} TFLOP/s: {rates}"
    return (
        f"decode {shape:24} {row['cache']:14} {row['ms']:.3f} ms "
        f"{row['bytes_per_s'] / 1e12:.2f} TB/s = {row['of_copy']:.1%} of copy; "
        f"best splits {row['best_splits']}: {row['of_copy_best']:.1%}"
    )


def main() -> None:
    """Run, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer shapes and repeats")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for row in itertools.chain(decodes(arguments.quick), prefills(arguments.quick)):
        rows.append(row)
        print(_line(row), flush=True)
        if arguments.out:  # case by case: what was measured stays if the run is cut
            document = {"device": torch.cuda.get_device_name(), "rows": rows}
            write_atomic(arguments.out, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
