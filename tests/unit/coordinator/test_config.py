"""The coordinator's configuration file: all mistakes at once, each with its line."""

from pathlib import Path

import pytest

from cordee.coordinator.config import Config, config_schema, load_config
from cordee.coordinator.spec import SpecError


def test_an_empty_configuration_is_a_laptops() -> None:
    config = Config()
    assert config.listen.host == "127.0.0.1"
    assert config.launcher == "process"
    assert config.auth.token_file is None


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.yaml"
    path.write_text(
        "apiVersion: cordee.dev/v1alpha1\nkind: CoordinatorConfig\nlauncher: kubernetes\n"
        "listen: {host: 0.0.0.0, metricsPort: 9090}\nauth: {tokenReview: {audiences: [cordee]}}\n"
    )
    config = load_config(path)
    assert (config.launcher, config.listen.host, config.listen.metrics_port) == ("kubernetes", "0.0.0.0", 9090)
    assert config.auth.token_review is not None
    assert config.auth.token_review.audiences == ("cordee",)


def test_every_mistake_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.yaml"
    path.write_text(
        "apiVersion: cordee.dev/v1alpha1\nkind: CoordinatorConfig\nlisten: {grpcPort: '3'}\n"
        "tls: {certificate: a, key: /b}\nauth:\n  oidc: {issuer: https://a}\nstat: /x\n"
    )
    with pytest.raises(SpecError) as caught:
        load_config(path)
    said = str(caught.value)
    for field in ("listen.grpcPort", "tls.certificate", "auth.oidc.audience", "stat"):
        assert field in said
    assert "stat is not a field of the coordinator's configuration file; did you mean state?" in said
    assert [problem.line for problem in caught.value.problems] == sorted(p.line or 0 for p in caught.value.problems)


@pytest.mark.parametrize("text", ["", "[1]", "hello"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "coordinator.yaml"
    path.write_text(text)
    with pytest.raises(SpecError):
        load_config(path)


def test_the_schema_names_itself() -> None:
    assert config_schema()["$id"].endswith("CoordinatorConfig")
