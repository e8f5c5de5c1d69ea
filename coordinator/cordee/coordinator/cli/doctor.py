"""`cordee doctor`: what computes on this machine, what it gains beside NumPy alone, and what would change it.

Looking and timing are the trainer's, which this package does not import: it runs as a process of its own and answers
in JSON.
"""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import typer

from cordee.coordinator.cli.errors import ExitCode, UsageError, guarded
from cordee.coordinator.cli.options import Format, OutputOption
from cordee.coordinator.cli.output import clean, columns, count, dump, facts, is_document, size, write
from cordee.coordinator.errors import CoordinatorError

__all__ = ["doctor"]

_TOOL: Final = ("-P", "-m", "cordee.trainer.doctor")
_TIMES: Final = {"numpy": "NUMPY", "in_use": "NOW", "installed": "WITH ALL"}
_FACTORS: Final = {"gain": "GAIN", "possible": "GAIN OF ALL"}
_WIDTH: Final = 100


@guarded
def doctor(
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Time a dozen computations.")] = True,
    output: OutputOption = None,
) -> None:
    """Say which kernels are in use on this machine, what they gain, and what is missing.

    It looks at this machine as a script started from here would find it: with these environment variables, by this
    Python. Timing takes a few seconds, and more when loops are compiled for the first time.
    """
    found = _examined([] if measure else ["--no-measure"])
    if is_document(output):
        dump(found, output)
    else:
        write(_told(found, wide=output is Format.WIDE))


def _examined(words: list[str]) -> dict[str, Any]:
    """What the tool finds, or a `CoordinatorError`."""
    process = subprocess.run(
        [sys.executable, *_TOOL, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    try:
        answer: dict[str, Any] = json.loads(process.stdout)
    except ValueError:
        last = process.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise CoordinatorError(f"nothing could be found out: {last[0]} (exit code {process.returncode})") from None
    if process.returncode == ExitCode.USAGE:
        raise UsageError(str(answer["error"]))
    return answer


def _told(found: dict[str, Any], *, wide: bool) -> str:
    """The findings, for people."""
    parts = [facts({name: clean(value) for name, value in _machine(found).items()}), columns(list(_providers(found)))]
    if wide:
        parts.append(columns([["KERNEL", "COMPUTED BY"], *sorted(found["kernels"]["by"].items())]))
    if found["gains"] is not None:
        parts.append(columns(list(_gains(found["gains"]))))
    if found["advice"]:
        parts.append("\n".join(_item(clean(sentence)) for sentence in found["advice"]))
    return "\n\n".join(parts)


def _item(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def _machine(found: dict[str, Any]) -> dict[str, str]:
    versions, machine, threads, cache = (found[name] for name in ("versions", "machine", "threads", "cache"))
    quota = "no quota" if machine["quota"] is None else f"a quota of {machine['quota']:g}"
    has = " ".join(name for name, there in machine["instructions"].items() if there)
    lacks = " ".join(name for name, there in machine["instructions"].items() if not there)
    team = f"{threads['team_size']} now, by GCC's OpenMP; 1 in a fork of a process that has computed on more"
    kept = f"{count(cache['files'], 'file')}, {size(cache['bytes'])}"
    return {
        "machine": f"{machine['name']} ({machine['machine']})",
        "cores": f"{machine['cores']}; {machine['allowed']} for this process, {quota}",
        "has": (has or "nothing that kernels ask for") + (f"; not {lacks}" if lacks else ""),
        "threads": f"{threads['num']}, {'by ' + threads['chosen_by'] if threads['chosen_by'] else 'the default'}",
        "team": team if threads["team"] else "none: GCC's OpenMP is not there, so kernels run on 1 thread",
        "versions": f"cordee {versions['cordee']}, Python {versions['python']}, NumPy {versions['numpy']}",
        "numpy": " ".join(found["numpy"]["instructions"]) or "its basic loops",
        "blas": "; ".join(_blas(blas) for blas in found["numpy"]["blas"]) or "unknown",
        "kernels": f"{' '.join(found['kernels']['in_use']) or 'NumPy alone'} ({_choice(found['kernels'])})",
        "cache": f"not used: {cache['trouble']}" if cache["trouble"] else f"{cache['folder']} ({kept})",
        "gpu": _gpu(found["gpu"]),
    }


def _blas(blas: Mapping[str, Any]) -> str:
    loops = f" {blas['loops']}" if blas["loops"] else ""
    return f"{blas['library']} {blas['version']}{loops}, {count(blas['threads'], 'thread')}"


def _choice(kernels: Mapping[str, Any]) -> str:
    return f"CORDEE_KERNELS={kernels['wanted']}" if kernels["wanted"] else "CORDEE_KERNELS is not set"


def _gpu(gpu: Mapping[str, Any]) -> str:
    if not gpu["devices"]:
        cupy = f"CuPy {gpu['cupy']}" if gpu["cupy"] else "no CuPy"
        return f"{', '.join(gpu['known']) or 'none that a driver knows'}; {cupy}"
    names = ", ".join(f"{device['name']} ({size(device['memory_bytes'])})" for device in gpu["devices"])
    nccl = f"NCCL {gpu['nccl']}" if gpu["nccl"] else "no NCCL"
    use = "in use" if gpu["in_use"] else "not in use"
    return f"{names}: {use}; CuPy {gpu['cupy']}, a driver for CUDA {gpu['driver']}, {nccl}"


def _providers(found: dict[str, Any]) -> Iterator[list[str]]:
    yield ["KERNELS BY", "STATE", "PACKAGE", "WHAT"]
    for provider in found["kernels"]["providers"]:
        package = f"{provider['package']} {provider['version'] or '(not installed)'}"
        yield [provider["name"], provider["state"], package, provider["doc"]]


def _gains(gains: dict[str, Any]) -> Iterator[list[str]]:
    """How long each takes, and how many times as fast as NumPy alone that is."""
    ways = list(gains["ways"])
    factors = [name for name in _FACTORS if gains[name] is not None]
    yield ["OPERATION", "SIZE", *(_TIMES[way] for way in ways), *(_FACTORS[name] for name in factors)]
    for row in gains["rows"]:
        times = [f"{row['seconds'][way] * 1000.0:.3f} ms" for way in ways]
        yield [row["name"], row["size"], *times, *(f"{row[name]:.2f}×" for name in factors)]
    if factors:
        yield ["geometric mean", "", *("" for _ in ways), *(f"{gains[name]:.2f}×" for name in factors)]
