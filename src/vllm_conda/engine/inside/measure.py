"""Measures one engine on one model: throughput, time to first token, time between tokens.

Runs in the engine's environment: `python measure.py MODEL --models DIR --result FILE --shape 8x128`
(batch x prompt length). Weights and prompts are random, every request gives the same number of
tokens. One warm-up round, then the rounds that count; all times in seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import program


def one_round(engine: Any, prompts: list[list[int]], sampling: Any, tag: str) -> dict[str, float]:
    """Submit all prompts at once and follow every token."""
    started = time.perf_counter()
    for index, prompt in enumerate(prompts):
        engine.add_request(f"{tag}-{index}", {"prompt_token_ids": prompt}, sampling)
    arrivals: dict[str, list[float]] = {}
    while engine.has_unfinished_requests():
        outputs = engine.step()
        now = time.perf_counter()
        for output in outputs:
            seen = arrivals.setdefault(output.request_id, [])
            seen += [now] * (len(output.outputs[0].token_ids) - len(seen))
    times = list(arrivals.values())
    ended = max(seen[-1] for seen in times)
    all_decoding = max(seen[0] for seen in times)
    tokens = sum(len(seen) for seen in times)
    late = sum(moment > all_decoding for seen in times for moment in seen)
    gaps = [after - before for seen in times for before, after in itertools.pairwise(seen)]
    return {
        "tokens_per_second": tokens / (ended - started),
        # While every request decodes: what a step with a full batch gives.
        "decode_tokens_per_second": late / (ended - all_decoding),
        "first_token": statistics.median(seen[0] - started for seen in times),
        "between_tokens": statistics.median(gaps),
    }


def measure(path: Path, shapes: list[tuple[int, int]], options: argparse.Namespace) -> Any:
    """Rounds by shape."""
    from vllm import LLM, SamplingParams

    longest = max(length for _, length in shapes)
    llm = LLM(
        model=str(path),
        dtype=options.dtype,
        enforce_eager=options.eager,
        max_model_len=longest + options.tokens,
        max_num_seqs=max(batch for batch, _ in shapes),
        seed=0,
        enable_prefix_caching=False,
        disable_log_stats=True,
        **program.memory(options.device),
        **json.loads(options.arguments),
    )
    draw = random.Random(3)  # noqa: S311 - test data
    sampling = SamplingParams(
        temperature=0, max_tokens=options.tokens, ignore_eos=True, detokenize=False
    )
    vocabulary = llm.llm_engine.model_config.get_vocab_size()
    found = {}
    for batch, length in shapes:
        rows = []
        for number in range(options.rounds + 1):
            prompts = [[draw.randrange(4, vocabulary) for _ in range(length)] for _ in range(batch)]
            rows.append(one_round(llm.llm_engine, prompts, sampling, f"{batch}x{length}-{number}"))
        found[f"{batch}x{length}"] = rows[1:]
    return found


def main() -> None:
    arguments = program.parser(__doc__)
    program.engine_arguments(arguments, "bfloat16")
    arguments.add_argument("--shape", action="append", required=True)
    arguments.add_argument("--tokens", type=int, default=32)
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--arguments", default="{}", help="more of the engine's, as JSON")
    options = arguments.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    program.surroundings(options.device)
    from models import make

    shapes = [(int(batch), int(length)) for batch, length in (s.split("x") for s in options.shape)]
    path = make(options.model, options.models)
    found = measure(path, shapes, options)
    program.write(options.result, found)


if __name__ == "__main__":
    main()
