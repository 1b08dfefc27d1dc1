"""Trains, evaluates or predicts: ``python tools/run.py config=FILE key=value ...``, also under ``torchrun``."""

import sys

from msd_framework.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
