"""Odd circumstances for a command: of its streams, environment, limits, folders and user."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from circumstances import (
    CONDITIONS,
    NO_OVERRIDE,
    NOBODY,
    Case,
    Condition,
    as_another_user,
    condition,
    full,
    limited,
    owned,
    streams,
    variables,
)
from commands import V3

streams("stdin closed", "<&-")
streams("stdout closed", ">&-")
streams("stderr closed", "2>&-")
streams("all streams closed", "<&- >&- 2>&-")
streams("reader gone", "| head -c 0; exit ${PIPESTATUS[0]}", works=False)
streams("stderr's reader gone", "2> >(exec true)", works=False)
streams("stdout full", "> /dev/full", works=False)
streams("stderr full", "2> /dev/full", works=False)
streams("stdout and stderr full", "> /dev/full 2>&1", works=False)

variables("HOME unset", HOME=None)
variables("HOME unset, cache below it", works=False, HOME=None, VLLM_CONDA_CACHE=None)
variables("HOME missing", HOME="{world}/no/such")
variables("HOME a file", HOME="{world}/site.yaml")
variables("HOME below a file", works=False, HOME="{world}/site.yaml/x", VLLM_CONDA_CACHE=None,
          XDG_STATE_HOME=None)  # fmt: skip
variables("HOME relative", HOME="here")
variables("HOME empty", HOME="")
variables("HOME odd", HOME="{world}/a b\n\u00e4'\"$x")
variables("TMPDIR missing", TMPDIR="{world}/no/such")
variables("TMPDIR a file", TMPDIR="{world}/site.yaml")
variables("TMPDIR relative", TMPDIR="tmp")
variables("TMPDIR empty", TMPDIR="")
variables("cache with dots", VLLM_CONDA_CACHE="{world}/x/../../../{world}/y/../cache")
variables("cache relative", VLLM_CONDA_CACHE="cache here")
variables("cache odd", VLLM_CONDA_CACHE="{world}/a b \u00e4 'q'")
variables("cache with newline", works=False, VLLM_CONDA_CACHE="{world}/a\nb")
variables("cache not UTF-8", works=False, VLLM_CONDA_CACHE="{world}/\udcff")
variables("HOME not UTF-8", works=False, HOME="{world}/\udcff", VLLM_CONDA_CACHE=None)
variables("cache a file", works=False, VLLM_CONDA_CACHE="{world}/site.yaml")
variables("cache below a file", works=False, VLLM_CONDA_CACHE="{world}/site.yaml/x")
variables("cache a device", works=False, VLLM_CONDA_CACHE=os.devnull)
variables("cache of no user", works=False, VLLM_CONDA_CACHE="~nouser/x")
variables("cache too long", works=False, VLLM_CONDA_CACHE="{world}/" + "x" * 300)
variables("cache long", works=False, VLLM_CONDA_CACHE="{world}/" + "x/" * 2500)
variables("cache in proc", works=False, VLLM_CONDA_CACHE="/proc/x")
variables("cache empty", VLLM_CONDA_CACHE="", XDG_CACHE_HOME="{world}/xdg")
variables("locale C", LC_ALL="C", LANG=None)
variables("locale POSIX, no coercion", LC_ALL="POSIX", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
variables("locale unknown", LC_ALL="xx_YY.nothing", LANG="\u00e4")
variables("Latin 1", PYTHONIOENCODING="latin-1")
variables("ASCII", PYTHONIOENCODING="ascii")
variables("PYTHONOPTIMIZE", PYTHONOPTIMIZE="2")
variables("PYTHONDEVMODE", PYTHONDEVMODE="1")
variables("PYTHONWARNINGS", PYTHONWARNINGS="error")
variables("PYTHONSAFEPATH", PYTHONSAFEPATH="1", PYTHONNOUSERSITE="1", PYTHONDONTWRITEBYTECODE="1")
variables("PYTHONHASHSEED", PYTHONHASHSEED="0", PYTHONUNBUFFERED="1")
variables("PYTHONPYCACHEPREFIX", PYTHONPYCACHEPREFIX="/proc/no")
variables("PYTHONBREAKPOINT", PYTHONBREAKPOINT="x", PYTHONINSPECT="", PYTHONSTARTUP="/no/such")
variables("COLUMNS 0", COLUMNS="0", LINES="0")
variables("COLUMNS odd", COLUMNS="-3", LINES="x")
variables("COLUMNS no number", COLUMNS="wide", TERM="none")
variables("colours forced", FORCE_COLOR="1", CLICOLOR_FORCE="1", TERM="xterm")
variables("no TERM", TERM=None, NO_COLOR="1")
variables("PATH empty", works=False, PATH="")
variables("PATH unset", works=False, PATH=None)
variables("PATH odd", works=False, PATH="/no/such:{world}/site.yaml::.")
variables("time zone", TZ="Nowhere/Else", SOURCE_DATE_EPOCH="0")
variables("epoch no number", works=False, SOURCE_DATE_EPOCH="now")
variables("rattler's cache a file", works=False, RATTLER_CACHE_DIR="{world}/site.yaml")

for size in (0, 4096, 65536, 1 << 20):
    limited(f"file size {size}", f"--fsize={size}")
for count in (8, 16, 24, 40, 64):
    limited(f"open files {count}", f"--nofile={count}")
for size in (64, 128, 256, 512, 1024):
    limited(f"memory {size} MiB", f"--as={size << 20}")
for count in (0, 1, 4):
    limited(f"processes {count}", f"--nproc={count}", root=True)
limited("stack", "--stack=262144")


@condition(works=False)
def umask_777(case: Case) -> None:
    case.before = ["bash", "-c", 'umask 777; exec "$@"', "bash"]


@condition()
def git_missing(case: Case) -> None:
    folder = case.world / "bin"
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            link = folder / program.name
            if program.name != "git" and not link.is_symlink():
                link.symlink_to(program)
    case.environment["PATH"] = str(folder)


@condition()
def git_fails(case: Case) -> None:
    folder = case.world / "bin"
    folder.mkdir()
    git = folder / "git"
    git.write_text("#!/bin/sh\nexit 3\n")
    git.chmod(0o755)
    case.environment["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


@condition(works=False)
def current_folder_gone(case: Case) -> None:
    case.before = ["bash", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "bash"]


@condition()
def files_of_1970(case: Case) -> None:
    _date(case.world, 0)


@condition()
def files_of_2200(case: Case) -> None:
    _date(case.world, 7_258_118_400)


def _date(folder: Path, time: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (time, time), follow_symlinks=False)


@condition(works=False)
def cache_a_loop(case: Case) -> None:
    (case.world / "loop").symlink_to("loop")
    case.environment["VLLM_CONDA_CACHE"] = str(case.world / "loop/x")


@condition(works=False)
def files_are_loops(case: Case) -> None:
    for name in ("checkout/targets.toml", "checkout/recipe/recipe.yaml", "site.yaml", "key.pem",
                 "channel/publication.json", "channel/noarch/repodata.json"):  # fmt: skip
        _replace(case.world / name, lambda path: path.symlink_to(path.name))


@condition(works=False)
def files_are_folders(case: Case) -> None:
    for name in ("checkout/targets.toml", "checkout/audit.toml", "site.yaml", "key.pem",
                 "channel/publication.json", "channel/linux-64/repodata.json"):  # fmt: skip
        _replace(case.world / name, Path.mkdir)


@condition(works=False)
def folders_are_files(case: Case) -> None:
    for name in ("checkout/recipe", "checkout/variants", "checkout/output", "checkout/csrc",
                 "channel/noarch", "channel/linux-64", "locks", "cache", "state"):  # fmt: skip
        _replace(case.world / name, Path.touch)


@condition(works=False)
def files_are_pipes(case: Case) -> None:
    for name in ("checkout/output", "cache", "state", "locks", "new", "new.pem", "new.tar"):
        _replace(case.world / name, lambda path: os.mkfifo(path))


@condition(works=False)
def inputs_are_pipes(case: Case) -> None:
    """Pipes that nobody writes into."""
    for name in ("checkout/targets.toml", "checkout/audit.toml", "checkout/recipe/recipe.yaml",
                 f"checkout/variants/{V3}.yaml", "site.yaml", "key.pem", "bundle.tar",
                 "channel/publication.json", "channel/noarch/repodata.json",
                 "channel/linux-64/repodata.json", "signed/metadata/root.json",
                 "signed/metadata/timestamp.json", "made/linux-64/repodata.json",
                 "more/linux-64/repodata.json"):  # fmt: skip
        _replace(case.world / name, lambda path: os.mkfifo(path))
    for path in (*case.world.glob("made/*/*.conda"), *case.world.glob("channel/.vllm-conda/*/*/*")):
        _replace(path, lambda path: os.mkfifo(path))


@condition(works=False)
def unknown_bytes_in_names(case: Case) -> None:
    """Of files beside those that are read: no UTF-8, a newline, a blank at the end."""
    for folder in ("checkout", "checkout/csrc/cpu/norm", "checkout/variants", "channel",
                   "channel/linux-64", "channel/.vllm-conda/records/linux-64", "signed/linux-64",
                   "made/linux-64", "more"):  # fmt: skip
        for name in ("a\udcff", "b\nc", "d ", "-e", "x\udcff.conda", "y\n.conda", "z\udcff.yaml"):
            (case.world / folder / name).touch()


@condition(works=False)
def temporary_folder_not_utf_8(case: Case) -> None:
    folder = case.world / "t\udcff"
    folder.mkdir()
    case.environment["TMPDIR"] = str(folder)


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(path)


@condition(works=False, root=True)
def all_unreadable(case: Case) -> None:
    case.before = ["setpriv", NO_OVERRIDE]
    for path in case.world.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0)


@condition(works=False, root=True)
def all_folders_closed(case: Case) -> None:
    case.before = ["setpriv", NO_OVERRIDE]
    for name in ("checkout", "channel", "signed", "made", "more"):
        for path in (case.world / name).rglob("*"):
            if path.is_dir():
                path.chmod(0)


@condition(works=False, root=True)
def all_read_only(case: Case) -> None:
    """Another's checkout, channels, caches and temporary folders."""
    (case.world / "cache").mkdir()
    (case.world / "home").mkdir()
    as_another_user(case)


