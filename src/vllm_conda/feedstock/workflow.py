"""The GitHub workflow of this repository: one job a variant, with the settings that it needs."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_conda.jobs import Job, jobs
from vllm_conda.resources import compile_jobs, runner_name
from vllm_conda.targets import Targets

_HEAD = """\
name: packages
on:
  push:
    branches: [main]
  pull_request:
  workflow_dispatch:

concurrency:
  group: ${{ github.workflow }}-${{ github.ref }}
  cancel-in-progress: true

permissions:
  contents: read

jobs:
  check:
    runs-on: ubuntu-24.04
    timeout-minutes: 30
    steps:
      - uses: actions/checkout@v6
      - uses: actions/setup-python@v6
        with:
          python-version: "3.12"
      - name: Generated files, feedstock files, rules of the rendered jobs
        run: |
          ./run generate --check
          ./run rerender --check
          ./run render --all --lint
"""

_STEPS = """\
    steps:
      - uses: actions/checkout@v6
      - name: Free disk space
        if: matrix.disk != 'skip'
        run: |
          sudo rm -rf /usr/local/lib/android /usr/share/dotnet /usr/share/swift /opt/ghc \\
            /opt/hostedtoolcache/CodeQL
          if [[ "${{ matrix.disk }}" == max ]]; then
            docker system prune --all --force
          fi
          df -h /
      - name: Add swap space
        if: matrix.swap_gib != 0
        run: |
          sudo fallocate -l "${{ matrix.swap_gib }}G" /mnt/more-swap
          sudo chmod 600 /mnt/more-swap
          sudo mkswap /mnt/more-swap
          sudo swapon /mnt/more-swap
      - uses: actions/setup-python@v6
        with:
          python-version: "3.12"
      - name: Build
        env:
          VLLM_CONDA_CHANNEL: conda-forge
          VLLM_CONDA_ADDRESS: ${{ github.server_url }}/${{ github.repository }}
        run: ./run build --variant "${{ matrix.variant }}" --jobs "${{ matrix.jobs }}"
      - uses: actions/upload-artifact@v5
        if: always()
        with:
          name: ${{ matrix.variant }}
          path: |
            output/*/*.conda
            output.build/logs
          if-no-files-found: error
"""


def workflow(targets: Targets) -> str:
    """The file's text, below its header."""
    every = jobs(targets)
    text = _HEAD
    text += _job(targets, "build", "", [job for job in every if not job.opt_in])
    # Packages for one kind of GPU are built only in a run started by hand.
    opted = [job for job in every if job.opt_in]
    if opted:
        text += _job(targets, "slices", "    if: github.event_name == 'workflow_dispatch'\n", opted)
    return text


def _job(targets: Targets, name: str, condition: str, chosen: Sequence[Job]) -> str:
    text = (
        f"\n  {name}:\n    name: ${{{{ matrix.variant }}}}\n    needs: check\n{condition}"
        "    runs-on: ${{ matrix.runner }}\n    timeout-minutes: ${{ matrix.minutes }}\n"
        "    strategy:\n      fail-fast: false\n      matrix:\n        include:\n"
    )
    for job in chosen:
        device = targets.feedstock.devices[job.device]
        text += (
            f"          - variant: {job.name}\n"
            f"            runner: {runner_name(targets, job)}\n"
            f"            minutes: {device.minutes}\n"
            f"            disk: {device.free_disk_space}\n"
            f"            swap_gib: {device.swap_gib}\n"
            f"            jobs: {compile_jobs(targets, job)}\n"
        )
    return text + _STEPS
