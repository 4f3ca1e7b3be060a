"""`vllm-conda solve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_conda.cli.common import json_option, print_json, print_table

if TYPE_CHECKING:
    from vllm_conda.site.channels import Channels
    from vllm_conda.site.model import Site
    from vllm_conda.site.overrides import Advice
    from vllm_conda.site.preflight import Answer, NodeResult


@click.command()
@click.argument("words", nargs=-1, metavar="SITE.YAML [SPEC]...")
@click.option("--example", metavar="NAME", help="Take a packaged example instead of SITE.YAML.")
@click.option("--examples", "list_examples", is_flag=True, help="List the packaged examples.")
@click.option("--show", is_flag=True, help="Print the site file instead of solving it.")
@click.option("--describe", is_flag=True, help="Print this machine as a site file.")
@click.option(
    "--channel",
    "-c",
    "channels",
    multiple=True,
    metavar="CHANNEL",
    help="Name, address or folder, the first preferred; may be repeated. Default: the site "
    "file's channels, else the checkout's output/ and what it was built against; for the embedded "
    "toolchain a mirror of conda-forge is assumed instead.",
)
@click.option("--each", is_flag=True, help="Solve every SPEC by itself, not one environment.")
@click.option(
    "--lock",
    "lock_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write NODE.lock (pixi, rattler) and NODE.txt (@EXPLICIT) for each node type.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The checkout whose output/ is the default channel.",
)
@json_option
def solve(
    words: tuple[str, ...],
    example: str | None,
    list_examples: bool,
    show: bool,
    describe: bool,
    channels: tuple[str, ...],
    each: bool,
    lock_folder: Path | None,
    root: Path | None,
    as_json: bool,
) -> int:
    """Say which build each node type of a site gets, or the one property that it lacks.

    \b
    SITE.YAML declares the node types; nothing is installed and no node is asked. For login
    nodes the CONDA_OVERRIDE_... line is printed that makes a solve there right for the
    compute nodes. Exit code 15 says that a node type is not served.

    \b
    Example:
      vllm-conda solve --example leonardo --show > site.yaml
      vllm-conda solve site.yaml -c ./output -c conda-forge --lock locks vllm-kernels
    """
    from vllm_conda.errors import UsageError
    from vllm_conda.site.model import load_site

    if list_examples:
        return _list_examples(as_json)
    if describe:
        from vllm_conda.site.describe import describe_machine

        click.echo(describe_machine(), nl=False)
        return 0
    if each and lock_folder:
        raise UsageError(
            "--each solves several environments a node type, --lock writes one.",
            "Leave one of them out.",
        )
    path, specs = site_and_specs(words, example)
    if show:
        load_site(path)
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return 0
    site = load_site(path)
    check_specs(specs)
    from vllm_conda.site.channels import Channels
    from vllm_conda.site.lock import write_locks
    from vllm_conda.site.overrides import advise, unserved
    from vllm_conda.site.preflight import check_site

    addresses, without = _assuming(site, path, channels, root, lock_folder is not None)
    used = Channels(addresses)
    results = check_site(site, used, specs, each, Channels(without) if without else None)
    advice = advise(results, used)
    written = write_locks(results, used.addresses, lock_folder) if lock_folder else []
    if as_json:
        print_json(_document(site, used, results, advice, written))
    else:
        if without:
            click.echo(
                "Python, PyTorch and what they need: assumed from the site's mirror of conda-forge."
            )
        _print(results, advice, written)
    return _verdict(unserved(results, advice), len(results), as_json)


def site_and_specs(words: Sequence[str], example: str | None) -> tuple[Path, tuple[str, ...]]:
    from vllm_conda.errors import UsageError
    from vllm_conda.site.examples import example_names, example_path

    if example is not None:
        return example_path(example), tuple(words)
    if not words:
        raise UsageError(
            "No site file is named.",
            f"Name one, or --example with one of {', '.join(example_names())}.",
        )
    return Path(words[0]), tuple(words[1:])


def _list_examples(as_json: bool) -> int:
    from vllm_conda.site.examples import example_names, example_path
    from vllm_conda.site.model import load_site

    sites = {name: load_site(example_path(name)) for name in example_names()}
    if as_json:
        print_json([{"name": name, "description": s.description} for name, s in sites.items()])
        return 0
    rows = [(name, ", ".join(s.nodes), s.description) for name, s in sites.items()]
    print_table(("example", "node types", "what"), rows)
    return 0


def check_specs(specs: Sequence[str]) -> None:
    from vllm_conda import __version__
    from vllm_conda.errors import UsageError
    from vllm_conda.packages import CPU, of_device
    from vllm_conda.site.model import spec_problem

    minor = ".".join(__version__.split(".")[:2])
    for spec in specs:
        if reason := spec_problem(spec):
            raise UsageError(
                f"{spec!r} is not a package spec: {reason}.",
                f"Such as {of_device(CPU)} or '{of_device(CPU)} {minor}.*'.",
            )


def site_channels(site: Site, path: Path, channels: Sequence[str], root: Path | None) -> list[str]:
    """Of the command line, else of the site file (relative to it), else of the checkout."""
    from vllm_conda.paths import project_root
    from vllm_conda.site.channels import default_channels
    from vllm_conda.solve import channel_address

    if channels:
        return [channel_address(channel, Path.cwd()) for channel in channels]
    if site.channels:
        return [channel_address(channel, path.resolve().parent) for channel in site.channels]
    found = default_channels(project_root(root))
    return [found.output, *found.built_against]


def _assuming(
    site: Site, path: Path, channels: Sequence[str], root: Path | None, lock: bool
) -> tuple[list[str], list[str]]:
    """The channels to solve against, and where they assume a mirror of conda-forge, the real ones.

    A lock names files, so nothing is assumed for one.
    """
    from vllm_conda.paths import project_root
    from vllm_conda.site import assumed
    from vllm_conda.site.channels import default_channels

    real = site_channels(site, path, channels, root)
    if channels or site.channels or lock:
        return real, []
    found = default_channels(project_root(root))
    return ([found.output, assumed.ensure_channel()], real) if found.embedded else (real, [])


def _print(
    results: Sequence[NodeResult], advice: Sequence[Advice], written: Sequence[Path]
) -> None:
    from rich.markup import escape

    columns = _columns(results)
    # One environment a row: with --each a node type has one for each spec.
    several = any(len(result.answers) > 1 for result in results)
    rows = []
    for result in results:
        for answer in result.answers:
            asked = [", ".join(answer.specs)] if several else []
            cells = [_cell(answer, column) for column in columns]
            node = (result.name, result.node.role, result.node.platform, *asked, *cells)
            rows.append([escape(cell) for cell in node])
    head = ("node", "role", "platform", *(["spec"] if several else []), *columns)
    print_table(head, rows)
    for result in results:
        for answer in result.answers:
            if answer.refusal:
                what = ", ".join(answer.specs)
                click.echo(f"{result.name}: refused {what}: {answer.refusal.text}")
        for note in result.notes:
            click.echo(f"{result.name}: {note}")
    for one in advice:
        names = ", ".join(one.compute)
        if one.line:
            click.echo(f"on {one.login}, for {names}: {one.line}")
        else:
            click.echo(f"on {one.login}, for {names}: nothing to override")
        for warning in one.warnings:
            click.echo(f"  warning: {warning}")
    for path in written:
        click.echo(f"wrote {path}")


def _columns(results: Sequence[NodeResult]) -> list[str]:
    """Packages: the requested ones first, then the project's own that came along."""
    from vllm_conda.site.preflight import spec_name

    answers = [answer for result in results for answer in result.answers]
    names = dict.fromkeys(spec_name(spec) for answer in answers for spec in answer.specs)
    more = sorted({name for answer in answers for name in answer.builds} - set(names))
    return [*names, *more]


