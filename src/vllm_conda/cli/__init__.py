"""The command line `vllm-conda`: parsing, exit codes and messages; the library does the work."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from vllm_conda import __version__
from vllm_conda.cli.lazy import LazyGroup
from vllm_conda.errors import (
    BuildFailure,
    ConfigError,
    UsageError,
    VllmError,
    reason,
)
from vllm_conda.paths import file_error, limit_error, refuse_pipes
from vllm_conda.processes import Stopped, own_temporary, stop_on_signals, stop_signal
from vllm_cuda_plan.errors import shortened

# Modules of the exceptions of py-rattler, of py-rattler-build and of a panic in either.
_LIBRARIES = ("exceptions", "rattler", "rattler_build", "pyo3_runtime")
_LONGEST_REASON = 200

# Name → module and attribute, imported when used: `--help` needs none of the libraries.
COMMANDS = {
    "audit": "vllm_conda.cli.audit:audit",
    "build": "vllm_conda.cli.build:build",
    "channel": "vllm_conda.cli.channel:channel",
    "doctor": "vllm_conda.cli.doctor:doctor",
    "engine": "vllm_conda.cli.engine:engine",
    "exec": "vllm_conda.cli.execute:execute",
    "flashinfer": "vllm_conda.cli.flashinfer:flashinfer",
    "generate": "vllm_conda.cli.inspect:generate",
    "lint": "vllm_conda.cli.inspect:lint",
    "matrix": "vllm_conda.cli.inspect:matrix",
    "render": "vllm_conda.cli.inspect:render",
    "rerender": "vllm_conda.cli.inspect:rerender",
    "solve": "vllm_conda.cli.solve:solve",
    "test": "vllm_conda.cli.test:test",
    "toolchain": "vllm_conda.toolchain.command:toolchain",
}


@click.group(
    cls=LazyGroup, registry=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="vllm-conda")
@click.pass_context
def cli(context: click.Context) -> None:
    """Build, check and ship vLLM's kernels as conda packages.

    \b
    Example:
      vllm-conda build --variant linux-64-cpu-x86-64-v3
    """
    context.with_resource(own_temporary())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code (docs/packagers/exit-codes.md).

    Without ``arguments`` the process's own are taken, and the process ends here.
    """
    if arguments is None:
        _open_streams()
        sys.addaudithook(refuse_pipes)
        stop_on_signals()
        leave(_run(sys.argv[1:]))
    return _run(list(arguments))


def _open_streams() -> None:
    """Give closed standard streams a reader and writer of nothing.

    The next opened files would take their numbers, and get what is meant for people.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def leave(code: int) -> NoReturn:
    """End the process, without Python's finalization where py-rattler is loaded.

    Its worker threads may still hold a reference to the interpreter, which then aborts: a
    finished build would end with SIGABRT.
    """
    sys.stdout.flush()
    with suppress(OSError):
        sys.stderr.flush()
    if "rattler" in sys.modules or "rattler_build" in sys.modules:
        os._exit(code)
    sys.exit(code)


def _run(words: list[str]) -> int:
    try:
        code = _attempt(words)
        # Here and not at exit, where Python would complain of a reader that has gone.
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (such as `head`) has what it wanted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # such as a full disk behind `> file`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        known = file_error(error, "standard output")
        _report(known, False)
        return known.exit_code
    return code


def _attempt(words: list[str]) -> int:
    """Run the command; what it fails with becomes a message and an exit code."""
    streams = sys.stdout, sys.stderr
    try:
        # Without standalone mode click returns an Exit's code instead of raising it.
        code = cli.main(args=words, prog_name="vllm-conda", standalone_mode=False)
    except VllmError as error:
        if number := stop_signal():
            return _stopped(number)
        _report(error, "--json" in words)
        return error.exit_code
    except click.ClickException as error:
        usage = UsageError(error.format_message(), _help_hint(error))
        _report(usage, "--json" in words)
        return usage.exit_code
    except (Stopped, KeyboardInterrupt, click.Abort):
        return _stopped(stop_signal() or signal.SIGINT)
    except BrokenPipeError:
        raise
    except SystemExit:
        # What click makes of a reader that has gone: it exits with 1, behind other streams.
        if (sys.stdout, sys.stderr) == streams:
            raise
        sys.stdout, sys.stderr = streams
        raise BrokenPipeError from None
    except RecursionError:
        deep = ConfigError("A file that was read is nested too deep.")
        _report(deep, "--json" in words)
        return deep.exit_code
    except BaseException as error:
        known = _explained(error, " ".join(["vllm-conda", *words[:1]]))
        if known is None:
            raise
        _report(known, "--json" in words)
        return known.exit_code
    if number := stop_signal():  # Python or a library swallowed the exception
        return _stopped(number)
    return code if isinstance(code, int) else 0


def _stopped(number: int) -> int:
    _say("\nStopped; run the same command again to go on.")
    return 128 + number


def _explained(error: BaseException, step: str) -> VllmError | None:
    """The sentence for what no step has explained itself: the system's, or rattler's, refusal."""
    if isinstance(error, OSError):
        return file_error(error, step)
    if (limit := limit_error(error, step)) is not None:
        return limit
    if type(error).__module__.partition(".")[0] in _LIBRARIES:
        return BuildFailure(f"{step}: {shortened(reason(error), _LONGEST_REASON)}.")
    return None


def _help_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "vllm-conda"
    return f"See `{command} --help`."


def _report(error: VllmError, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = {
            "kind": error.kind,
            "message": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        print(json.dumps({"error": document}))
        return
    _say(f"error: {error.message}")
    if error.hint:
        _say(f"  -> {error.hint}")


def _say(text: str) -> None:
    """For people; the exit code tells the rest where nobody can be told."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
