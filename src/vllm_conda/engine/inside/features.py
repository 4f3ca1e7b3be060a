"""Runs the engine with a feature switched on, as a user does, and checks what it gives.

Runs in the engine's environment: `python features.py MODEL --models DIR --result FILE --run
prefix_caching`. Answers are compared with transformers (a constrained one with its constraint), in
float32 on a CPU, and a feature has to show that it was at work: tokens taken from the cache, drafts
accepted, beams in order.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import program
import torch
from configurations import CLASSIFIER, MODELS
from draws import drawn_tokens
from feature_run import TOKENS, Found, Run
from ranks import two_ranks


def _counted(llm: Any, name: str) -> int:
    """One of the engine's counters."""
    values = [one.value for one in llm.get_metrics() if one.name in (f"vllm:{name}", name)]
    return int(sum(values))


def _difference(found: Sequence[float], expected: torch.Tensor) -> float:
    return float((expected - torch.tensor(found)).abs().max())


def prefix_caching(run: Run) -> Found:
    """Prompts with a common start read it from the cache."""
    shared = run.prompt(300)
    prompts = [[*shared, *run.prompt(length, length)] for length in (40, 7, 1)]
    llm = run.engine(enable_prefix_caching=True)
    run.judge(prompts[:1], run.generate(llm, prompts[:1]))
    answers = run.generate(llm, prompts)
    run.judge(prompts, answers)
    cached = [answer.num_cached_tokens for answer in answers]
    # With sliding windows, later engines keep the windows that end a prompt or a segment:
    # another prompt may part from it at a place with none.
    others = max if "sliding_window" in MODELS[run.model].settings else min
    return {"cached_tokens": cached, "right": min(cached[0], others(cached[1:])) >= 128}


def chunked_prefill(run: Run) -> Found:
    """Prompts longer than what one step may take, beside others that are decoding."""
    step = 64
    llm = run.engine(enable_chunked_prefill=True, max_num_batched_tokens=step)
    prompts = [run.prompt(length, length) for length in (5, 300, 129, 63, 400)]
    run.judge(prompts, run.generate(llm, prompts))
    settings = llm.llm_engine.vllm_config.scheduler_config
    chunked = settings.enable_chunked_prefill and settings.max_num_batched_tokens == step
    return {"tokens_a_step": step, "right": chunked}


def tensor_parallel(run: Run) -> Found:
    """Two ranks of one machine: CPUs add up in shared memory, GPUs in each other's or by NCCL."""
    return two_ranks(run, eager=True)


def tensor_parallel_graphs(run: Run) -> Found:
    """The same in the engine's default mode, with sums in CUDA graphs."""
    return two_ranks(run, eager=False)


def _drafted(run: Run, settings: Mapping[str, Any]) -> Found:
    llm = run.engine(speculative_config=dict(settings))
    text = run.prompt(20)
    prompts = [text * 6, run.prompt(90, 3), text * 2]
    run.judge(prompts, run.generate(llm, prompts, tokens=64))
    drafts = _counted(llm, "spec_decode_num_draft_tokens")
    accepted = _counted(llm, "spec_decode_num_accepted_tokens")
    return {"drafted": drafts, "accepted": accepted, "right": accepted > 0}


def ngram(run: Run) -> Found:
    """Speculative decoding with drafts from the text so far."""
    return _drafted(
        run,
        {
            "method": "ngram",
            "num_speculative_tokens": 3,
            "prompt_lookup_max": 3,
            "prompt_lookup_min": 1,
        },
    )


def draft_model(run: Run) -> Found:
    """Speculative decoding with drafts of a second model, near enough that some are accepted."""
    from adapters import make_draft

    draft = make_draft(run.path, run.path.with_name(f"{run.model}-draft"))
    found = _drafted(
        run,
        {
            "method": "draft_model",
            "model": str(draft),
            "num_speculative_tokens": 3,
        },
    )
    # Were all accepted, nothing would show that a wrong one is put right.
    return {**found, "right": found["right"] and found["accepted"] < found["drafted"]}


def vision(run: Run) -> Found:
    """A picture in the prompt, and prompts with another one and with none beside it."""
    from pictures import PictureReference, picture

    text = run.prompt(40)
    # One of several windows, one of less than one.
    asked = [picture(run.path, text, *one) for one in ((1, (336, 224)), (2, (84, 112)))]
    plain = run.prompt(33, 3)
    llm = run.engine(limit_mm_per_prompt={"image": 1})
    requests = [*(one.request() for one in asked), {"prompt_token_ids": plain}]
    answers = run.ask(llm, requests)
    for one, answer in zip(asked, answers, strict=False):
        seen = PictureReference(run.path, run.options.dtype, run.options.device, one)
        run.judge([one.tokens], [answer], seen)
    blind = PictureReference(run.path, run.options.dtype, run.options.device)
    run.judge([plain], answers[2:], blind)
    # Pictures that change nothing would prove nothing.
    first, second = (list(answer.outputs[0].token_ids) for answer in answers[:2])
    return {"pictures": len(asked), "right": first != second}


