#!/usr/bin/env python3
"""Run the packages of other platforms under qemu-user: installation and kernels, tier by tier.

    python scripts/test_cross.py [--platform SUBDIR] [--tier NAME] [--sample N] [pytest arguments]

For each platform in output/ vllm-kernels-cpu is solved and installed as a machine would. Then,
tier by tier, each on an emulated CPU that has it: the platform's Python loads the library, calls a
kernel, its PyTorch compares every op with its reference, and the kernels' tests run. Exit code: 0
if all of it passed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from vllm_conda import emulate, platforms
from vllm_conda.builder.channel import toolchain_for
from vllm_conda.builder.workspace import locked, workspace_for
from vllm_conda.environment import ensure_environment
from vllm_conda.errors import VllmError
from vllm_conda.progress import Reporter
from vllm_conda.targets import Targets, load_targets
from vllm_conda.toolchain import Root, ensure_root

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["tests/kernels/cpu"]
NATIVE = ["vllm-core", "pytest", "numpy", f"gxx_{platforms.host_platform()}"]


def main(arguments: list[str]) -> int:
    failed = []
    try:
        targets = load_targets(ROOT)
        chosen, rest = options(targets).parse_known_args(arguments)
        with Reporter() as reporter:
            for platform in chosen.platform or platforms.cross():
                failed += test(platform, targets, chosen, rest or TESTS, reporter)
    except VllmError as error:
        print(f"test-cross: {error}", file=sys.stderr)
        return error.exit_code
    for name in failed:
        print(f"test-cross: failed: {name}", file=sys.stderr)
    return 1 if failed else 0


def options(targets: Targets) -> argparse.ArgumentParser:
    """The command line; what is left of it is pytest's."""
    parser = argparse.ArgumentParser(description="Test packages of other platforms under qemu.")
    parser.add_argument("--platform", action="append", choices=list(platforms.cross()))
    families = {targets.platforms[platform].family for platform in platforms.cross()}
    parser.add_argument(
        "--tier",
        action="append",
        choices=[tier for family in sorted(families) for tier in targets.tiers[family]],
        help="this tier only; may be repeated; default: all",
    )
    parser.add_argument(
        "--sample",
        type=int,
        default=1,
        metavar="N",
        help="of tests that multiply matrices, cases with every value of every parameter and every "
        "Nth of the others; 1, the default, is all",
    )
    parser.add_argument(
        "--kernels-only",
        action="store_true",
        help="leave out the platform's PyTorch, which comes from Debian's development suite",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="the channel")
    return parser


def test(
    platform: str,
    targets: Targets,
    chosen: argparse.Namespace,
    tests: list[str],
    reporter: Reporter,
) -> list[str]:
    """Installation and every chosen tier of one platform; the names of what failed."""
    workspace = workspace_for(ROOT)
    channel = chosen.output.resolve().as_uri()
    with locked(workspace, chosen.output.resolve()):
        emulated = emulate.install(platform, channel, targets, workspace, reporter)
        root = None if chosen.kernels_only else ensure_root(platform, reporter=reporter)
        driver = emulate.build_driver(emulated, ROOT, workspace.folder / "cross", targets.families)
        native = toolchain_for(platforms.host_platform(), (), reporter)
        prefix = ensure_environment(
            [channel, *native.channels], NATIVE, platforms.host_platform(), workspace, reporter
        )
    failed = []
    for cpu, all_tiers in emulate.tiers_by_cpu(targets, platform):
        tiers = [tier for tier in all_tiers if tier in (chosen.tier or all_tiers)]
        if not tiers:
            continue
        started, used = time.monotonic(), processor_time()
        name = f"{platform} {', '.join(tiers)} on {cpu}"
        print(f"test-cross: {name}", flush=True)
        for tier in tiers:
            if check_installed(emulated, cpu, tier):
                failed.append(f"{name}: installation, {tier}")
        if root and check_pytorch(emulated, root, cpu):
            failed.append(f"{name}: ops of PyTorch {root.version}")
        table = targets.tiers[targets.platforms[platform].family]
        kernels = {family for tier in tiers for family in targets.kernel_families(table[tier])}
        environment = emulate.test_environment(emulated, driver, cpu, tiers, chosen.sample, kernels)
        if emulate.run_tests(environment, prefix, ROOT, tests):
            failed.append(name)
        print(
            f"test-cross: {name}: {time.monotonic() - started:.0f} s, "
            f"{processor_time() - used:.0f} s of processor time",
            flush=True,
        )
    return failed


def check_installed(emulated: emulate.Emulated, cpu: str, tier: str) -> int:
    """The platform's own Python loads the installed library and calls a kernel."""
    python = str(emulated.prefix / "bin" / "python")
    script = str(ROOT / "tests/cross/check_installed.py")
    command = emulated.command(cpu, [python, script, str(emulated.prefix), tier])
    return subprocess.run(command, check=False).returncode


def check_pytorch(emulated: emulate.Emulated, root: Root, cpu: str) -> int:
    """The platform's PyTorch compares every op of the installed packages with its reference."""
    command = emulated.pytorch_command(root, cpu, ["-m", "vllm_kernels.selftest"])
    return subprocess.run(command, check=False).returncode


def processor_time() -> float:
    """Seconds that finished child processes have computed."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
