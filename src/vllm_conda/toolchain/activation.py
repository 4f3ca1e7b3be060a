"""Activation and deactivation scripts from the data file's variables.

Plain POSIX shell. The value that a variable had before is kept and restored.
"""

from __future__ import annotations

from vllm_conda.toolchain.model import Activation

_HEADER = "# Written by vllm-conda from toolchain/packages.toml.\n"
# During a package build the flags point to the host environment, else to the active one.
_PREFIX = (
    'if [ "${CONDA_BUILD:-0}" = 1 ]; then _tc_prefix="$PREFIX"; '
    'else _tc_prefix="$CONDA_PREFIX"; fi\n'
)


def _backup(name: str, stem: str) -> str:
    return f"_CONDA_BACKUP_{name}_{''.join(c if c.isalnum() else '_' for c in stem)}"


def activate_script(activation: Activation) -> str:
    """Text of ``etc/conda/activate.d/FILE.sh``."""
    lines = [_HEADER, _PREFIX]
    names = dict.fromkeys([*activation.set, *activation.append, *activation.append_in_build])
    for name in names:
        backup = _backup(name, activation.file)
        lines.append(f'if [ -n "${{{name}+x}}" ]; then export {backup}="${name}"; fi\n')
    for name, value in activation.set.items():
        lines.append(f'export {name}="{value}"\n')
    for name, value in activation.append.items():
        lines.append(f'export {name}="${{{name}:+${name} }}{value}"\n')
    if activation.append_in_build:
        lines.append('if [ "${CONDA_BUILD:-0}" = 1 ]; then\n')
        for name, value in activation.append_in_build.items():
            lines.append(f'  export {name}="${{{name}:+${name} }}{value}"\n')
        lines.append("fi\n")
    lines.append("unset _tc_prefix\n")
    return "".join(lines)


def deactivate_script(activation: Activation) -> str:
    """Text of ``etc/conda/deactivate.d/FILE.sh``."""
    lines = [_HEADER]
    names = dict.fromkeys([*activation.set, *activation.append, *activation.append_in_build])
    for name in names:
        backup = _backup(name, activation.file)
        lines.append(
            f'if [ -n "${{{backup}+x}}" ]; then export {name}="${backup}"; unset {backup}; '
            f"else unset {name}; fi\n"
        )
    return "".join(lines)
