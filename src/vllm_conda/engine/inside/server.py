"""Starts `vllm serve` on a small model and talks to it with the OpenAI client over loopback.

Runs in the engine's environment: `python server.py MODEL --models DIR --result FILE`. Completion
and chat requests, whole and streamed, one by one, then many of all kinds at once; the tokens of
each are compared with transformers.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import program

LOOPBACK = "127.0.0.1"
SERVED_NAME = "small"
PROMPT = "the quick brown fox"
TOKENS = 16
MODEL_LENGTH = 512
# Compiling is most of it, on a busy machine minutes.
START_SECONDS = 1200.0
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": TOKENS}
# They draw repetitions in: an answer without any would not change under penalties against them.
PENALTIES = {"repetition": 0.6, "presence": -1.2, "frequency": 0.3}
KINDS = ("completion", "completion_stream", "chat", "chat_stream")
# Token identifiers with the text, and no stop at the text's end: what is compared.
EXTRA: dict[str, Any] = {"ignore_eos": True, "return_token_ids": True}


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        address: Where it listens.
        process: Its process, which leads a session of its own.
    """

    address: str
    process: int


def server_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of a program that starts a server."""
    program.engine_arguments(parser, "float32")
    parser.add_argument("--log", type=Path, required=True)


@contextmanager
def serving(path: Path, options: argparse.Namespace, more: Sequence[str] = ()) -> Iterator[Server]:
    """A running server, with ``more`` on its command line; it is stopped at the end."""
    # A terminated program stops its server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("vllm")), "serve", str(path), "--host", LOOPBACK,
        "--port", str(port), "--dtype", options.dtype, "--max-model-len", str(MODEL_LENGTH),
        "--max-num-seqs", "64", "--served-model-name", SERVED_NAME,
        *(["--enforce-eager"] if options.eager else []), *more,
    ]  # fmt: skip
    for name, value in program.memory(options.device).items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    log = options.log
    address = f"http://{LOOPBACK}:{port}"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait(process, address, log)
            yield Server(address, process.pid)
        finally:
            _stop(process)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):  # noqa: S310 - loopback
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                lines = log.read_text(errors="replace").splitlines()[-20:]
                raise SystemExit("vllm serve did not start:\n" + "\n".join(lines)) from None
        time.sleep(0.5)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the workers in its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(30)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def words(count: int) -> list[str]:
    """Different prompts of different lengths."""
    draw = random.Random(11)  # noqa: S311 - test data
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        " ".join(
            "".join(draw.choices(letters, k=draw.randrange(2, 8)))
            for _ in range(draw.randrange(2, 24))
        )
        for _ in range(count)
    ]


class Client:
    """Requests to the server, and what transformers says to each."""

    def __init__(self, address: str, path: Path, options: argparse.Namespace) -> None:
        import openai
        import transformers
        from reference import Reference, tolerance

        self.client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", timeout=300)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        self.reference = Reference(path, options.dtype, options.device)
        self.allowed = tolerance(options.dtype, False, options.device)

    async def completion(self, prompt: str) -> tuple[str, list[int]]:
        """Text and tokens of a completion."""
        found = await self.client.completions.create(
            model=SERVED_NAME, prompt=prompt, extra_body=EXTRA, **GREEDY
        )
        return found.choices[0].text, list(found.choices[0].token_ids)

    async def penalised(self, prompt: str) -> list[int]:
        """Tokens of a completion with penalties."""
        extra = {**EXTRA, "repetition_penalty": PENALTIES["repetition"]}
        found = await self.client.completions.create(
            model=SERVED_NAME,
            prompt=prompt,
            presence_penalty=PENALTIES["presence"],
            frequency_penalty=PENALTIES["frequency"],
            extra_body=extra,
            **GREEDY,
        )
        return list(found.choices[0].token_ids)

    async def completion_stream(self, prompt: str) -> tuple[str, list[int]]:
        """The same in pieces, joined."""
        pieces = await self.client.completions.create(
            model=SERVED_NAME, prompt=prompt, stream=True, extra_body=EXTRA, **GREEDY
        )
        choices = [piece.choices[0] async for piece in pieces if piece.choices]
        return "".join(choice.text for choice in choices), _joined(choices)

    async def chat(self, content: str) -> tuple[str, list[int]]:
        """Text and tokens of a chat's answer."""
        found = await self.client.chat.completions.create(
            model=SERVED_NAME,
            messages=[{"role": "user", "content": content}],
            extra_body=EXTRA,
            **GREEDY,
        )
        return found.choices[0].message.content, list(found.choices[0].token_ids)

    async def chat_stream(self, content: str) -> tuple[str, list[int]]:
        """The same answer in pieces, joined."""
        pieces = await self.client.chat.completions.create(
            model=SERVED_NAME,
            messages=[{"role": "user", "content": content}],
            stream=True,
            extra_body=EXTRA,
            **GREEDY,
        )
        choices = [piece.choices[0] async for piece in pieces if piece.choices]
        text = "".join(choice.delta.content or "" for choice in choices)
        return text, _joined(choices)

    async def ask(self, kind: str, content: str) -> tuple[str, list[int]]:
        """A request of one of :data:`KINDS`."""
        answer: tuple[str, list[int]] = await getattr(self, kind)(content)
        return answer

    def wrong(self, kind: str, content: str, tokens: list[int], penalties: Any = None) -> bool:
        """Whether an answer's tokens are not transformers': in 16 bits, not near its choice."""
        from reference import Verdict

        ids = self.chat_ids(content) if kind.startswith("chat") else self.ids(content)
        if self.allowed.exact or len(tokens) != TOKENS:
            return tokens != self.reference.continuation(ids, TOKENS, penalties)
        verdict = Verdict()
        self.reference.judge(verdict, self.allowed, ids, tokens, penalties=penalties)
        return verdict.misses > 0

    def ids(self, prompt: str) -> list[int]:
        """A completion's prompt as the model reads it."""
        return list(self.tokenizer(prompt).input_ids)

    def chat_ids(self, content: str) -> list[int]:
        """The same of a chat."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def penalties_right(self, tokens: list[int]) -> bool:
        """Whether a penalised completion is; penalties that change nothing would prove nothing."""
        from reference import Penalties

        penalties, ids = Penalties(**PENALTIES), self.ids(PROMPT)
        plain, changed = (
            self.reference.continuation(ids, TOKENS, one) for one in (None, penalties)
        )
        return plain != changed and not self.wrong("completion", PROMPT, tokens, penalties)


def _joined(choices: Sequence[Any]) -> list[int]:
    # A piece that only opens or ends an answer has none.
    return [token for choice in choices for token in getattr(choice, "token_ids", None) or ()]


@dataclass(frozen=True)
class Answers:
    """What the server said: text and tokens by kind, tokens under penalties, all kinds at once."""

    single: dict[str, tuple[str, list[int]]]
    penalised: list[int]
    concurrent: list[tuple[str, list[int]]]
    concurrent_seconds: float


def kinds(many: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each of ``many`` as a request of another kind than the one before."""
    return zip(itertools.cycle(KINDS), many, strict=False)


