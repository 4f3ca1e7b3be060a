"""Logs as compilers, CMake and package tests write them, and the one sentence made of each."""

from __future__ import annotations

import pytest

from vllm_conda import errors
from vllm_conda.builder.diagnose import compiler_errors, failure, script_errors

GCC = (
    """
+ cmake --build build
[3/52] Building CXX object csrc/cpu/CMakeFiles/norm.dir/norm/norm_tier.cc.o
FAILED: csrc/cpu/CMakeFiles/norm.dir/norm/norm_tier.cc.o
WORK/csrc/cpu/norm/norm_tier.cc: In function 'void f()':
WORK/csrc/cpu/norm/norm_tier.cc:41:3: error: 'x' was not declared
   41 |   x = 1;
      |   ^
$SRC_DIR/csrc/cpu/norm/norm.cc:7:10: fatal error: nothere.h: No such file or directory
    7 | #include "nothere.h"
ninja: build stopped: subcommand failed.
""".strip()
    .replace("WORK", "/bld/vllm-kernels-cpu/work")
    .splitlines()
)


def test_compiler_errors_keep_the_source_line_and_cut_the_work_folder() -> None:
    assert compiler_errors(GCC) == [
        "csrc/cpu/norm/norm_tier.cc:41:3: error: 'x' was not declared",
        "   41 |   x = 1;",
        "      |   ^",
        "csrc/cpu/norm/norm.cc:7:10: fatal error: nothere.h: No such file or directory",
        '    7 | #include "nothere.h"',
    ]


def test_a_thousand_errors_become_twelve_lines() -> None:
    lines = [f"csrc/a.cc:{n}:1: error: number {n}" for n in range(1000)]
    assert len(compiler_errors(lines)) == 12


@pytest.mark.parametrize(
    ("line", "kind", "part"),
    [
        ("csrc/a.cc:1:1: error: no", errors.BuildFailure, "csrc/a.cc:1:1: error: no"),
        (
            "CMake Error at cmake/Options.cmake:29 (message):",
            errors.BuildFailure,
            "cmake/Options.cmake:29",
        ),
        ("ld: a.o: undefined reference to `f'", errors.BuildFailure, "undefined reference to `f'"),
        ("g++: internal compiler error: Killed", errors.BuildFailure, "internal compiler error"),
        ("No CMAKE_CXX_COMPILER could be found.", errors.MissingToolError, "no C++ compiler"),
        (
            "  vllm-kernels: compiler GNU 9.4.0 is too old; 11 or newer is needed, set CXX to it",
            errors.MissingToolError,
            "too old",
        ),
        ("write failed: No space left on device (os error 28)", errors.DiskError, "disk is full"),
        ("error sending request for url (https://x.invalid)", errors.NetworkError, "reached"),
        ("something else", errors.BuildFailure, "something else"),
    ],
)
def test_cause(line: str, kind: type[errors.VllmError], part: str) -> None:
    error = failure("vllm-kernels-cpu for a-job", "script failed", ["before", line], "/logs/x.log")
    assert type(error) is kind
    assert part in error.message
    assert "vllm-kernels-cpu for a-job" in error.message
    assert "/logs/x.log" in error.hint


def test_a_full_disk_beats_the_compilers_message() -> None:
    lines = ["a.cc:1:1: error: cannot write", "fatal: No space left on device"]
    assert type(failure("x", "failed", lines, "log")) is errors.DiskError


def test_script_errors_show_the_exception() -> None:
    lines = [
        "+ python tests/check_cpu.py",
        "Traceback (most recent call last):",
        '  File "check_cpu.py", line 3, in <module>',
        "ImportError: libvllm_kernels_cpu.so: undefined symbol: vk_f",
        "Script failed with status 1",
        "Work directory: /tmp/x",
    ]
    assert script_errors(lines) == ["ImportError: libvllm_kernels_cpu.so: undefined symbol: vk_f"]


def test_script_errors_without_an_exception_show_the_last_commands_output() -> None:
    lines = ["solving", "+ cd test", "+ python check.py", "rms_norm: differs", "Script failed"]
    assert script_errors(lines) == ["+ python check.py", "rms_norm: differs"]