def lora(run: Run) -> Found:
    """An adapter for some requests of a batch, against the model with the adapter merged in."""
    from adapters import make_adapter, make_merged
    from reference import Reference
    from vllm.lora.request import LoRARequest

    adapter = make_adapter(run.path, run.path.with_name(f"{run.model}-adapter"))
    merged = make_merged(run.path, adapter, run.path.with_name(f"{run.model}-merged"))
    llm = run.engine(enable_lora=True, max_lora_rank=8, max_loras=1)
    prompts = [run.prompt(length, length) for length in (33, 100, 17, 64)]
    asked = [None, LoRARequest("small", 1, str(adapter))] * 2
    answers = run.generate(llm, prompts, lora_request=asked)
    run.judge(prompts[::2], answers[::2])
    adapted = Reference(merged, run.options.dtype, run.options.device)
    run.judge(prompts[1::2], answers[1::2], adapted)
    # An adapter that changes nothing would prove nothing.
    changed = sum(
        adapted.continuation(prompt, TOKENS) != run.reference.continuation(prompt, TOKENS)
        for prompt in prompts[1::2]
    )
    return {"changed_by_adapter": changed, "right": changed == len(prompts[1::2])}


def structured(run: Run) -> Found:
    """Answers out of a choice, by a regular expression, by a JSON schema."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    choice = ["red", "green", "blue"]
    schema = {
        "type": "object",
        "properties": {"digit": {"enum": [1, 2, 3]}, "letter": {"enum": ["x", "y"]}},
        "required": ["digit", "letter"],
        "additionalProperties": False,
    }
    wanted: dict[str, tuple[dict[str, Any], Callable[[str], bool]]] = {
        "choice": ({"choice": choice}, choice.__contains__),
        "regex": ({"regex": "[0-9]{4}"}, lambda text: bool(re.fullmatch("[0-9]{4}", text))),
        "json": (
            {"json": schema},
            lambda text: set(json.loads(text)) == {"digit", "letter"},
        ),
    }
    # A model with random weights would fill its answer with spaces.
    llm = run.engine(
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True}
    )
    sampling = [
        SamplingParams(
            temperature=0,
            max_tokens=60,
            structured_outputs=StructuredOutputsParams(**arguments),
        )
        for arguments, _ in wanted.values()
    ]
    said = [answer.outputs[0].text for answer in llm.generate(["say "] * 3, sampling)]
    checks = [check for _, check in wanted.values()]
    right = all(check(text) for check, text in zip(checks, said, strict=True))
    return {"said": ", ".join(said), "right": right}


def sampling(run: Run) -> Found:
    """Tokens drawn by top-k and top-p, as often as transformers' probabilities say."""
    return drawn_tokens(run)


def logprobs(run: Run) -> Found:
    """Log-probabilities of the prompt, and of the five best tokens of every step."""
    llm = run.engine()
    prompts = [run.prompt(length, length) for length in (20, 131)]
    answers = run.generate(llm, prompts, logprobs=5, prompt_logprobs=1)
    run.judge(prompts, answers)
    differences = []
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = run.reference.log_probabilities(prompt[:1], prompt[1:])
        for row, entry, token in zip(expected, answer.prompt_logprobs[1:], prompt[1:], strict=True):
            differences.append(abs(float(row[token]) - entry[token].logprob))
        output = answer.outputs[0]
        steps = run.reference.log_probabilities(prompt, output.token_ids)
        for row, entry in zip(steps, output.logprobs, strict=True):
            found = sorted((one.logprob for one in entry.values()), reverse=True)[:5]
            differences.append(_difference(found, row.topk(5).values))
    return run.close(differences)


def beams(run: Run) -> Found:
    """Beam search, against the same search over transformers' probabilities."""
    from vllm.sampling_params import BeamSearchParams

    width, tokens = 3, 8
    prompt = run.prompt(40)
    llm = run.engine()
    settings = BeamSearchParams(beam_width=width, max_tokens=tokens, ignore_eos=True)
    (answer,) = llm.beam_search([{"prompt_token_ids": prompt}], settings)
    found = [tuple(one.tokens[len(prompt) :]) for one in answer.sequences]
    kept: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _ in range(tokens):
        grown = []
        for score, text in kept:
            row = run.reference.log_probabilities([*prompt, *text], [0])[0]
            best = row.topk(2 * width)
            grown += [
                (score + float(value), (*text, int(token)))
                for value, token in zip(best.values, best.indices, strict=True)
            ]
        kept = sorted(grown, reverse=True)[:width]
    same = sum(one == text for one, (_, text) in zip(found, kept, strict=True))
    if run.allowed.exact:
        return {"beams": len(found), "the_same": same, "right": same == width}
    # Rounding decides between texts of nearly one score: the scores have to be the same.
    scores = [
        float(
            run.reference.log_probabilities(prompt, text)[
                torch.arange(tokens), torch.tensor(text)
            ].sum()
        )
        for text in found
    ]
    near = run.close(
        (abs(score - best) for score, (best, _) in zip(scores, kept, strict=True)), tokens**0.5
    )
    return {"beams": len(found), "the_same": same, **near}


