"""The engine's part of the page of figures, from benchmarks/results/engine.json."""

from __future__ import annotations

from typing import Any

PEERS = {"reference": "PyTorch reference ops", "upstream": "upstream's CPU build"}


def section(document: dict[str, Any]) -> str:
    """One row a shape and contender, with the ratio of our decode throughput to its own."""
    machine = document["machine"]
    threads = sorted({str(shape["threads"]) for shape in document["shapes"].values()})
    text = (
        f"\n## The engine\n\n{machine['cpu']}, {', '.join(threads)} threads for the model, tier "
        f"{machine['tier']}, torch {machine['torch']}, {document['model']} in bfloat16 with random "
        "weights (`benchmarks/bench_engine.py`). Shapes are batch x prompt; decode: while every "
        "request decodes; ratio: our decode throughput over the contender's. The bound is the time "
        "in which a step's weights, keys and values can be read at the bandwidth measured in the "
        "same run: no engine with this many threads decodes faster, and with the contender as "
        "measured no ratio to it can be larger than the last column.\n\n"
        "| shape | on | tokens/s | decode, tokens/s | first token, ms | between tokens, ms | ratio "
        "| bound, ms | largest possible ratio |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    )
    for name, shape in document["shapes"].items():
        contenders = shape["contenders"]
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
