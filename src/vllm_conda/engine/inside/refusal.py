"""Asks the engine for what neither it nor the kernels have, and reports what it answered.

Runs in the engine's environment: `python refusal.py MODEL --models DIR --result FILE`, with a model
of latent attention. Right is a sentence with the model and what to do, before a process is started.
"""

from __future__ import annotations

import multiprocessing
import os

import program

# Latent attention on a CPU without expanding keys and values: engines before 0.32 have no backend.
ENVIRONMENT = {"VLLM_MLA_DISABLE": "0"}
WORDS = ("would run with latent attention", "unset VLLM_MLA_DISABLE or set it to 1")


def ask(path: str) -> str:
    """The text of the error that the engine's start ends with; empty where it starts."""
    from vllm import LLM

    try:
        LLM(model=path, dtype="bfloat16", max_model_len=128)
    except Exception as error:
        return str(error)
    return ""


def main() -> None:
    options = program.parser(__doc__).parse_args()
    surroundings = program.surroundings(options.device)
    from models import make

    path = str(make(options.model, options.models))
    os.environ.update(ENVIRONMENT)
    said = ask(path)
    started = len(multiprocessing.active_children())
    row = {
        "model": options.model,
        "mode": "refused",
        **surroundings,
        "said": said,
        "processes": started,
        "right": all(words in said for words in (path, *WORDS))
        and "Traceback" not in said
        and started == 0,
    }
    program.write(options.result, [row])


if __name__ == "__main__":
    main()
