"""Write the pages, README's table and the plots that benchmarks/results determines.

python -m benchmarks.report            # write what differs
python -m benchmarks.report --check    # fail where something is not what the figures say
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.record import ROOT
from benchmarks.report.headlines import readme
from benchmarks.report.pages import FOLDER, pages
from benchmarks.report.plots import draw, plots, stale
from vllm_conda.paths import write_atomic

README = "README.md"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    arguments = parser.parse_args(argv)
    texts = {FOLDER / name: text for name, text in pages().items()}
    texts[ROOT / README] = readme((ROOT / README).read_text(encoding="utf-8"))
    changed = [
        path
        for path, text in texts.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    left = [path for path in FOLDER.glob("*.md") if path not in texts]
    outdated = [plot for plot in plots() if stale(plot)]
    names = [*changed, *left, *(plot.path for plot in outdated)]
    if arguments.check:
        for name in names:
            print(f"{name.relative_to(ROOT)} is stale; run `python -m benchmarks.report`")
        return 1 if names else 0
    for path in changed:
        write_atomic(path, texts[path])
    for path in left:
        path.unlink()
    for plot in outdated:
        draw(plot)
    for name in names:
        print(name.relative_to(ROOT))
    return 0
