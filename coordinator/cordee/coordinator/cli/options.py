"""Options that several commands share, declared once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cordee.coordinator.cli.completion import complete_choices, complete_jobs

__all__ = [
    "AllowChaosOption",
    "ArgsArgument",
    "CheckpointOption",
    "CheckpointStorageOption",
    "DeviceOption",
    "EnvOption",
    "Format",
    "JobArgument",
    "LauncherOption",
    "LedgerOption",
    "NameOption",
    "OutputOption",
    "ReportOption",
    "ScriptArgument",
    "ServerOption",
    "SourceOption",
    "StateOption",
    "ThreadsOption",
    "WarmStartOption",
    "WorkersOption",
]


class Format(StrEnum):
    """How a result is printed."""

    JSON = "json"
    YAML = "yaml"
    WIDE = "wide"


ServerOption = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="The coordinator's address (or CORDEE_SERVER, with CORDEE_TOKEN)."),
]
StateOption = Annotated[
    Path | None,
    typer.Option("--state", metavar="DIR", help="The state folder of the coordinator to talk to."),
]
OutputOption = Annotated[
    Format | None, typer.Option("--output", "-o", help="Print json, yaml or a wide table.", show_choices=True)
]
JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="A job's id, or its name: the newest of that name.", autocompletion=complete_jobs
    ),
]

ScriptArgument = Annotated[
    Path, typer.Argument(metavar="SCRIPT", help="The training script, or a job file (.yaml).", show_default=False)
]
ArgsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SCRIPT ARGS]...", help="The script's own arguments.", show_default=False),
]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        "--workers", "-w", metavar="N|MIN:MAX", help="How many workers: fixed, or elastic between two counts."
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="BLAS threads per worker; part of the result's identity.")
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="cpu|cuda|auto", help="Where to compute.", autocompletion=complete_choices("DEVICES")
    ),
]
LauncherOption = Annotated[
    str | None,
    typer.Option(
        "--launcher",
        metavar="process|kubernetes",
        help="What must start the workers (default: whatever the coordinator has).",
        autocompletion=complete_choices("LAUNCHERS"),
    ),
]
NameOption = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="The job's name (default: the script's).")
]
EnvOption = Annotated[
    list[str] | None, typer.Option("--env", "-e", metavar="KEY=VALUE", help="A variable for the script; repeatable.")
]
CheckpointOption = Annotated[
    float | None,
    typer.Option("--checkpoint-every", metavar="SECONDS", help="Seconds between checkpoints (default: 30; 0: none)."),
]
AllowChaosOption = Annotated[
    bool, typer.Option("--allow-chaos", help="Allow that faults are injected into this job: cordee chaos.")
]
CheckpointStorageOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-storage",
        metavar="PLACE",
        help="Where checkpoints lie: a folder, s3://bucket/prefix, gs://… or az://… (default: the job's folder).",
    ),
]
WarmStartOption = Annotated[
    str | None,
    typer.Option(
        "--warm-start",
        metavar="PLACE|JOB",
        help="Weights to begin with: a checkpoint, a .safetensors file, a URL, or a job's id or name.",
        autocompletion=complete_jobs,
    ),
]
LedgerOption = Annotated[
    bool, typer.Option("--ledger", help="Note which samples every step consumed: cordee ledger proves by it.")
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="DIR", help="Write report.html, report.json and recording.json there."),
]
SourceOption = Annotated[
    Path | None,
    typer.Option("--source", metavar="DIR", help="The folder that travels with the job (default: the script's)."),
]
