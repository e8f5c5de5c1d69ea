"""REST over a real socket: who is let in, what is answered, how mistakes are told."""

import asyncio
import json
import re
import sqlite3
from pathlib import Path
from typing import Any, get_type_hints

import httpx2
import pytest
from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route

from cordee.coordinator import views
from cordee.coordinator.client import Client, Endpoint
from cordee.coordinator.selection import Selection
from cordee.coordinator.service.bundles import MAX_BUNDLE_BYTES
from cordee.coordinator.service.identity import JobTokens
from cordee.coordinator.service.people import People
from cordee.coordinator.service.rest import models
from cordee.coordinator.service.rest.app import create_app
from cordee.rpc.v1 import worker_pb2 as pb

DOCUMENT = {
    "apiVersion": "cordee.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "job"},
    "spec": {"script": "train.py", "workers": {"min": 1, "max": 2}},
}
SHA = "0" * 64


def document(**spec: Any) -> dict[str, Any]:
    return DOCUMENT | {"spec": DOCUMENT["spec"] | spec}  # type: ignore[operator]


def error(answer: httpx2.Response, status: int, code: str) -> dict[str, str]:
    """The error of a refusal, whose shape is always the same."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"code", "message", "hint"}
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    return body["error"]


def routes(coordinator: Any) -> list[tuple[str, str]]:
    """Every method and path the application answers, with something in place of its parameters."""
    controller = coordinator.server.controller
    app = create_app(
        controller,
        people=People([]),
        workers=JobTokens(controller.job_of_token),
        folder=coordinator.server.folder,
        version="0",
    )
    found = [
        (m, route.path) for route in app.routes if isinstance(route, Route | APIRoute) for m in route.methods or ()
    ]
    assert len(found) == len(app.routes), "a route that is no plain page: does the guard cover it?"
    return [(method, re.sub(r"{\w+(:\w+)?}", "x", path)) for method, path in found]


HEADERS = (None, "", "Bearer", "Bearer wrong", "Basic {token}", "{token}", "Bearer {token}x")
OTHER_PAGES = (("GET", "/no/such/page"), ("GET", "/docs"), ("POST", "/healthz"), ("OPTIONS", "/v1/jobs"))


async def test_no_page_but_the_health_check_is_answered_without_the_token(coordinator: Any) -> None:
    pages = [*routes(coordinator), *OTHER_PAGES]
    assert ("POST", "/v1/jobs") in pages
    async with httpx2.AsyncClient(base_url=coordinator.server.rest_url, trust_env=False) as stranger:
        for header in HEADERS:
            headers = {} if header is None else {"Authorization": header.format(token=coordinator.server.token)}
            for method, path in pages:
                answer = await stranger.request(method, path, headers=headers)
                if (method, path) in (("GET", "/healthz"), ("GET", "/readyz")):
                    assert answer.json()["status"] in ("ok", "ready")
                    continue
                assert answer.status_code == 401, (method, path, header)
                assert answer.headers["www-authenticate"] == "Bearer"
                if method != "HEAD":
                    error(answer, 401, "unauthorized")


async def test_every_page_is_answered_with_the_token(coordinator: Any) -> None:
    for method, path in routes(coordinator):
        answer = await coordinator.http.request(method, path)
        if path.startswith("/v1/workers/"):  # for workers only, with their own tokens
            error(answer, 401, "unauthorized")
        else:
            assert answer.status_code not in {401, 403, 500}, (method, path)


async def test_the_api_describes_itself(coordinator: Any) -> None:
    described = (await coordinator.http.get("/openapi.json")).json()
    assert set(described["paths"]) >= {"/v1/jobs", "/v1/jobs/{ref}/watch", "/metrics"}
    assert described["components"]["securitySchemes"]


@pytest.mark.parametrize(
    "view",
    [
        "JobView",
        "Placement",
        "Plan",
        "MemberView:Member",
        "EventView:Event",
        "LogView:LogLine",
        "FaultView:InjectedFault",
        "NumberedEvent",
        "FileView:KeptFile",
    ],
)
def test_the_clients_idea_of_an_answer_is_the_servers(view: str) -> None:
    ours, _, theirs = view.partition(":")
    assert set(getattr(models, ours).model_fields) == set(get_type_hints(getattr(views, theirs or ours)))


async def test_a_submitted_job_is_listed_newest_first_and_found_by_id_and_by_name(
    coordinator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await coordinator.submit()
    second = await coordinator.submit()
    assert re.fullmatch(r"job-[a-z2-7]{6}", first["id"])
    assert first["id"] != second["id"]
    listed = (await coordinator.http.get("/v1/jobs")).json()["jobs"]
    assert [job["id"] for job in listed] == [second["id"], first["id"]]
    assert (await coordinator.view(first["id"]))["id"] == first["id"]
    assert (await coordinator.view("job"))["id"] == second["id"]
    assert Path(first["folder"]).is_dir()
    client = Client(Endpoint(coordinator.server.rest_url, coordinator.server.token))
    with client, monkeypatch.context() as patched:
        patched.setattr("cordee.coordinator.client._PAGE", 1)
        for wanted in (
            Selection(),
            Selection(("active",)),
            Selection(ended=1),
            Selection(("running", "pending", "starting")),
        ):
            found = await asyncio.to_thread(client.jobs, wanted)
            assert [job["id"] for job in found] == [second["id"], first["id"]], wanted
        for wanted in (Selection(("ended",)), Selection(("interrupted",)), Selection(name_prefix="jobs")):
            assert await asyncio.to_thread(client.jobs, wanted) == []
    said = error(await coordinator.http.get("/v1/jobs", params={"after": "yesterday"}), 422, "invalid")
    assert "'yesterday', which is no place in the list" in said["message"]


async def test_a_submission_that_is_sent_again_is_the_same_job(coordinator: Any, tools: Any) -> None:
    first = await coordinator.submit()
    [bundle] = (coordinator.state / "bundles").iterdir()
    body = {"job": tools.make_document(), "bundle": bundle.name.partition(".")[0], "key": "a-word"}
    again = [(await coordinator.http.post("/v1/jobs", json=body)).json()["id"] for _ in range(2)]
    assert again[0] == again[1] != first["id"]
    other = await coordinator.http.post("/v1/jobs", json={**body, "key": "another"})
    assert other.json()["id"] not in {first["id"], again[0]}
    assert len((await coordinator.http.get("/v1/jobs")).json()["jobs"]) == 3


async def test_an_acknowledged_submission_is_on_disk(coordinator: Any) -> None:
    job = await coordinator.submit()
    with sqlite3.connect(f"file:{coordinator.state / 'coordinator.db'}?mode=ro", uri=True) as connection:
        [(name, stored)] = connection.execute("SELECT name, document FROM jobs WHERE id = ?", [job["id"]]).fetchall()
    connection.close()
    assert name == "job"
    assert json.loads(stored)["spec"]["script"] == "train.py"


async def test_a_dry_run_says_where_a_job_would_run_and_starts_nothing(coordinator: Any) -> None:
    answer = await coordinator.http.post("/v1/jobs", params={"dry_run": "true"}, json={"job": DOCUMENT})
    assert answer.status_code == 200
    plan = answer.json()
    assert plan["valid"] is True
    assert plan["placement"]["launcher"] == "process"
    assert plan["placement"]["workers_now"] == 2
    assert plan["placement"]["free"] == plan["placement"]["capacity"] >= 8
    assert "2 of 2 workers would start now" in plan["placement"]["message"]
    assert (await coordinator.http.get("/v1/jobs")).json() == {"jobs": [], "next": None}


async def test_jobs_share_the_slots_and_wait_when_there_are_none(tmp_path: Path, start: Any) -> None:
    async with start(tmp_path / "state", slots=3) as coordinator:
        first = await coordinator.submit(document(workers={"min": 2, "max": 3}))
        second = await coordinator.submit(document(workers={"min": 2, "max": 2}))
        assert (first["state"], first["workers"]["wanted"]) == ("starting", 3)
        assert (second["state"], second["workers"]["wanted"]) == ("pending", 0)
        plan = (await coordinator.http.post("/v1/jobs?dry_run=true", json={"job": document(workers=1)})).json()
        assert plan["placement"]["workers_now"] == 0
        assert "it would wait" in plan["placement"]["message"]
        assert (await coordinator.http.post(f"/v1/jobs/{first['id']}/cancel")).json()["state"] == "cancelled"
        view = await coordinator.view_when(second["id"], lambda view: view["state"] == "starting")
        assert view["workers"]["wanted"] == 2


async def test_a_minimum_that_no_slot_count_allows_is_refused(tmp_path: Path, start: Any) -> None:
    async with start(tmp_path / "state", slots=2) as coordinator:
        for query in ("", "?dry_run=true"):
            answer = await coordinator.http.post(f"/v1/jobs{query}", json={"job": document(workers=3), "bundle": SHA})
            said = error(answer, 422, "invalid")
            assert said["message"] == "spec.workers.min is 3, and this coordinator runs 2 workers at most"


MISTAKES: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "body.job: field required"),
    ({"job": DOCUMENT, "bundel": SHA}, "body.bundel: extra inputs are not permitted"),
    ({"job": {}}, "apiVersion is missing"),
    ({"job": document(thread=2)}, "did you mean spec.threads?"),
    ({"job": document(workers={"min": 3, "max": 1})}, "min 3 above max 1"),
    ({"job": document(script="/etc/passwd")}, "spec.script"),
    ({"job": document(source=".")}, "spec.source"),
    ({"job": DOCUMENT}, "bundle is missing"),
    ({"job": DOCUMENT, "bundle": "../../etc/passwd"}, "not a SHA-256 digest"),
    ({"job": DOCUMENT, "bundle": SHA}, "there is no bundle"),
)


async def test_a_submission_with_a_mistake_is_refused_with_a_sentence(coordinator: Any) -> None:
    for body, words in MISTAKES:
        said = error(await coordinator.http.post("/v1/jobs", json=body), 422, "invalid")
        assert words in said["message"]
    assert (await coordinator.http.get("/v1/jobs")).json() == {"jobs": [], "next": None}


async def test_a_body_that_is_not_json_is_refused(coordinator: Any) -> None:
    answer = await coordinator.http.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"})
    error(answer, 422, "invalid")


async def test_a_script_that_is_not_in_the_bundle_is_refused(coordinator: Any) -> None:
    job = await coordinator.submit()
    bundle = (await coordinator.environment(job["id"]))["CORDEE_BUNDLE"]
    answer = await coordinator.http.post("/v1/jobs", json={"job": document(script="other.py"), "bundle": bundle})
    assert error(answer, 422, "invalid")["message"] == "spec.script is 'other.py', and the bundle holds no such file"


async def test_a_bundle_is_kept_under_its_digest_only(coordinator: Any) -> None:
    data = b"not a tar, but bytes"
    said = error(await coordinator.http.put(f"/v1/bundles/{SHA}", content=data), 422, "invalid")
    assert SHA in said["message"]
    assert (await coordinator.http.head(f"/v1/bundles/{SHA}")).status_code == 404
    error(await coordinator.http.put("/v1/bundles/..%2F..%2Fetc", content=data), 404, "not_found")
    error(await coordinator.http.put("/v1/bundles/XYZ", content=data), 422, "invalid")
    assert list((coordinator.state / "bundles").iterdir()) == []


async def test_a_bundle_may_be_sent_twice(coordinator: Any) -> None:
    await coordinator.submit()
    await coordinator.submit()
    [bundle] = (coordinator.state / "bundles").iterdir()
    assert (await coordinator.http.head(f"/v1/bundles/{bundle.name.removesuffix('.tar.gz')}")).status_code == 200


async def test_a_bundle_that_is_no_archive_starts_no_job(coordinator: Any) -> None:
    import hashlib

    sha256 = hashlib.sha256(b"junk").hexdigest()
    assert (await coordinator.http.put(f"/v1/bundles/{sha256}", content=b"junk")).status_code == 201
    said = error(await coordinator.http.post("/v1/jobs", json={"job": DOCUMENT, "bundle": sha256}), 422, "invalid")
    assert "is not a gzipped tar" in said["message"]


async def test_too_large_a_bundle_is_refused_and_leaves_nothing(coordinator: Any) -> None:
    async def body() -> Any:
        for _ in range(MAX_BUNDLE_BYTES // (1 << 20) + 1):
            yield bytes(1 << 20)

    answer = await coordinator.http.put(f"/v1/bundles/{SHA}", content=body())
    assert "larger than 64 MiB" in error(answer, 413, "too_large")["message"]
    assert list((coordinator.state / "bundles").iterdir()) == []


async def test_too_large_a_request_is_refused(coordinator: Any) -> None:
    answer = await coordinator.http.post(
        "/v1/jobs", content=b" " * (3 << 20), headers={"Content-Type": "application/json"}
    )
    error(answer, 413, "too_large")


async def test_an_unknown_job_is_not_found(coordinator: Any) -> None:
    pages = (
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/logs"),
        ("GET", "/watch"),
        ("POST", "/scale"),
        ("POST", "/cancel"),
    )
    for method, path in pages:
        answer = await coordinator.http.request(method, f"/v1/jobs/nobody{path}", json={"min": 1, "max": 1})
        assert error(answer, 404, "not_found")["message"] == "there is no job 'nobody'"


async def test_a_wrong_method_and_a_wrong_page_have_the_same_shape(coordinator: Any) -> None:
    error(await coordinator.http.delete("/v1/jobs"), 405, "method_not_allowed")
    error(await coordinator.http.get("/v2/jobs"), 404, "not_found")


async def test_a_job_that_has_ended_cannot_be_cancelled_or_scaled(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    assert (await coordinator.http.post(f"/v1/jobs/{job}/cancel")).json()["state"] == "cancelled"
    said = error(await coordinator.http.post(f"/v1/jobs/{job}/cancel"), 409, "conflict")
    assert said["message"] == f"the job {job} has ended (cancelled) and cannot be cancelled"
    error(await coordinator.http.post(f"/v1/jobs/{job}/scale", json={"min": 1, "max": 1}), 409, "conflict")


async def test_scaling_drains_the_highest_ranks_at_the_next_step(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    first, second = await coordinator.train(job, 2)
    view = (await coordinator.http.post(f"/v1/jobs/{job}/scale", json={"min": 1, "max": 1})).json()
    assert view["workers"]["max"] == 1
    for peer in (first, second):
        assert (await peer.expect("change_pending")).generation == 1
        await peer.arrive(generation=1, step=5, reason=pb.ARRIVAL_REASON_CHANGE)
    assert (await second.expect("stop")).reason == pb.STOP_REASON_DRAINED
    world = await first.expect("world")
    assert ([member.worker for member in world.members], world.step) == ([f"{job}-w0"], 5)


async def test_an_impossible_scale_is_refused(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    for body, words in (
        ({"min": 3, "max": 1}, "min 3 above max 1"),
        ({"min": 0, "max": 1}, "at least 1"),
        ({"min": 1}, "body.max"),
        ({"min": 1000, "max": 1000}, "this coordinator runs"),
    ):
        said = error(await coordinator.http.post(f"/v1/jobs/{job}/scale", json=body), 422, "invalid")
        assert words in said["message"]
    assert (await coordinator.view(job))["workers"]["max"] == 2


async def test_a_jobs_history_is_read_to_its_first_event_a_page_at_a_time(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    worker, _ = await coordinator.train(job, 2)
    for number in range(70):  # more than a view carries
        await worker.say(note=pb.Note(kind="said", message=str(number)))
    newest = (await coordinator.view_when(job, lambda view: view["events"][-1]["message"].endswith(": 69")))["events"]
    assert len(newest) == 50
    history: list[dict[str, Any]] = []
    more = True
    while more:
        after = history[-1]["id"] if history else 0
        page = (await coordinator.http.get(f"/v1/jobs/{job}/events", params={"after": after, "limit": 16})).json()
        history += page["events"]
        more = page["more"]
        assert len(page["events"]) == 16 or not more
    assert history[0]["kind"] == "submitted"
    said = [event["message"].partition(": ")[2] for event in history if event["kind"] == "said"]
    assert said == [str(number) for number in range(70)]
    assert [event["id"] for event in history] == sorted({event["id"] for event in history})
    assert [{key: event[key] for key in event if key != "id"} for event in history[-50:]] == newest
    answer = await coordinator.http.get(f"/v1/jobs/{job}/events", params={"limit": 0})
    error(answer, 422, "invalid")


async def test_a_watch_ends_with_the_job(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    seen: list[str] = []
    async with asyncio.timeout(20):
        async with coordinator.http.stream("GET", f"/v1/jobs/{job}/watch") as stream:
            assert stream.headers["content-type"].startswith("application/x-ndjson")
            async for line in stream.aiter_lines():
                seen.append(json.loads(line)["state"])
                if len(seen) == 1:
                    assert (await coordinator.http.post(f"/v1/jobs/{job}/cancel")).status_code == 200
    assert seen[0] == "starting"
    assert seen[-1] == "cancelled"


def write(folder: Path, worker: str, *lines: tuple[float, str]) -> None:
    """What an agent does with its worker's output."""
    with (folder / "logs" / f"{worker}.jsonl").open("a") as file:
        for time, text in lines:
            entry = {"time": time, "worker": worker, "incarnation": "i1", "stream": "stdout", "line": text}
            file.write(json.dumps(entry) + "\n")


