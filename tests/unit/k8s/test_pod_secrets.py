"""Which Secrets a job may name: all but the platform's by default, those of a list where an installation has one."""

from typing import Any

import pytest
from pydantic import ValidationError
from tests.unit.k8s.test_pods import config, in_worker, make, template

from cordee.coordinator.errors import InvalidError

NAMED: list[tuple[dict[str, Any], str]] = [
    ({"secretEnv": {"A": {"name": "payroll", "key": "k"}}}, "payroll"),
    ({"envFrom": [{"secretRef": {"name": "payroll"}}]}, "payroll"),
    ({"imagePullSecrets": ["payroll"]}, "payroll"),
    (template(imagePullSecrets=[{"name": "payroll"}]), "payroll"),
    ({"volumes": [{"name": "v", "secret": {"secretName": "payroll"}}]}, "payroll"),
    ({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "payroll"}}]}}]}, "payroll"),
    ({"volumes": [{"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "payroll"}}}]}, "payroll"),
    ({"volumes": [{"name": "v", "csi": {"driver": "d", "volumeAttributes": {"secretName": "payroll"}}}]}, "payroll"),
    (in_worker(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "payroll", "key": "k"}}}]), "payroll"),
    (template(initContainers=[{"name": "i", "envFrom": [{"secretRef": {"name": "payroll"}}]}]), "payroll"),
]


@pytest.mark.parametrize(("pod", "name"), NAMED, ids=range(len(NAMED)))
def test_a_secret_by_whatever_field_is_a_jobs_by_default_and_where_there_is_a_list_only_if_it_is_in_it(
    pod: dict[str, Any], name: str
) -> None:
    assert name in str(make(pod))
    for allowed in (["payroll"], ["job-*", "pay*"], ["payrol?"]):
        assert name in str(make(pod, config(allowedSecrets=allowed)))
    for allowed in ([], ["job-*"], ["payroll-2", "roll"]):
        with pytest.raises(InvalidError, match=f"spec.pod names the Secret {name}, which jobs may not have") as caught:
            make(pod, config(allowedSecrets=allowed))
        assert caught.value.hint.endswith(f": {', '.join(allowed) or 'none'}")


def test_what_the_installation_itself_gives_to_every_job_needs_no_leave() -> None:
    defaults = {
        "secretEnv": {"A": {"name": "a", "key": "k"}},
        "envFrom": [{"secretRef": {"name": "b"}}],
        "imagePullSecrets": ["c"],
        "volumes": [{"name": "v", "secret": {"secretName": "d"}}],
        **template(imagePullSecrets=[{"name": "e"}], volumes=[{"name": "w", "secret": {"secretName": "f"}}]),
    }
    made = make({}, config(allowedSecrets=[], pod=defaults))  # and storage's, and the registry's, of the coordinator
    assert [item["name"] for item in made["spec"]["imagePullSecrets"]] == ["registry", "c", "e"]
    with pytest.raises(InvalidError, match="names the Secret g,"):
        make({"imagePullSecrets": ["g"]}, config(allowedSecrets=[], pod=defaults))


def test_config_maps_are_no_secrets_and_the_platforms_own_stay_its_own() -> None:
    assert make({"envFrom": [{"configMapRef": {"name": "more"}}]}, config(allowedSecrets=[]))
    with pytest.raises(InvalidError, match="cordee-token, which is the platform's own"):
        make({"envFrom": [{"secretRef": {"name": "cordee-token"}}]}, config(allowedSecrets=["*"]))


def test_what_can_be_no_secrets_name_is_a_mistake_of_the_configuration() -> None:
    with pytest.raises(ValidationError, match=r"allowed_?[sS]ecrets"):
        config(allowedSecrets=["Job_*"])
