"""Pages in docs/ that follow from the table, from costs and from the toolkit's own registries."""

from __future__ import annotations

from vllm_conda import errors, matrix
from vllm_conda.errors import INTERRUPTED_EXIT_CODE, VllmError
from vllm_conda.generate import switches
from vllm_conda.generate.text import header, table
from vllm_conda.matrix import COSTS_COMMAND, COSTS_FILE, Costs
from vllm_conda.targets import TARGETS_FILE, Targets


def targets_page(targets: Targets) -> str:
    text = f"<!--{header('').rstrip()} -->\n# Targets\n\n## Kernel families of the CPU library\n\n"
    text += table(("family", ""), [(f"`{name}`", what) for name, what in targets.families.items()])
    for family, tiers in targets.tiers.items():
        text += f"\n## Tiers of {family}, lowest first\n\n"
        rows = [
            (
                f"`{name}`",
                f"`{' '.join(tier.flags)}`",
                ", ".join(tier.needs),
                ", ".join(tier.only) or "all",
            )
            for name, tier in tiers.items()
        ]
        text += table(("tier", "flags", "needs, with those above", "kernel families"), rows)
    return text


def matrix_page(targets: Targets, costs: Costs) -> str:
    """Every job, what it makes and what it costs."""
    text = f"<!--{header('', f'{TARGETS_FILE} and {COSTS_FILE}').rstrip()} -->\n# Jobs\n\n"
    text += table(("", ""), list(matrix.summary(targets, costs).items()))
    if costs.machine:
        text += f"\nMeasured by `{COSTS_COMMAND}`: {costs.machine}.\n"
    head, lines = matrix.table(list(matrix.rows(targets, costs)))
    text += "\n" + table(head, [(f"`{line[0]}`", *line[1:]) for line in lines])
    for job, cost in costs.jobs.items():
        if cost.families:
            text += f"\n## Kernel families of `{job}`\n\n"
            text += table(*matrix.family_table(cost))
            sizes = (f"`{name}` {size} MiB" for name, size in cost.package_mib.items())
            text += f"\nPackages: {', '.join(sizes)}.\n" if cost.package_mib else ""
    return text


def exit_codes_page() -> str:
    first = header("", "src/vllm_conda/errors.py").rstrip()
    rows = [("0", "", "Success.")]
    kinds = [kind for kind in vars(errors).values() if _is_error(kind)]
    for kind in sorted(kinds, key=lambda kind: kind.exit_code):
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        rows.append((str(kind.exit_code), f"`{kind.kind}`", summary))
    rows.append((str(INTERRUPTED_EXIT_CODE), "`interrupted`", "Stopped with Ctrl-C."))
    rows.append(("129, 143", "", "Stopped by the signal HUP, TERM."))
    return f"<!--{first} -->\n# Exit codes\n\n" + table(("code", "kind", "meaning"), rows)


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, VllmError)


def environment_page() -> str:
    first = header("", "src/vllm_conda/generate/switches.py").rstrip()
    text = (
        f"<!--{first} -->\n# Environment variables\n\n"
        "The first value is the default. Options of a build from source, which can be given as "
        "variables too,\nare in [options.md](../packagers/options.md).\n"
    )
    for title, rows in switches.environment_rows().items():
        text += f"\n## {title}\n\n" + table(("variable", "values", "effect"), rows)
    return text


def options_page(text: str) -> str:
    """``text``: of cmake/Options.cmake."""
    first = header("", str(switches.OPTIONS_FILE)).rstrip()
    rows = switches.option_rows(list(switches.build_options(text)))
    return (
        f"<!--{first} -->\n# Build options\n\n"
        "Options of CMake (`-DNAME=VALUE`), each also read from the environment variable of the "
        "same name.\nAUTO means: on where compiler and target allow it.\n\n"
    ) + table(("option", "default", "values", "effect"), rows)
