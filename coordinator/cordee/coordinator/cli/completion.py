"""Shell completion: the scripts for the shells, and the names of jobs and choices."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Final

import typer

from cordee.coordinator.cli.errors import guarded

__all__ = ["complete_choices", "complete_jobs", "completion"]


_NUM_ENDED: Final = 100  # of jobs that have ended the newest so many: pressing a key must not fetch a year's history


class Shell(StrEnum):
    """The shells Typer can complete in."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def complete_jobs(incomplete: str) -> list[tuple[str, str]]:
    """Ids and names of jobs, with their states. Completion never complains: without a coordinator there is nothing."""
    try:
        from cordee.coordinator.discovery import connect
        from cordee.coordinator.selection import Selection

        with connect() as coordinators:
            jobs = coordinators.jobs(Selection(ended=_NUM_ENDED))
    except Exception:
        return []
    names: dict[str, str] = {}
    for job in jobs:
        names.setdefault(job["id"], job["state"])
    for job in jobs:
        names.setdefault(job["name"], f"newest: {job['state']}")
    return [(name, help) for name, help in names.items() if name.startswith(incomplete)]


def complete_choices(table: str) -> Callable[[str], list[str]]:
    """The choices of a field of the job file, by the name of their table there."""

    def choices(incomplete: str) -> list[str]:
        from cordee.coordinator import spec

        return [choice for choice in getattr(spec, table) if choice.startswith(incomplete)]

    return choices


@guarded
def completion(shell: Annotated[Shell, typer.Argument(help="Which shell.")]) -> None:
    """Print a shell's completion script; in bash: eval "$(cordee completion bash)"."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    typer.echo(get_completion_script(prog_name="cordee", complete_var="_CORDEE_COMPLETE", shell=shell.value))
