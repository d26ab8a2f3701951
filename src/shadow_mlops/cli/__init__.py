"""The ``shadow`` command: parse, call one function, render."""

from shadow_mlops.cli.app import main

__all__ = ["main"]
