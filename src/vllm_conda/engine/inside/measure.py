"""Measures one engine on one model: throughput, time to first token, time between tokens.

Runs in the engine's environment: `python measure.py MODEL --models DIR --result FILE --shape 8x128`
(batch x prompt length). Weights and prompts are random, every request gives the same number of
tokens. All times in seconds. A short round of each batch comes first, for code that is made on
first use.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import program

WARM_UP_LENGTH = 16
WARM_UP_TOKENS = 2
# The same for all shapes, because the engine compiles a model anew where they differ.
MODEL_LENGTH = 2304
REQUESTS = 32
MEMORY = 0.8
# How configurations call the number of experts.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


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


def step_bytes(
    path: Path, batch: int, context: int, arguments: Mapping[str, Any] = MappingProxyType({})
) -> int:
    """The least that a decoding step reads: weights once, every request's keys and values.

    Of experts those of one token. ``arguments``: of the engine, which may quantise.
    """
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if "kv_lora_rank" in config:
        width = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    else:
        width = 2 * config["num_key_value_heads"] * config["head_dim"]
    token = 2 * config["num_hidden_layers"] * width
    return int(_weight_bytes(path, config, arguments) + batch * context * token)


def _weight_bytes(path: Path, config: dict[str, Any], arguments: Mapping[str, Any]) -> float:
    files = list(path.glob("*.safetensors"))
    if not files:
        return _made_up_bytes(path, config, arguments)
    from safetensors import safe_open

    stored = 0.0
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                if "embed_tokens" not in name:  # a row a token
                    stored += tensors.get_tensor(name).nbytes
    return stored


def _made_up_bytes(path: Path, config: dict[str, Any], arguments: Mapping[str, Any]) -> float:
    """Of a model without stored weights, by its shapes."""
    import torch
    import transformers

    quantised = config.get("quantization_config")
    if quantised:  # a scale a group beside the values
        inside = quantised["bits"] / 8 + 2 / quantised["group_size"]
    else:
        inside = 1.0 if arguments.get("quantization") == "fp8" else 2.0
    plain = transformers.AutoConfig.from_pretrained(path)
    if quantised:
        del plain.quantization_config
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(plain)
    experts = next((config[k] for k in EXPERTS if config.get(k)), 1)
    share = config.get("num_experts_per_tok", 1) / experts
    found = 0.0
    for name, tensor in model.named_parameters():
        if "embed_tokens" in name:
            continue
        size = inside if ".layers." in name and tensor.dim() > 1 else 2.0
        found += tensor.numel() * size * (share if ".experts." in name else 1.0)
    return found


def measure(path: Path, shapes: list[tuple[int, int]], options: argparse.Namespace) -> Any:
    """Rounds by shape."""
    from configurations import MODELS
    from vllm import LLM, SamplingParams

    settings: dict[str, Any] = {} if options.device == "cpu" else {"gpu_memory_utilization": MEMORY}
    model = MODELS[options.model]
    if not model.weights:
        settings |= {"load_format": "dummy"}
    settings |= model.arguments
    settings |= json.loads(options.arguments)
    llm = LLM(
        model=str(path),
        dtype=options.dtype,
        enforce_eager=options.eager,
        max_model_len=MODEL_LENGTH,
        max_num_seqs=max(REQUESTS, *(batch for batch, _ in shapes)),
        seed=0,
        enable_prefix_caching=False,
        disable_log_stats=True,
        **settings,
    )
    draw = random.Random(3)  # noqa: S311 - test data
    vocabulary = llm.llm_engine.model_config.get_vocab_size()

    def rounds(batch: int, length: int, tokens: int, tag: str) -> dict[str, float]:
        prompts = [[draw.randrange(4, vocabulary) for _ in range(length)] for _ in range(batch)]
        sampling = SamplingParams(
            temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )
        return one_round(llm.llm_engine, prompts, sampling, f"{tag}-{batch}x{length}")

    for batch in {batch for batch, _ in shapes}:
        rounds(batch, WARM_UP_LENGTH, WARM_UP_TOKENS, "warm-up")
    return {
        f"{batch}x{length}": {
            "step_bytes": step_bytes(path, batch, length + options.tokens // 2, settings),
            "rounds": [
                rounds(batch, length, options.tokens, str(number))
                for number in range(options.rounds)
            ],
        }
        for batch, length in shapes
    }


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
