"""What the agent's environment tells a worker, read and checked once.

The launcher writes these variables and nobody else does, so a wrong one is a fault of the house: it is named in one
sentence, and the process ends without a retry.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cordee.worker.credentials import Credentials

__all__ = ["SettingsError", "WorkerSettings"]

T = TypeVar("T")


class SettingsError(Exception):
    """A variable of the worker's environment is missing or wrong."""


@dataclass(frozen=True)
class WorkerSettings:
    """One worker process's place in its job."""

    job: str
    worker: str
    incarnation: str
    coordinator: str
    token: str
    workdir: Path
    script: str
    args: tuple[str, ...]
    bundle: str
    """Empty: the source lies in the image, at `image_source`."""
    threads: int = 1
    orphan_seconds: float = 60.0
    checkpoint_seconds: float = 30.0
    checkpoint_steps: int = 0
    checkpoint_keep: int = 3
    ledger: bool = False
    checkpoint_keep_seconds: float = 0.0
    checkpoint_storage: str = ""
    """A folder or a URL; empty: the job's folder."""
    warm_start: str = ""
    mesh_host: str = "127.0.0.1"
    grace_seconds: float = 30.0
    """How long this process is left alive once it was asked to go; its agent reads the same variable."""
    image_source: str = ""
    """The folder in this worker's image that the source lies in; empty: it comes as a bundle."""
    uploads: str = ""
    """Where this worker leaves its log and its job's result (`cordee.worker.uplink`); empty: in the job's folder."""
    chaos: bool = False
    """Whether faults may be injected into this process."""
    token_file: Path | None = None
    """Where the token lies, in a pod; `token` is empty then."""
    tls: bool = False
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.token, self.token_file, self.tls, self.authority, self.certificate, self.key)

    @property
    def source_root(self) -> Path:
        return self.workdir / "source"

    @property
    def source(self) -> Path:
        return Path(self.image_source) if self.image_source else self.source_root / self.bundle

    @property
    def checkpoints(self) -> str:
        return self.checkpoint_storage or str(self.workdir / "checkpoints")

    @property
    def ledger_path(self) -> Path:
        return self.workdir / "ledger" / "samples.ledger"

    @property
    def result(self) -> Path:
        return self.workdir / "result"

    @property
    def output(self) -> Path:
        return self.workdir / "output"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> WorkerSettings:
        """Reads the CORDEE_* variables; `SettingsError` names the first that is missing or wrong."""
        env = os.environ if environment is None else environment

        def read(name: str, parse: Callable[[str], T], meaning: str, default: str | None = None) -> T:
            text = env.get(name) or default
            if text is None:
                raise SettingsError(
                    f"{name} is not set ({meaning}). A worker is started by Cordee's agent with this variable; "
                    "to train without a coordinator run the script itself: python script.py"
                )
            try:
                return parse(text)
            except ValueError:
                raise SettingsError(f"{name} is {text!r}, which is not {meaning}") from None

        image_source = env.get("CORDEE_SOURCE", "")
        if image_source:
            read("CORDEE_SOURCE", _absolute, "the absolute path of the source in this worker's image")

        def path(name: str) -> Path | None:
            return read(name, _absolute, "the absolute path of a file") if env.get(name) else None

        token_file = path("CORDEE_TOKEN_FILE")
        return cls(
            job=read("CORDEE_JOB", str, "the job's id"),
            worker=read("CORDEE_WORKER", str, "the worker's id"),
            incarnation=read("CORDEE_INCARNATION", str, "this process's incarnation", os.urandom(8).hex()),
            coordinator=read("CORDEE_COORDINATOR", _address, "the coordinator's gRPC address, host:port"),
            token="" if token_file is not None else read("CORDEE_TOKEN", str, "the job's worker token"),
            token_file=token_file,
            tls=read("CORDEE_TLS", _switch, "0 or 1", "0"),
            authority=path("CORDEE_CA_FILE"),
            certificate=path("CORDEE_CERT_FILE"),
            key=path("CORDEE_KEY_FILE"),
            workdir=read("CORDEE_WORKDIR", _absolute, "the absolute path of the job's folder on this machine"),
            script=read("CORDEE_SCRIPT", _inside, "the script's path inside the job's source"),
            args=read("CORDEE_ARGS", _strings, "a JSON list of strings, the script's arguments", "[]"),
            bundle=(
                ""
                if image_source
                else read("CORDEE_BUNDLE", _sha256, "the SHA-256 of the job's source bundle, in hexadecimal")
            ),
            image_source=image_source,
            threads=read("CORDEE_THREADS", _count, "a number of threads, from 1", "1"),
            orphan_seconds=read("CORDEE_ORPHAN_SECONDS", _seconds, "a number of seconds above 0", "60"),
            checkpoint_seconds=read("CORDEE_CHECKPOINT_SECONDS", _amount, "a number of seconds, from 0", "30"),
            checkpoint_steps=read("CORDEE_CHECKPOINT_STEPS", _natural, "a number of steps, from 0", "0"),
            checkpoint_keep=read("CORDEE_CHECKPOINT_KEEP", _count, "a number of checkpoints, from 1", "3"),
            ledger=read("CORDEE_LEDGER", _switch, "0 or 1", "0"),
            grace_seconds=read("CORDEE_GRACE_SECONDS", _amount, "a number of seconds, from 0", "30"),
            uploads=env.get("CORDEE_UPLOADS", ""),
            chaos=env.get("CORDEE_CHAOS") == "1",
            checkpoint_keep_seconds=read("CORDEE_CHECKPOINT_KEEP_SECONDS", _amount, "a number of seconds, from 0", "0"),
            checkpoint_storage=env.get("CORDEE_CHECKPOINT_STORAGE", ""),
            warm_start=env.get("CORDEE_WARM_START", ""),
            mesh_host=read("CORDEE_MESH_HOST", str, "the address where peers reach this worker", "127.0.0.1"),
        )


def _address(text: str) -> str:
    host, separator, port = text.rpartition(":")
    if not separator or not host or not 0 < int(port) < 65536:
        raise ValueError
    return text


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError
    return path


def _inside(text: str) -> str:
    if Path(text).is_absolute() or ".." in Path(text).parts:
        raise ValueError
    return text


def _strings(text: str) -> tuple[str, ...]:
    items = json.loads(text)  # its JSONDecodeError is a ValueError
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError
    return tuple(items)


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError
    return text


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError
    return text == "1"


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _amount(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


def _seconds(text: str) -> float:
    number = _amount(text)
    if number == 0:
        raise ValueError
    return number
