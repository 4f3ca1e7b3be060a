"""`vllm-conda engine build` with one wheel as the engine's dependencies, as a program.

`python small_engine.py WHEELS ROOT CHANNEL`
"""

from __future__ import annotations

import os
import sys

from vllm_conda.cli import main
from vllm_conda.engine import channel

WHEELS_TEXT = 'schema = 1\n[pins]\nwheels = ["demo==1.0"]\n'

if __name__ == "__main__":
    folder, root, address = sys.argv[1:]
    os.environ["PIP_NO_INDEX"] = "1"
    os.environ["PIP_FIND_LINKS"] = folder
    os.environ["PIP_CONFIG_FILE"] = os.devnull
    channel.wheels_text = lambda: WHEELS_TEXT
    sys.argv[1:] = ["engine", "build", "--root", root, "--channel", address]
    main()