async def converse(client: Client, many: Sequence[str]) -> Answers:
    """Every kind of request, then ``many`` at once."""
    single = {kind: await client.ask(kind, PROMPT) for kind in KINDS}
    penalised = await client.penalised(PROMPT)
    started = time.monotonic()
    found = await asyncio.gather(*(client.ask(kind, one) for kind, one in kinds(many)))
    return Answers(single, penalised, list(found), time.monotonic() - started)


def compare(client: Client, many: Sequence[str], answers: Answers) -> dict[str, Any]:
    """Which answers are right."""
    found = {kind: not client.wrong(kind, PROMPT, answers.single[kind][1]) for kind in KINDS}
    for kind in ("completion", "chat"):
        found[f"{kind}_stream"] &= answers.single[f"{kind}_stream"][0] == answers.single[kind][0]
    found["penalties"] = client.penalties_right(answers.penalised)
    wrong = sum(
        client.wrong(kind, one, tokens)
        for (kind, one), (_, tokens) in zip(kinds(many), answers.concurrent, strict=True)
    )
    return {
        **found,
        "concurrent_requests": len(many),
        "concurrent_wrong": wrong,
        "concurrent_seconds": round(answers.concurrent_seconds, 2),
        "right": all(found.values()) and wrong <= client.allowed.outliers * len(many),
    }


def main() -> None:
    parser = program.parser(__doc__)
    server_arguments(parser)
    parser.add_argument("--concurrent", type=int, default=64)
    options = parser.parse_args()
    surroundings = program.surroundings(options.device)
    from models import make

    path = make(options.model, options.models)
    started = time.monotonic()
    with serving(path, options) as server:
        start_seconds = time.monotonic() - started
        client = Client(server.address, path, options)
        many = words(options.concurrent)
        answers = asyncio.run(converse(client, many))
    # The server has gone: transformers has the cores to itself.
    row = {
        "model": options.model,
        "dtype": options.dtype,
        "mode": "serve",
        **surroundings,
        "start_seconds": round(start_seconds, 1),
        **compare(client, many, answers),
    }
    program.write(options.result, [row])


if __name__ == "__main__":
    main()
