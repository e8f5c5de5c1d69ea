"""The chart, rendered by Helm itself and parsed: `render` for objects, `refusal` for what Helm says of wrong values."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import binaries

__all__ = ["CASES", "CHART", "Rendered", "needs_helm", "refusal", "render"]

CHART = Path(__file__).resolve().parents[2] / "helm" / "cordee"
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
"""The values of helm/cordee/ci: what people really set, between them every value of the chart."""
HOOK = "helm.sh/hook"

Object = dict[str, Any]


@dataclass(frozen=True)
class Rendered:
    """The objects of one `helm template`, hooks included."""

    objects: tuple[Object, ...]
    text: str

    def __iter__(self) -> Iterator[Object]:
        return iter(self.objects)

    def all(self, kind: str, suffix: str = "") -> list[Object]:
        """Those of a kind, whose name ends so."""
        return [o for o in self.objects if o["kind"] == kind and o["metadata"]["name"].endswith(suffix)]

    def one(self, kind: str, suffix: str = "") -> Object:
        """The only one of a kind, whose name ends so."""
        (found,) = self.all(kind, suffix)
        return found

    @property
    def pods(self) -> dict[str, Object]:
        """The specs of all pods that come of these objects, by component: coordinator, cleanup, test."""
        makers = [*self.all("Pod"), *self.all("Deployment")]
        templates = [o["spec"].get("template", o) for o in makers]
        return {t["metadata"]["labels"]["app.kubernetes.io/component"]: t["spec"] for t in templates}

    @property
    def config(self) -> str:
        """The coordinator's configuration file."""
        (text,) = [o["data"]["config.yaml"] for o in self.all("ConfigMap") if "config.yaml" in o.get("data", ())]
        return str(text)


def render(
    values: Mapping[str, Any] | None = None,
    *,
    case: str | None = None,
    release: str = "rel",
    namespace: str = "training",
    arguments: tuple[str, ...] = (),
) -> Rendered:
    """The chart with values of a file of helm/cordee/ci, of a mapping, or both."""
    return _render(json.dumps(values or {}), case, release, namespace, arguments)


@functools.cache
def _render(values: str, case: str | None, release: str, namespace: str, arguments: tuple[str, ...]) -> Rendered:
    done = _template(values, case, release, namespace, arguments)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "Helm warned"
    objects = tuple(o for o in yaml.safe_load_all(done.stdout) if o)
    return Rendered(objects, done.stdout)


def refusal(values: Mapping[str, Any], arguments: tuple[str, ...] = ()) -> str:
    """What Helm says of values that the chart does not take."""
    done = _template(json.dumps(values), None, "rel", "training", arguments)
    assert done.returncode != 0, "these values were taken"
    return done.stderr


def _template(
    values: str, case: str | None, release: str, namespace: str, arguments: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    files = [str(CHART / "ci" / f"{case}-values.yaml")] if case else []
    with tempfile.TemporaryDirectory() as home:
        return subprocess.run(
            [
                *(str(binaries.binary("helm")), "template", release, str(CHART), "--namespace", namespace),
                *(f"--values={file}" for file in files),
                *("--values=-", *arguments),
            ],
            input=values,
            env={**os.environ, "HELM_CACHE_HOME": home, "HELM_CONFIG_HOME": home, "HELM_DATA_HOME": home},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


needs_helm = pytest.mark.skipif(not binaries.binary("helm").exists(), reason=binaries.HOW_TO_GET.format(missing="helm"))