def _cell(answer: Answer, column: str) -> str:
    from vllm_conda.site.preflight import spec_name

    if column in answer.builds:
        return answer.builds[column]
    asked = [spec_name(spec) for spec in answer.specs]
    return "refused" if answer.refusal and column in asked else "-"


def _document(
    site: Site,
    channels: Channels,
    results: Sequence[NodeResult],
    advice: Sequence[Advice],
    written: Sequence[Path],
) -> dict[str, Any]:
    from vllm_conda.site import virtual
    from vllm_conda.site.overrides import unserved

    return {
        "site": site.site,
        "channels": list(channels.addresses),
        "served": not unserved(results, advice),
        "nodes": [
            {
                "node": result.name,
                "role": result.node.role,
                "platform": result.node.platform,
                "count": result.node.count,
                "virtual_packages": [virtual.spec(n, v) for n, v in result.machine.items()],
                "served": result.served,
                "seconds": round(result.seconds, 4),
                "requests": [_request(answer) for answer in result.answers],
                "notes": list(result.notes),
            }
            for result in results
        ],
        "login": [
            {
                "login": one.login,
                "compute": list(one.compute),
                "variables": one.variables,
                "verified": one.verified,
                "warnings": list(one.warnings),
            }
            for one in advice
        ],
        "written": [str(path) for path in written],
    }


def _request(answer: Answer) -> dict[str, Any]:
    refusal = answer.refusal
    return {
        "specs": list(answer.specs),
        "packages": [
            {
                "name": record.name.normalized,
                "version": str(record.version),
                "build": str(record.build),
                "build_number": record.build_number,
                "url": record.url,
            }
            for record in sorted(answer.records, key=lambda r: r.name.normalized)
        ],
        "refusal": None
        if refusal is None
        else {
            "missing": list(refusal.missing),
            "needs": refusal.needs,
            "has": refusal.has,
            "text": refusal.text,
            "solver": refusal.solver,
        },
    }


def _verdict(refused: Sequence[str], count: int, as_json: bool) -> int:
    from vllm_conda.errors import UnservedError

    if not refused:
        return 0
    if as_json:  # the document says so already; a second one would break a reader
        return UnservedError.exit_code
    raise UnservedError(
        f"{len(refused)} of {count} node types are not served: {', '.join(refused)}.",
        "The lines above say what each lacks.",
    )