@condition(works=False, root=True)
def all_of_another_user(case: Case) -> None:
    """In a sticky folder that all may write, as other users' caches in /tmp."""
    case.before = ["setpriv", NO_OVERRIDE]
    for name in ("cache/rattler/cache", "cache/tmp", "cache/downloads", "cache/build"):
        (case.world / name).mkdir(parents=True)
    for name in ("cache/lock", "cache/rattler/cache/x", "channel/.lock", "cache/build/lock"):
        (case.world / name).touch()
    owned(case.world, NOBODY)
    case.world.chmod(0o1777)


@condition(works=False, root=True)
def read_only_disk(case: Case) -> None:
    """As on a node whose home is exported read-only; the cache and TMPDIR can be written."""
    subprocess.run(["mount", "--bind", case.world, case.world], check=True)
    case.undo.append(lambda: subprocess.run(["umount", "-l", case.world], check=True))
    subprocess.run(["mount", "-o", "remount,ro,bind", case.world], check=True)
    other = case.world.with_name(case.world.name + ".rw")
    for name in ("VLLM_CONDA_CACHE", "TMPDIR"):
        (other / name).mkdir(parents=True)
        case.environment[name] = str(other / name)


@condition(works=False, root=True)
def cache_full(case: Case) -> None:
    case.environment["VLLM_CONDA_CACHE"] = str(full(case, "disk"))


