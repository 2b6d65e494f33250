"""The command line: one file a command; each parses, calls the package, and writes."""

from sinkscope.cli.app import main

__all__ = ["main"]
