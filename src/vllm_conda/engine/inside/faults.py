"""Starts `vllm serve` on a small model and does to it what happens to servers.

Runs in the engine's environment: `python faults.py MODEL --models DIR --result FILE --log FILE
--run terminated`. A server that is stopped while it answers, or whose worker dies, must end and
leave no process; told to drain, it must end its answers first. `vllm bench serve` must get every
answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import program
import psutil
from server import SERVED_NAME, Server, server_arguments, serving, words

Found = Mapping[str, Any]
END_SECONDS = 60.0
# Stopped without draining, the engine sends its clients neither more tokens nor an end.
PATIENCE_SECONDS = 30.0
DRAIN_SECONDS = 60
BENCHMARK_SECONDS = 300
REQUESTS = 64
CLIENTS = 8
# Answers that are not over before the last one begins.
MODEL_LENGTH = "4096"
TOKENS = 2000


def _group(leader: int) -> list[psutil.Process]:
    """Processes of the server's session that live."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


async def _stream(client: httpx.AsyncClient, content: str) -> str:
    """How a long request ended: ``whole``, ``cut``, or with which error."""
    request = {
        "model": SERVED_NAME,
        "prompt": content,
        "stream": True,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    # Bytes as they come: a client that parses every token is slower than the server.
    last = b""
    try:
        async with client.stream("POST", "/v1/completions", json=request) as answer:
            async for piece in answer.aiter_raw():
                last = (last + piece)[-1000:]
    except httpx.HTTPError as error:
        return f"error: {error!r}"
    return "whole" if b'"finish_reason":"length"' in last else "cut"


async def _running(client: httpx.AsyncClient) -> int:
    """Requests that the engine is answering, by its own count."""
    text = (await client.get("/metrics")).text
    found = re.search(r"^vllm:num_requests_running\{.*\} ([0-9.]+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else 0


async def _disturbed(address: str, disturb: Callable[[], None]) -> tuple[list[str], float]:
    """How requests end that the engine answers when ``disturb`` is called, and in what time."""
    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE_SECONDS) as client:
        asked = [asyncio.create_task(_stream(client, content)) for content in words(CLIENTS)]
        while await _running(client) < CLIENTS:
            if over := [task.result() for task in asked if task.done()]:
                raise SystemExit(f"an answer was over before the last one began: {over[0]}")
            await asyncio.sleep(0.05)
        disturb()
        started = time.monotonic()
        return list(await asyncio.gather(*asked)), time.monotonic() - started


def _ends(leader: int) -> float | None:
    """Seconds until the server's session is empty; None where it is not."""
    started = time.monotonic()
    while _group(leader):
        if time.monotonic() - started > END_SECONDS:
            return None
        time.sleep(0.1)
    return round(time.monotonic() - started, 1)


def _disturb(served: Server, disturb: Callable[[], None]) -> dict[str, Any]:
    ends, waited = asyncio.run(_disturbed(served.address, disturb))
    seconds = _ends(served.process)
    return {
        "whole": ends.count("whole"),
        "cut": len(ends) - ends.count("whole"),
        "clients_waited": round(waited, 1),
        "ended_after": seconds,
        "right": seconds is not None,
    }


def terminated(served: Server, _: argparse.Namespace) -> Found:
    """SIGTERM to the server while it answers; it ends when its clients have gone."""
    return _disturb(served, lambda: os.kill(served.process, signal.SIGTERM))


def drained(served: Server, options: argparse.Namespace) -> Found:
    """The same with ``--shutdown-timeout``: every answer is whole."""
    found = terminated(served, options)
    return {**found, "right": found["right"] and found["whole"] == CLIENTS}


def worker_killed(served: Server, _: argparse.Namespace) -> Found:
    """SIGKILL to the process that holds the model, while it answers."""
    workers = [one for one in _group(served.process) if one.pid != served.process]
    worker = max(workers, key=lambda one: one.memory_info().rss)
    found = _disturb(served, worker.kill)
    # Nobody else has its keys and values.
    return {**found, "right": found["right"] and found["cut"] == CLIENTS}


def benchmark(served: Server, options: argparse.Namespace) -> Found:
    """`vllm bench serve` with many requests at once."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(Path(sys.executable).with_name("vllm")), "bench", "serve",
            "--base-url", served.address, "--model", SERVED_NAME,
            "--tokenizer", str(options.models / options.model),
            "--dataset-name", "random", "--random-input-len", "32", "--random-output-len", "16",
            "--num-prompts", str(REQUESTS), "--max-concurrency", str(REQUESTS), "--ignore-eos",
            "--save-result", "--result-dir", folder, "--result-filename", "result.json",
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=sys.stderr, timeout=BENCHMARK_SECONDS)
        result = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    return {
        "completed": result["completed"],
        "tokens": result["total_output_tokens"],
        "right": result["completed"] == REQUESTS and result["total_output_tokens"] == 16 * REQUESTS,
    }


CHECKS: Mapping[str, Callable[[Server, argparse.Namespace], Found]] = {
    check.__name__: check for check in (terminated, drained, worker_killed, benchmark)
}


def main() -> None:
    parser = program.parser(__doc__)
    server_arguments(parser)
    parser.add_argument("--run", action="append", required=True, choices=CHECKS)
    options = parser.parse_args()
    surroundings = program.surroundings(options.device)
    from models import make

    path = make(options.model, options.models)
    rows = []
    for name in options.run:
        arguments = ["--max-model-len", MODEL_LENGTH]
        if name == "drained":
            arguments += ["--shutdown-timeout", str(DRAIN_SECONDS)]
        with serving(path, options, arguments) as served:
            found = dict(CHECKS[name](served, options))
        row = {"model": options.model, "dtype": options.dtype, "mode": name, **surroundings}
        rows.append({**row, "right": found.pop("right"), "seen": found})
        program.write(options.result, rows)


if __name__ == "__main__":
    main()