@condition(works=False, root=True)
def temporary_folder_full(case: Case) -> None:
    case.environment["TMPDIR"] = str(full(case, "disk"))


@condition(works=False, root=True)
def everything_full(case: Case) -> None:
    folder = full(case, "disk")
    for name in ("VLLM_CONDA_CACHE", "TMPDIR", "HOME", "XDG_STATE_HOME", "RATTLER_CACHE_DIR"):
        case.environment[name] = str(folder / name)
    (folder / "TMPDIR").mkdir()
    for name in ("checkout/output", "new", "new.pem", "new.tar", "locks"):
        _replace(case.world / name, lambda path: path.symlink_to(folder / path.name))


def _odd_place(name: str) -> Callable[[Case], None]:
    def apply(case: Case) -> None:
        moved = case.world / name / "world"
        moved.parent.mkdir(parents=True)
        for path in list(case.world.iterdir()):
            if path.name not in (Path(name).parts[0], "tmp"):
                path.rename(moved.parent / path.name)
        case.world = moved.parent

    return apply


CONDITIONS["world in an odd place"] = Condition(_odd_place("a b \u00e4 'q' (1) %s {x}"))
CONDITIONS["world in a place with a newline"] = Condition(_odd_place("a\nb"), works=False)
CONDITIONS["world in a place not UTF-8"] = Condition(_odd_place("a\udcff"), works=False)
CONDITIONS["world in a long place"] = Condition(_odd_place("/".join(["x" * 200] * 4)))
CONDITIONS["world behind dots"] = Condition(
    lambda case: setattr(case, "world", case.world / "made/.." / "channel/..")
)
for mask in ("077", "000"):
    CONDITIONS[f"umask {mask}"] = Condition(
        lambda case, mask=mask: setattr(  # type: ignore[misc]
            case, "before", ["bash", "-c", f'umask {mask}; exec "$@"', "bash"]
        )
    )
