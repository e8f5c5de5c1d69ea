"""What a coordinator that stands by shows: alive, ready, nothing of any job; and the real pages once it leads."""

from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from cordee.coordinator.service.standby import StandbyPages


def test_it_is_ready_and_says_who_leads() -> None:
    client = TestClient(StandbyPages(lambda: "a_1", "9.9"))
    for page in ("/healthz", "/readyz"):
        answer = client.get(page)
        assert answer.status_code == 200
        assert answer.json() == {"status": "standby", "leader": "a_1", "version": "9.9"}
    assert client.get("/metrics").text.splitlines()[-1] == "cordee_standby 1"
    refused = client.get("/v1/jobs")
    assert refused.status_code == 503
    assert "a_1 leads" in refused.json()["error"]["message"]
    assert client.post("/healthz").status_code == 503


def test_the_real_pages_are_shown_once_it_leads() -> None:
    async def real(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    pages = StandbyPages(lambda: "", "9.9")
    client = TestClient(pages)
    assert client.get("/metrics").status_code == 200
    pages.app = real
    assert client.get("/metrics").status_code == 204
