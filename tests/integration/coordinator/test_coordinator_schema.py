"""The REST interface keeps what its OpenAPI document promises: schemathesis asks it everything the document allows.

A real server, with every token that there is; the examples are seeded, so a failure is found again.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks
from schemathesis.core.failures import Failure, FailureGroup

from cordee.coordinator.service.embedded import EmbeddedCoordinator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NUM_EXAMPLES = 8
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


class Served:
    """A coordinator with one job that has ended, and what its document says."""

    def __init__(self, coordinator: EmbeddedCoordinator, state: Path, tools: Any) -> None:
        self.url = coordinator.rest_url
        self.people = {"Authorization": f"Bearer {coordinator.token}"}
        bundle, sha256 = tools.make_bundle({"train.py": "print('hello')\n"})
        self.submitted = tools.make_document(workers=(1, 1))
        self.job = coordinator.submit(self.submitted, bundle, sha256)["id"]
        told = state / "jobs" / self.job / f"{self.job}-w0.environment"
        deadline = time.monotonic() + 30
        while not told.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.workers = {"Authorization": f"Bearer {json.loads(told.read_text())['CORDEE_TOKEN']}"}
        with httpx2.Client(base_url=self.url, headers=self.people, trust_env=False, timeout=60) as http:
            assert http.post(f"/v1/jobs/{self.job}/cancel").status_code == 200
            self.document = http.get("/openapi.json").json()
        self.known = {"ref": self.job, "worker": f"{self.job}-w0", "sha256": sha256}


@pytest.fixture
def served(tmp_path: Path, tools: Any) -> Iterator[Served]:
    with EmbeddedCoordinator(tmp_path, policy=tools.POLICY, agent_command=tools.AGENT_COMMAND) as coordinator:
        yield Served(coordinator, tmp_path, tools)


def test_it_keeps_what_its_document_promises(served: Served) -> None:
    schema = schemathesis.openapi.from_dict(served.document)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 15
    troubles: list[str] = []
    for operation in operations:
        headers = served.workers if operation.path.startswith("/v1/workers/") else served.people
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                ask(served, operation, mode, headers)
            except (FailureGroup, Failure) as trouble:
                troubles.append(f"{operation.label}, {mode.value}: {trouble}")
    assert not troubles, "\n\n".join(troubles)


def ask(served: Served, operation: Any, mode: GenerationMode, headers: dict[str, str]) -> None:
    count = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def examples(case: Any) -> None:
        nonlocal count
        count += 1
        if count % 2:  # half of them are about what is really there
            case.path_parameters |= {
                name: value for name, value in served.known.items() if name in case.path_parameters
            }
            if isinstance(case.body, dict) and "job" in case.body:
                case.body["job"] = served.submitted
        case.call_and_validate(base_url=served.url, headers=headers, checks=CHECKS, timeout=30)

    examples()


def test_numbers_that_no_database_holds_are_refused(served: Served) -> None:
    with httpx2.Client(base_url=served.url, headers=served.people, trust_env=False, timeout=60) as http:
        for name, value in (("after", 2**63), ("after", -1), ("limit", 2**70), ("after", 10**400)):
            answer = http.get(f"/v1/jobs/{served.job}/events", params={name: value})
            assert answer.status_code == 422, (name, answer.text)
        assert http.get(f"/v1/jobs/{served.job}/events", params={"after": 2**63 - 1}).json()["events"] == []
