"""The `cordee` command: its families of commands, its global options, and its last line of defence."""

import atexit
import gc
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from cordee.coordinator.cli.chaos import chaos
from cordee.coordinator.cli.checkpoints import checkpoints
from cordee.coordinator.cli.completion import completion
from cordee.coordinator.cli.doctor import doctor
from cordee.coordinator.cli.errors import ExitCode, debug, report, set_debug
from cordee.coordinator.cli.fetch import fetch
from cordee.coordinator.cli.jobs import cancel, delete, jobs, scale, status, wait
from cordee.coordinator.cli.ledger import ledger
from cordee.coordinator.cli.logs import logs
from cordee.coordinator.cli.run import run
from cordee.coordinator.cli.script_command import ScriptCommand
from cordee.coordinator.cli.serve import coordinator
from cordee.coordinator.cli.submit import schema, submit

__all__ = ["app", "main"]

_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

# Plain help: it is read in pipes and pagers too, and a markup library would double the time `--help` takes.
app = typer.Typer(
    name="cordee",
    help="Elastic, fault-tolerant training that ends with the same weights, bit for bit, whatever fails.",
    epilog="Exit codes: 0 done, 1 error, 2 usage, 100 job failed, 101 unfinished, 102 not found, 103 cancelled.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cordee {version('cordee')}")
        raise typer.Exit


@app.callback()
def _cordee(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    show_debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (or CORDEE_DEBUG=1).")] = False,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="What the coordinator is verified by (or CORDEE_CA).")
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option("--cert", metavar="FILE", help="Our certificate, for mutual TLS (or CORDEE_CERT)."),
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its private key (or CORDEE_KEY).")] = None,
) -> None:
    set_debug(show_debug)
    # They stand before the command's name, where no script's own options can be meant.
    for name, file in (("CORDEE_CA", ca), ("CORDEE_CERT", cert), ("CORDEE_KEY", key)):
        if file is not None:
            os.environ[name] = str(file)


app.command("run", cls=ScriptCommand, context_settings=_SETTINGS)(run)
app.command("submit", cls=ScriptCommand, context_settings=_SETTINGS)(submit)
_OTHERS = (
    jobs,
    status,
    logs,
    scale,
    cancel,
    delete,
    wait,
    fetch,
    checkpoints,
    ledger,
    coordinator,
    doctor,
    schema,
    completion,
    chaos,
)
for _command in _OTHERS:
    app.command(_command.__name__, context_settings=_SETTINGS)(_command)


def main() -> NoReturn:
    """The entry point: whatever happens, the process ends with a documented exit code and no traceback."""
    # Nothing of what imports make is garbage; to look for it, over and over and once more at the end, is a quarter of
    # what a short command costs.
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a script may print what this terminal's encoding lacks
    try:
        app(prog_name="cordee")
    except BrokenPipeError:
        # The reader of our pipe has gone, which is its right; nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.ERROR)
    except KeyboardInterrupt:
        sys.exit(ExitCode.UNFINISHED)
    except Exception as error:
        if debug():
            raise
        report(
            f"{type(error).__name__}: {error}",
            "this is a bug in Cordee, or something about this machine it does not expect; cordee --debug … shows where",
        )
        sys.exit(ExitCode.ERROR)
    sys.exit(ExitCode.DONE)
