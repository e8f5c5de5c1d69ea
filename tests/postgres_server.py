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

    def __init__(self, programs: Path, folder: Path, user: str, address: str = "", port: int = 5432) -> None:
        self._programs, self.folder, self._user = programs, folder, user
        self._address, self.port = address, port
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = [
            "-c",
            f"listen_addresses={self._address}",
            "-p",
            str(self.port),
            "-c",
            f"unix_socket_directories={self.folder}",
            "-c",
            "fsync=off",
        ]
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
            if self._run("pg_isready", "-h", self.folder, "-p", self.port, "-t", "1", check=False).returncode == 0:
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
        self._run("createdb", "-h", self.folder, "-p", self.port, "-U", "cordee", "-E", "UTF8", "-T", "template0", name)
        return f"postgresql://cordee:secret@/{name}?host={quote(str(self.folder))}"

    def remote_database(self) -> str:
        """The URL of a fresh database for those who come over the network, with a password."""
        name = self.database().partition("?")[0].rpartition("/")[2]
        return f"postgresql://cordee:secret@{self._address}:{self.port}/{name}"

    def initialise(self) -> None:
        password = self.folder / "password"
        password.write_text("secret")
        shutil.chown(password, self._user)
        self._run(
            "initdb", "-D", self.folder / "data", "-U", "cordee", "--auth-local=trust", "--auth-host=scram-sha-256",
            f"--pwfile={password}", "-N", "--locale=C",
        )  # fmt: skip
        if self._address:
            with (self.folder / "data" / "pg_hba.conf").open("a") as rules:
                rules.write("host all all 10.0.0.0/8 scram-sha-256\n")

    def _run(self, program: str, *arguments: object, check: bool = True) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [self._programs / program, *map(str, arguments)],
            user=self._user,
            cwd=self.folder,
            check=check,
            capture_output=True,
        )


@contextlib.contextmanager
def postgres_server(address: str = "", port: int = 5432) -> Iterator[PostgresServer]:
    """On a Unix socket, and on an address of this machine where one is given."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="cordee-pg-", dir="/tmp"))  # a socket's path is at most 107 bytes long
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        user = next((name for name in ("postgres", "nobody") if _exists(name)), "nobody")
        shutil.chown(folder, user)
    server = PostgresServer(programs, folder, user, address, port)
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
