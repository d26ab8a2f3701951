#!/usr/bin/env python
"""Train, register and deploy: ``python scripts/train_model.py --help``."""

import sys

import typer

from shadow_mlops.cli.exits import exit_code
from shadow_mlops.cli.train import train
from shadow_mlops.domain.errors import ShadowError

if __name__ == "__main__":
    try:
        typer.run(train)
    except ShadowError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
