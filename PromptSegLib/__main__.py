"""``python -m PromptSegLib``: the command line."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from .cli.main import main
from .cli.pretraining import launched


def run() -> NoReturn:
    """Run the command and end this process with its exit code."""
    code = main()
    if launched():
        # DistributedDataParallel keeps gloo's threads alive, whatever is destroyed before. One that drops the last
        # tensor it summed only after Python has begun to end aborts the process (pytorch/pytorch issue 190489).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
