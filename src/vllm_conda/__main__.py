"""`python -m vllm_conda`."""

import sys

from vllm_conda.cli import main

sys.exit(main())
