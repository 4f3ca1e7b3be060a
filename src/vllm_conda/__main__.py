"""The program `vllm-conda`, also as `python -m vllm_conda`."""

import signal
import sys


def main() -> int:
    """Run the command line and return its exit code."""
    # Until the command line takes over, Python would answer Ctrl-C with where it imports.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vllm_conda.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