def embedding(run: Run) -> Found:
    """The last token's hidden state, normalised."""
    prompts = [run.prompt(length, length) for length in (5, 130, 64)]
    llm = run.engine(runner="pooling", convert="embed")
    answers = llm.embed([{"prompt_token_ids": prompt} for prompt in prompts], use_tqdm=False)
    plain = run.plain("AutoModel")
    differences = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            state = plain(torch.tensor([prompt])).last_hidden_state[0, -1].float()
        expected = torch.nn.functional.normalize(state, dim=0)
        differences.append(_difference(answer.outputs.embedding, expected))
    return run.close(differences)


def _classes(run: Run, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """What transformers' classifier says to each prompt, before a softmax or sigmoid."""
    plain = run.plain(CLASSIFIER)
    with torch.no_grad():
        return [plain(torch.tensor([list(prompt)])).logits[0].float() for prompt in prompts]


def classify(run: Run) -> Found:
    """Classes of prompts."""
    prompts = [run.prompt(length, length) for length in (5, 130, 64)]
    llm = run.engine(runner="pooling")
    answers = llm.classify([{"prompt_token_ids": prompt} for prompt in prompts], use_tqdm=False)
    return run.close(
        _difference(answer.outputs.probs, torch.softmax(classes, dim=0))
        for classes, answer in zip(_classes(run, prompts), answers, strict=True)
    )


def rerank(run: Run) -> Found:
    """Documents by their score for a query."""
    llm = run.engine(runner="pooling")
    query, documents = "the quick brown fox", ["a lazy dog", "jumps over", "the end of all things"]
    answers = llm.score(query, documents, use_tqdm=False)
    found = [answer.outputs.score for answer in answers]
    tokenizer = llm.get_tokenizer()
    prompts = [tokenizer(query, text_pair=one).input_ids for one in documents]
    expected = [float(torch.sigmoid(classes)[0]) for classes in _classes(run, prompts)]
    near = run.close(abs(a - b) for a, b in zip(found, expected, strict=True))
    # Documents of nearly one score would prove nothing.
    clear = max(expected) - min(expected) > 4 * near["worst_difference"]
    places = range(len(documents))
    order = sorted(places, key=found.__getitem__) == sorted(places, key=expected.__getitem__)
    return {**near, "right": near["right"] and clear and order}


def long_context(run: Run) -> Found:
    """A prompt beyond 32k tokens, in chunks, beside a short one."""
    prompts = [run.prompt(33_000), run.prompt(50, 5)]
    llm = run.engine(max_model_len=34_000, max_num_batched_tokens=4096)
    run.judge(prompts, run.generate(llm, prompts, tokens=8))
    return {"longest": len(prompts[0]), "right": True}


CHECKS: Mapping[str, Callable[[Run], Found]] = {
    check.__name__: check
    for check in (
        prefix_caching,
        chunked_prefill,
        tensor_parallel,
        tensor_parallel_graphs,
        ngram,
        draft_model,
        vision,
        lora,
        structured,
        sampling,
        logprobs,
        beams,
        embedding,
        classify,
        rerank,
        long_context,
    )
}


def run_feature(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row on one feature; what the engine raises is its failure."""
    from models import make

    run = Run(options.model, make(options.model, options.models), options)
    row: dict[str, Any] = {"model": options.model, "dtype": options.dtype, "mode": name}
    try:
        found = dict(CHECKS[name](run))
    except Exception as error:
        traceback.print_exc()
        program.forget_engine()
        return {**row, "right": False, "failure": program.failure(error)}
    finally:
        run.close_engines()
    verdict = run.verdict
    right = found.pop("right") and verdict.right(run.allowed)
    tokens = {"tokens": verdict.tokens, "chosen": verdict.chosen, "misses": verdict.misses}
    return {**row, "right": right, "seen": {**found, **(tokens if verdict.tokens else {})}}


def main() -> None:
    arguments = program.parser(__doc__)
    arguments.add_argument("--dtype", default="float32")
    arguments.add_argument(
        "--run", action="append", required=True, choices=CHECKS, help="may be repeated"
    )
    options = arguments.parse_args()
    surroundings = program.surroundings(options.device)
    # A separate process for the engine's core would cost each feature a third of its time.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    program.inspect_models_here()
    rows = []
    for name in options.run:
        rows.append({**run_feature(name, options), **surroundings})
        program.write(options.result, rows)


if __name__ == "__main__":
    main()
