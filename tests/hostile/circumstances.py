"""How a condition is declared, and a command run under it."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import support

NOBODY = 65534
# Root without what lets it pass permissions by: another's file is another's file.
NO_OVERRIDE = "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown"
# Another user, who may read all (the interpreter may lie in a closed home) and write nothing.
_READER = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip


@dataclass
class Case:
    """What a condition changes of one try.

    Attributes:
        world: The try's own copy; a prepared fault lies in it.
        environment: Of the command.
        before: A program in front of it, such as ``setpriv``.
        redirect: In a shell's words.
        cwd: Where it runs.
        undo: Called after the try.
    """

    world: Path
    environment: dict[str, str]
    before: list[str] = field(default_factory=list)
    redirect: str = ""
    cwd: Path = Path()
    undo: list[Callable[[], object]] = field(default_factory=list)

    def unset(self, *names: str) -> None:
        for name in names:
            self.environment.pop(name, None)


@dataclass(frozen=True)
class Condition:
    """One circumstance.

    Attributes:
        works: The command's answer is the same as ever.
        root: Only root can make it.
    """

    apply: Callable[[Case], None]
    works: bool = True
    root: bool = False


CONDITIONS: dict[str, Condition] = {}


def variables(name: str, works: bool = True, **values: str | None) -> None:
    """A condition of variables alone; None unsets one."""

    def apply(case: Case) -> None:
        for key, value in values.items():
            if value is None:
                case.unset(key)
            else:
                case.environment[key] = value.replace("{world}", str(case.world))

    CONDITIONS[name] = Condition(apply, works)


def condition(
    works: bool = True, root: bool = False
) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    def add(apply: Callable[[Case], None]) -> Callable[[Case], None]:
        CONDITIONS[apply.__name__] = Condition(apply, works, root)
        return apply

    return add


def streams(name: str, redirect: str, works: bool = True) -> None:
    def apply(case: Case) -> None:
        case.redirect = redirect

    CONDITIONS[name] = Condition(apply, works)


def limited(name: str, *options: str, root: bool = False) -> None:
    """A condition of `prlimit`, which ends in a sentence where it is too little."""

    def apply(case: Case) -> None:
        case.before = ["prlimit", *options]
        if root:  # root itself has no limit of processes
            as_another_user(case)
            case.before = [*case.before, "prlimit", *options]

    CONDITIONS[name] = Condition(apply, works=False, root=root)


def as_another_user(case: Case) -> None:
    case.before = list(_READER)


def owned(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def full(case: Case, name: str) -> Path:
    """A file system of 256 KiB with nothing free."""
    folder = case.world / name
    folder.mkdir()
    options = "size=256k,mode=1777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    case.undo.append(lambda: subprocess.run(["umount", "-l", folder], check=True))
    with (folder / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            return folder


def run(case: Case, words: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """The command under its condition."""
    command = [*case.before, *words]
    script = f"{shlex.join(command)} {case.redirect}"
    return subprocess.run(
        ["/bin/bash", "-c", script],
        env=case.environment,
        cwd=case.cwd,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        preexec_fn=support.default_signals,
    )
