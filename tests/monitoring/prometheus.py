"""A real Prometheus for tests, and Grafana's half of a question: what it puts in place of its variables."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

__all__ = ["NEEDS_PROMETHEUS", "SCRAPE_SECONDS", "Prometheus", "interpolated"]

NEEDS_PROMETHEUS = "needs Prometheus (Debian: apt-get install prometheus)"
SCRAPE_SECONDS = 1
_DEADLINE_SECONDS = 60.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def interpolated(expr: str, *, step: int, seconds: float, variables: dict[str, str]) -> str:
    """A query as Grafana sends it. $__rate_interval is as its documentation defines it:
    max($__interval + scrape interval, 4 * scrape interval)."""
    values = {
        "__rate_interval": f"{max(step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)}s",
        "__interval_ms": str(step * 1000),
        "__interval": f"{step}s",
        "__range": f"{max(round(seconds), 1)}s",
        **variables,
    }
    return re.sub(r"\$\{?(\w+)\}?", lambda match: values[match[1]], expr)


class Prometheus:
    """One that scrapes a coordinator every second, with the token in a file, as the documentation says."""

    def __init__(self, folder: Path, target: str, token: Path) -> None:
        tool = shutil.which("prometheus")
        if tool is None:
            pytest.skip(NEEDS_PROMETHEUS)
        folder.mkdir()
        config = {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s"},
            "scrape_configs": [
                {
                    "job_name": "cordee",
                    "authorization": {"credentials_file": str(token)},
                    # In a cluster the operator adds such a label.
                    "static_configs": [{"targets": [target], "labels": {"namespace": "here"}}],
                }
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.url = f"http://{address}"
        self._said = folder / "said.txt"
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                [tool, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                 f"--web.listen-address={address}", "--log.level=warn"],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            )  # fmt: skip
        self.began = time.time()
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while True:
            try:
                with _DIRECT.open(f"{self.url}/-/ready", timeout=5):
                    return
            except OSError:
                assert self.process.poll() is None, self._said.read_text()
                assert time.monotonic() < deadline, self._said.read_text()
                time.sleep(0.05)  # it has no other way to say that it is ready

    def ask(self, path: str, **parameters: str | float) -> list[dict[str, Any]]:
        """The result of a query."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with _DIRECT.open(url, timeout=30) as answer:
                told = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        assert told["status"] == "success", told
        assert not told.get("warnings"), told
        return told["data"]["result"]

    def found(self, expr: str, *, instant: bool, until: float, step: int, variables: dict[str, str]) -> bool:
        """Whether a query of a panel has data: at least one number, over the time since this began."""
        query = interpolated(expr, step=step, seconds=until - self.began, variables=variables)
        if instant:
            series = [[one["value"]] for one in self.ask("query", query=query, time=until)]
        else:
            start = self.began - self.began % step  # as Grafana aligns it
            series = [one["values"] for one in self.ask("query_range", query=query, start=start, end=until, step=step)]
        return any(math.isfinite(float(value)) for values in series for _, value in values)

    def until(self, expr: str, what: str) -> None:
        """Wait until an instant query has a result. It has no way to tell that it scraped: so it is asked."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not self.ask("query", query=expr):
            assert time.monotonic() < deadline, f"not within {_DEADLINE_SECONDS:.0f} s: {what}"
            time.sleep(0.2)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)
