"""A PostgreSQL server of one test run's own, on a Unix socket in a temporary folder.

Where there is no PostgreSQL the tests that need it are skipped and say so: Debian's package is `postgresql`.
"""

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

__all__ = ["PostgresServer", "postgres_server"]


def _programs() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "postgres").exists() and (place / "initdb").exists()), None)


class PostgresServer:
    """A running server; `database()` gives the URL of a fresh database."""

    def __init__(self, programs: Path, folder: Path, user: str) -> None:
        self._programs, self.folder, self._user = programs, folder, user
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self.folder}", "-c", "fsync=off"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                user=self._user,
                preexec_fn=_die_with_us,  # noqa: PLW1509  tests start it before their threads
            )
        for _ in range(600):
            if self._run("pg_isready", "-h", self.folder, "-t", "1", check=False).returncode == 0:
                return
            if self._process.poll() is not None:
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
        raise RuntimeError((self.folder / "log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once; clients are told
            self._process.wait()
            self._process = None
            (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def database(self) -> str:
        self._count += 1
        name = f"cordee{self._count}"
        self._run("createdb", "-h", self.folder, "-U", "cordee", "-E", "UTF8", "-T", "template0", name)
        return f"postgresql://cordee:secret@/{name}?host={quote(str(self.folder))}"

    def initialise(self) -> None:
        self._run("initdb", "-D", self.folder / "data", "-U", "cordee", "-A", "trust", "-N", "--locale=C")

    def _run(self, program: str, *arguments: object, check: bool = True) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [self._programs / program, *map(str, arguments)],
            user=self._user,
            cwd=self.folder,
            check=check,
            capture_output=True,
        )


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="cordee-pg-", dir="/tmp"))  # a socket's path is at most 107 bytes long
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        user = next((name for name in ("postgres", "nobody") if _exists(name)), "nobody")
        shutil.chown(folder, user)
    server = PostgresServer(programs, folder, user)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _die_with_us() -> None:
    """However this process ends, the server gets SIGQUIT (prctl's PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
