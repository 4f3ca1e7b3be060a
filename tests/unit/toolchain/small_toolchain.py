"""The toolchain channel of the small catalog as a program: `python small_toolchain.py WHEELS [X]`.

The small catalog's wheels come from the folder WHEELS, which is filled the first time; without X
that is all. X is the version of one more package, so that every X is another channel.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from toolchain_fakes import CATALOG, make_wheels

from vllm_conda.cli import main
from vllm_conda.toolchain import model

MORE = '\n[packages.more]\nsummary = "m"\nlicense = "MIT"\nversion = "{}"\n'

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if not folder.is_dir():
        make_wheels(folder)
    if not sys.argv[2:]:
        sys.exit()
    os.environ["PIP_NO_INDEX"] = "1"
    os.environ["PIP_FIND_LINKS"] = str(folder)
    os.environ["PIP_CONFIG_FILE"] = os.devnull
    text = CATALOG + MORE.format(sys.argv[2])
    model.catalog_text = lambda: text
    sys.argv[1:] = ["toolchain", "--json"]
    main()