async def read_logs(coordinator: Any, job: str, **params: Any) -> list[dict[str, Any]]:
    answer = await coordinator.http.get(f"/v1/jobs/{job}/logs", params=params)
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_logs_are_merged_by_time_and_know_the_rank_a_worker_had_then(coordinator: Any) -> None:
    view = await coordinator.submit()
    job, folder = view["id"], Path(view["folder"])
    w0, w1 = f"{job}-w0", f"{job}-w1"
    first, second = await coordinator.train(job, 2)
    formed = (await coordinator.view(job))["started_at"]
    await first.drop()
    await second.arrive(generation=1, step=1, reason=pb.ARRIVAL_REASON_PEER_LOST)
    assert (await second.expect("world")).members[0].worker == w1
    after = (await coordinator.view(job))["created_at"] + 1000
    write(folder, w0, (formed - 10, "boots"), (formed + 0.0001, "leads"))
    write(folder, w1, (formed - 9, "boots too"), (formed + 0.0002, "follows"), (after, "leads now"))
    lines = await read_logs(coordinator, job)
    assert [(line["worker"], line["rank"], line["line"]) for line in lines] == [
        (w0, None, "boots"),
        (w1, None, "boots too"),
        (w0, 0, "leads"),
        (w1, 1, "follows"),
        (w1, 0, "leads now"),
    ]
    assert lines[0].keys() == {"time", "worker", "rank", "stream", "line"}
    assert [line["line"] for line in await read_logs(coordinator, job, rank=0)] == ["leads", "leads now"]
    assert [line["line"] for line in await read_logs(coordinator, job, worker=w0)] == ["boots", "leads"]
    assert [line["line"] for line in await read_logs(coordinator, job, tail=2)] == ["follows", "leads now"]
    assert await read_logs(coordinator, job, tail=0) == []


