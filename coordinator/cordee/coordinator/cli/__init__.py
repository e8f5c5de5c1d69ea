"""The command line: `cordee`.

Each command family has its file. What a command needs beyond the standard library and Typer is imported inside it, so
that `cordee --version` costs what Typer costs. stdout carries payload only; everything said to people goes to stderr.
"""

from cordee.coordinator.cli.app import app, main

__all__ = ["app", "main"]
