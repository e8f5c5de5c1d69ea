"""The image that the words for people build is the one that the chart asks for, and runs as the chart runs it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VALUES = yaml.safe_load((ROOT / "helm" / "cordee" / "values.yaml").read_text(encoding="utf-8"))
NAME = f"{VALUES['image']['registry']}/{VALUES['image']['repository']}"
CPU, CUDA = (f"{NAME}:{PROJECT['version']}{variant}" for variant in ("", "-cuda"))
"""The chart's tag is its `appVersion`, which is the package's version (test_chart_docs.py)."""
DESCRIBED = ("Dockerfile", "docs/how-to/build-the-image.md", "docs/how-to/kubernetes.md")


def words(name: str) -> str:
    """A page, with its comments' signs and continued lines taken away."""
    return re.sub(r"\\\n#? *", " ", (ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", DESCRIBED)
def test_what_is_built_loaded_and_run_is_what_the_chart_asks_for(page: str) -> None:
    named = set()
    for command in re.findall(r"(?:docker (?:build|run)|kind load|k3d image|minikube image) .*", words(page)):
        images = set(re.findall(r"[\w./-]*cordee:[\w.-]+", command))
        assert not images or images == {CUDA if re.search("EXTRAS=cuda|--gpus", command) else CPU}, command
        named |= images
    assert CPU in named


def test_the_tag_of_the_other_variant_is_the_one_that_is_built() -> None:
    files = ("helm/cordee/values.yaml", "helm/cordee/ci/everything-values.yaml", "docs/how-to/kubernetes.md")
    for file in files:
        tags = re.findall(r"tag: ([\w.]+-cuda)", (ROOT / file).read_text(encoding="utf-8"))
        assert tags, file
        assert {f"{NAME}:{tag}" for tag in tags} == {CUDA}, file


def test_it_says_its_version_and_names_extras_that_there_are() -> None:
    assert re.findall(r"^ARG VERSION=(.+)$", DOCKERFILE, re.M) == [PROJECT["version"]]
    (extras,) = re.findall(r'"([a-z,]+),\$\{EXTRAS\}"', DOCKERFILE)
    assert {*extras.split(","), "cuda-libraries"} <= set(PROJECT["optional-dependencies"])


def test_it_runs_as_whom_the_chart_runs_it_and_listens_where() -> None:
    security = VALUES["coordinator"]["podSecurityContext"]
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.M) == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    deployment = (ROOT / "helm" / "cordee" / "templates" / "deployment.yaml").read_text(encoding="utf-8")
    (ports,) = re.findall(r"^EXPOSE (.+)$", DOCKERFILE, re.M)
    assert ports.split() == re.findall(r"containerPort: (\d+)", deployment)


def test_it_leaves_to_the_node_which_gpus_there_are() -> None:
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in DOCKERFILE
    assert not re.search(r"NVIDIA_VISIBLE_DEVICES *=", DOCKERFILE)


def test_what_it_leaves_out_of_kubernetes_client_is_not_opened(tmp_path: Path) -> None:
    config = {
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "a", "user": {}}],
    }
    contexts = {"contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}], "current-context": "a"}
    (tmp_path / "config").write_text(yaml.safe_dump({**config, **contexts}), encoding="utf-8")
    assert "rm -rf kubernetes/aio kubernetes/client/api " in DOCKERFILE
    code = (
        "import sys\n"
        "from cordee.coordinator.config import Kubernetes\n"
        "from cordee.k8s.api import Api, UnreachableError\n"
        "try: Api.connect(Kubernetes(kubeconfig=sys.argv[1])).request('POST', '/api', body={})\n"
        "except UnreachableError: print(*(name for name in sys.modules if name.startswith('kubernetes.')))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "config"], capture_output=True, text=True, check=True, timeout=60
    )
    opened = found.stdout.split()
    assert "kubernetes.client.api_client" in opened
    left_out = ("kubernetes.aio", "kubernetes.client.api.", "kubernetes.client.models.")
    assert not [name for name in opened if name.startswith(left_out)]