async def test_followed_logs_go_on_until_the_job_has_ended(coordinator: Any) -> None:
    view = await coordinator.submit()
    job, folder = view["id"], Path(view["folder"])
    await coordinator.environment(job)
    write(folder, f"{job}-w0", (1.0, "one"))
    seen: list[str] = []
    async with asyncio.timeout(20):
        async with coordinator.http.stream("GET", f"/v1/jobs/{job}/logs", params={"follow": "true"}) as stream:
            async for line in stream.aiter_lines():
                seen.append(json.loads(line)["line"])
                if seen == ["one"]:
                    write(folder, f"{job}-w1", (2.0, "two"))
                if seen == ["one", "two"]:
                    write(folder, f"{job}-w0", (3.0, "three"))
                    assert (await coordinator.http.post(f"/v1/jobs/{job}/cancel")).status_code == 200
    assert seen == ["one", "two", "three"]


async def test_metrics_parse_and_follow_the_conventions(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    first, second = await coordinator.train(job, 2)
    told = pb.Progress(
        generation=1, step=20, loss=0.25, samples=640, epoch=2, step_seconds=0.004, samples_per_second=8000
    )
    await first.say(progress=told)
    await coordinator.view_when(job, lambda view: view["step"] == 20)
    await second.drop()
    await first.arrive(generation=1, step=20, reason=pb.ARRIVAL_REASON_PEER_LOST)
    await first.expect("world")
    answer = await coordinator.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(answer.text))
    values = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}

    def value(name: str, /, **labels: str) -> float:
        return values[name, frozenset(labels.items())]

    of = {"job_id": job, "name": "job"}
    assert value("cordee_jobs", state="running") == 1
    assert value("cordee_job_steps_total", **of) == 20
    assert value("cordee_job_samples_total", **of) == 640
    assert value("cordee_job_loss", **of) == 0.25
    assert value("cordee_job_generation", **of) == 2
    assert value("cordee_job_workers", **of, count="wanted") == 2
    assert value("cordee_job_workers", **of, count="now") == 1
    recoveries = [value for key, value in values.items() if key[0] == "cordee_job_recoveries_total"]
    assert sum(recoveries) == 1
    assert value("cordee_job_recovery_seconds_count", **of) == 1
    assert value("cordee_job_recovery_seconds_bucket", **of, le="60.0") == 1
    assert value("cordee_job_step_duration_seconds_count", **of) == 20
    assert value("cordee_job_step_duration_seconds_bucket", **of, le="0.0025") == 0
    assert value("cordee_job_step_duration_seconds_bucket", **of, le="0.005") == 20
    assert value("cordee_job_step_duration_seconds_sum", **of) == pytest.approx(0.08)
    for family in families:
        assert re.fullmatch(r"(cordee|process)_[a-z0-9_]+", family.name)
        assert family.documentation
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")


async def test_openmetrics_is_given_to_who_asks_for_it(coordinator: Any) -> None:
    answer = await coordinator.http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
