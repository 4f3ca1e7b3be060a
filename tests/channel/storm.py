"""Publishers that are killed at any moment, and a reader that solves in a loop.

    python tests/channel/storm.py [--publications 1000 | --together 8] [--no-locks]

Each publication is a process of its own. The reader solves through the file system and over HTTP,
where clients read the sharded index, and reads every file that it got.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import functools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from filelock._native import _unix
from rattler import Channel, Gateway, SourceConfig, solve
from rattler.platform import Subdir
from web import served

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import packages
from vllm_conda.channel import index, retire
from vllm_conda.channel.add import Source, add
from vllm_conda.channel.folder import ChannelFolder, create
from vllm_conda.channel.prune import prune
from vllm_conda.channel.rebuild import rebuild

NAMES = ("app", "tool", "lib")
GRACE_SECONDS = 20.0
PUBLISHERS = 2
# Most publications take less; so some are killed early, some late, some not at all.
_LONGEST_LIFE = 3.0


def storm(work: Path, publications: int, locks: bool = True, seed: int = 1) -> Counter[str]:
    """Publish ``publications`` times while others read; returns what happened how often.

    ``broken`` counts reads that failed, ``lost`` packages that a publication reported as added
    and the channel no longer has.
    """
    folder = create(work / "channel")
    base = [packages.Recipe("lib", "0"), packages.Recipe("app", "0", depends=["lib"])]
    made = [Source(packages.make(work / "made", recipe)) for recipe in base]
    # rattler's threads would not come along with a fork, so this process calls it only at the end.
    os.waitpid(_fork(lambda: add(folder, made)), 0)
    counts: Counter[str] = Counter()
    stop = work / "stop"
    reader = _fork(lambda: _read(folder, stop, work / "reader.json"))
    drawn = random.Random(seed)  # noqa: S311 - not for secrets
    expected: set[str] = {recipe.key for recipe in base}
    perhaps: set[str] = {recipe.key for recipe in base}
    running: dict[int, tuple[float, str, set[str]]] = {}
    started = 0
    while started < publications or running:
        while started < publications and len(running) < PUBLISHERS:
            action, keys, work_of = _draw(drawn, folder, work, started, expected - perhaps)
            kill_at = time.monotonic() + drawn.uniform(0, 2 * _LONGEST_LIFE)
            # What may go is no longer certain from the moment on where it may go.
            pruning = any(one == "prune" for _, one, _ in running.values())
            if action == "remove" or (action == "yank" and pruning):
                perhaps |= keys
            running[_fork(work_of, locks)] = (kill_at, action, keys)
            started += 1
        time.sleep(0.01)
        for pid, (kill_at, action, keys) in list(running.items()):
            if time.monotonic() > kill_at:
                os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            del running[pid]
            if os.WIFSIGNALED(status):
                counts["killed"] += 1
                continue
            counts["published" if status == 0 else "failed"] += 1
            if status == 0 and action == "add":
                expected |= keys
    stop.touch()
    os.waitpid(reader, 0)
    counts.update(json.loads((work / "reader.json").read_text()))
    rebuild(folder)
    held = {one.key: one for one in folder.packages()}
    lost = expected - perhaps - held.keys()
    counts["lost"] = len(lost)
    counts["certain"] = len(expected - perhaps)
    for key in sorted(lost):
        print(f"lost: {key}", file=sys.stderr, flush=True)
    offered = [one for one in held.values() if not one.yanked]
    counts["stale"] = len(index.stale(folder.path, offered, ["noarch"]))
    for one in held.values():
        if sha256(folder.package_path(one).read_bytes()).hexdigest() != one.sha256:
            counts["damaged"] += 1
    counts["left"] = len(list((folder.state / "incoming").iterdir()))
    return counts


def together(work: Path, publishers: int, locks: bool = True) -> Counter[str]:
    """Publish at once from several processes; all that end well have to be in the index then."""
    folder = create(work / "channel")
    recipes = [packages.Recipe(f"app{number}") for number in range(publishers)]
    made = [[Source(packages.make(work / "made", recipe))] for recipe in recipes]
    running = [_fork(functools.partial(add, folder, one), locks) for one in made]
    codes = [os.waitpid(pid, 0)[1] for pid in running]
    rows = json.loads((folder.path / "noarch" / "repodata.json").read_text())["packages.conda"]
    held = folder.packages()
    return Counter(
        published=codes.count(0),
        failed=len(codes) - codes.count(0),
        lost=len({recipe.file_name for recipe in recipes} - rows.keys()),
        stale=len(index.stale(folder.path, held, ["noarch"])),
    )


def _draw(
    drawn: random.Random, folder: ChannelFolder, work: Path, number: int, certain: set[str]
) -> tuple[str, set[str], Callable[[], object]]:
    """The next publication: what it does, to which packages, and the work itself."""
    action = drawn.choices(("add", "yank", "undo", "remove", "prune"), (24, 6, 4, 4, 3))[0]
    # The first ones stay: the reader's request has to have an answer.
    mine = sorted(certain)
    if action != "add" and len(mine) < 4:
        action = "add"
    if action == "add":
        recipes = [
            packages.Recipe(drawn.choice(NAMES), f"{number + 1}.{part}", depends=["lib"] * part)
            for part in range(drawn.choice((1, 1, 2)))
        ]
        made = [Source(packages.make(work / "made", recipe)) for recipe in recipes]
        return action, {recipe.key for recipe in recipes}, lambda: add(folder, made)
    if action == "prune":
        lock = work / f"lock-{number}.txt"
        lines = [f"{folder.url}/{key}" for key in mine]
        lock.write_text("\n".join(["@EXPLICIT", *lines]) + "\n")
        return action, set(), lambda: prune(folder, 5, [lock], GRACE_SECONDS)
    keys = drawn.sample(mine, 2)
    if action == "yank":
        return action, set(keys), lambda: retire.yank(folder, keys, "drawn")
    if action == "undo":
        return action, set(), lambda: retire.offer_again(folder, keys)
    return action, set(keys), lambda: retire.remove(folder, keys, "drawn", GRACE_SECONDS)


def _fork(work: Callable[[], object], locks: bool = True) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if not locks:
            _without_locks()
        work()
        code = 0
    except BaseException as error:
        if not str(error).startswith(("Others publish",)):
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _without_locks() -> None:
    """As a file system that has none."""

    def refuse(*_: object) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    _unix.lock_fd_nonblocking = refuse  # type: ignore[assignment]


def _read(folder: ChannelFolder, stop: Path, result: Path) -> None:
    """Solve and fetch until ``stop`` is there."""
    counts: Counter[str] = Counter(reads=0, broken=0)
    with served(folder.path) as http:
        while not stop.exists():
            for address in (folder.url, http):
                counts["reads"] += 1
                try:
                    counts["files"] += asyncio.run(_solve_and_fetch(address))
                except Exception as error:
                    counts["broken"] += 1
                    print(f"broken read of {address}: {error!r}", file=sys.stderr, flush=True)
    result.write_text(json.dumps(counts))


async def _solve_and_fetch(address: str) -> int:
    with tempfile.TemporaryDirectory() as cache:
        sharded = SourceConfig(sharded_enabled=True)
        gateway = Gateway(cache_dir=cache, default_config=sharded)
        records = await solve(
            [Channel(address)], ["app", "lib"], gateway=gateway, platforms=[Subdir("noarch")]
        )
    assert {record.name.normalized for record in records} == {"app", "lib"}
    for record in records:
        with urllib.request.urlopen(record.url) as stream:  # noqa: S310
            assert record.sha256 is not None
            assert sha256(stream.read()).digest() == record.sha256, record.url
    return len(records)


def main() -> int:
    """Run it and print the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--publications", type=int, default=1000)
    parser.add_argument("--together", type=int)
    parser.add_argument("--no-locks", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="storm-"))
    started = time.monotonic()
    if options.together:
        counts = together(work, options.together, not options.no_locks)
    else:
        counts = storm(work, options.publications, not options.no_locks, options.seed)
    number = options.together or options.publications
    print(f"{number} publications in {time.monotonic() - started:.0f} s:", *(
        f"{name}={count}" for name, count in sorted(counts.items())
    ))  # fmt: skip
    shutil.rmtree(work)
    return 1 if any(counts[name] for name in ("broken", "lost", "stale", "damaged")) else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
