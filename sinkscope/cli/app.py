"""The ``sinkscope`` command: its subcommands, and how errors reach the user.

An error that the user's input caused is one line on standard error and exit code 2;
``--debug`` anywhere on the line shows the traceback instead.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from sinkscope import __version__
from sinkscope.cli.ablate import ablate
from sinkscope.cli.compare import compare
from sinkscope.cli.convert import convert
from sinkscope.cli.demo import demo
from sinkscope.cli.evaluate import evaluate
from sinkscope.cli.heatmap import heatmap
from sinkscope.cli.models import models
from sinkscope.cli.rates import rates
from sinkscope.cli.scan import scan
from sinkscope.cli.train import train
from sinkscope.cli.transcribe import transcribe
from sinkscope.errors import SinkscopeError

__all__ = ["app", "main"]

USER_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    name="sinkscope",
    help="See the attention sinks and massive activations of audio-visual LLMs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    *(demo, scan, heatmap, transcribe, evaluate),
    *(ablate, train, compare, rates, models, convert),
):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sinkscope {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """See the attention sinks and massive activations of audio-visual LLMs."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: the words after ``sinkscope``; those of the process if left out.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = app(args=words, prog_name="sinkscope", standalone_mode=False)
    except (SinkscopeError, OSError) as error:
        if debug:
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None or debug:
            raise
        _fail(message())
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    line = " ".join(message.split())
    typer.echo(f"sinkscope: {line}", err=True)
    sys.exit(USER_ERROR)
