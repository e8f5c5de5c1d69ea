"""What the API server's answers are taken to mean, and how seldom it is asked."""

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.coordinator.errors import UnavailableError
from cordee.coordinator.service.identity import Worker
from cordee.k8s.errors import ApiError, UnreachableError
from cordee.k8s.identity import KnownPod, ServiceAccountVerifier, check_worker, claimed_pod
from cordee.k8s.reviews import (
    NO_SECONDS,
    YES_SECONDS,
    Answers,
    Identity,
    Reviews,
    Tap,
    read_access_review,
    read_token_review,
)

POD, UID, JOB, NAMESPACE = "digits-abc234-w0", "11111111-2222", "digits-abc234", "training"
AUDIENCE = f"cordee.dev/job/{JOB}"
KNOWN = KnownPod(JOB, UID, "workers")


def answer(**changes: Any) -> dict[str, Any]:
    """The API server's answer about that worker's token, but for `changes` of its status."""
    user = {
        "username": f"system:serviceaccount:{NAMESPACE}:workers",
        "uid": "u",
        "groups": ["system:serviceaccounts"],
        "extra": {
            "authentication.kubernetes.io/pod-name": [POD],
            "authentication.kubernetes.io/pod-uid": [UID],
        },
    }
    return {"status": {"authenticated": True, "user": user, "audiences": [AUDIENCE], **changes}}


def token(name: Any = POD, uid: Any = UID) -> str:
    """A token that claims to lie in that pod; nobody has signed it."""
    claims = {"aud": [AUDIENCE], "kubernetes.io": {"pod": {"name": name, "uid": uid}}}
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


class Asked:
    """An API server's door: notes the questions, and answers as it is told."""

    def __init__(self, reply: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self.questions: list[tuple[str, Mapping[str, Any]]] = []
        self._reply = reply

    def request(self, method: str, path: str, *, body: Any = None, timeout_seconds: float = 0) -> Mapping[str, Any]:
        assert method == "POST"
        self.questions.append((path, body))
        return self._reply(path, body)


def test_a_token_review_names_whom_it_vouches_for() -> None:
    identity = read_token_review(answer(), ("other", AUDIENCE))
    assert identity is not None
    assert identity.audiences == (AUDIENCE,)
    assert check_worker(identity, POD, KNOWN, NAMESPACE) == Worker(JOB, POD)


@pytest.mark.parametrize(
    "changes",
    [
        {"authenticated": False},
        {"authenticated": "true"},
        {"authenticated": None},
        {"error": "token expired"},
        {"audiences": []},
        {"audiences": None},  # an authenticator that knows nothing of audiences
        {"audiences": "cordee.dev/job/digits-abc234"},
        {"audiences": ["https://kubernetes.default.svc"]},
        {"user": None},
        {"user": {}},
        {"user": {"username": ""}},
    ],
    ids=str,
)
def test_any_other_answer_names_nobody(changes: dict[str, Any]) -> None:
    assert read_token_review(answer(**changes), (AUDIENCE,)) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_answer_whatever_its_shape_lets_anybody_in_by_accident(value: Any) -> None:
    for said in ({"status": value}, value if isinstance(value, dict) else {}):
        assert read_token_review(said, (AUDIENCE,)) is None
        assert read_access_review(said) is False


def test_a_denial_beside_a_permission_wins() -> None:
    assert read_access_review({"status": {"allowed": True}})
    assert not read_access_review({"status": {"allowed": True, "denied": True}})


def changed(**extra: Any) -> Identity:
    identity = read_token_review(answer(), (AUDIENCE,))
    assert identity is not None
    names = {"pod": "authentication.kubernetes.io/pod-name", "uid": "authentication.kubernetes.io/pod-uid"}
    return Identity(
        identity.username if "username" not in extra else extra.pop("username"),
        "u",
        (),
        {**identity.extra, **{names[key]: value for key, value in extra.items()}},
        identity.audiences,
    )


@pytest.mark.parametrize(
    ("identity", "known"),
    [
        (changed(), KnownPod("another", UID, "workers")),  # another job's audience
        (changed(), KnownPod(JOB, "99999999", "workers")),  # the pod is another one by now
        (changed(), KnownPod(JOB, "", "workers")),
        (changed(uid=("",)), KnownPod(JOB, "", "workers")),
        (changed(), KnownPod(JOB, UID, "other")),
        (changed(username="system:serviceaccount:elsewhere:workers"), KNOWN),
        (changed(username="workers"), KNOWN),
        (changed(pod=("digits-abc234-w1",)), KNOWN),
        (changed(pod=()), KNOWN),
        (changed(pod=(POD, "digits-abc234-w1")), KNOWN),
        (changed(uid=(UID, UID)), KNOWN),
    ],
)
def test_whoever_is_not_in_that_very_pod_is_not_that_worker(identity: Identity, known: KnownPod) -> None:
    assert check_worker(identity, POD, known, NAMESPACE) is None


@pytest.mark.parametrize(
    "text", ["", "a", "a.b", "a.b.c", "a..c", "a.e30.c", token(name=3), token(uid=None), "x" * 20000]
)
def test_what_is_no_pods_token_claims_no_pod(text: str) -> None:
    assert claimed_pod(text) is None


@given(st.text(max_size=300))
def test_no_text_makes_the_reader_of_claims_fail(text: str) -> None:
    claimed_pod(text)
    claimed_pod(f"a.{base64.urlsafe_b64encode(text.encode()).decode()}.c")


async def test_nobody_is_asked_about_a_token_of_a_pod_that_is_not_known() -> None:
    asked = Asked(lambda _path, _body: answer())
    verifier = ServiceAccountVerifier(asked, namespace=NAMESPACE, pods={POD: KNOWN}.get)
    for shown in ("", "nonsense", token("digits-abc234-w9"), token(uid="other"), "x" * 50_000):
        assert await verifier.identify(shown) is None
    assert asked.questions == []
    assert await verifier.identify(token()) == Worker(JOB, POD)
    assert [body["spec"]["audiences"] for _, body in asked.questions] == [[AUDIENCE]]
    verifier.close()


async def test_a_pod_that_was_replaced_is_out_at_once_though_the_answer_is_remembered() -> None:
    asked = Asked(lambda _path, _body: answer())
    pods = {POD: KNOWN}
    verifier = ServiceAccountVerifier(asked, namespace=NAMESPACE, pods=pods.get)
    assert await verifier.identify(token()) == Worker(JOB, POD)
    pods[POD] = KnownPod(JOB, "another-uid", "workers")
    assert await verifier.identify(token()) is None
    del pods[POD]
    assert await verifier.identify(token()) is None
    verifier.close()


async def test_an_answer_is_remembered_for_a_while_and_not_longer() -> None:
    now = 0.0
    reply: dict[str, Any] = answer()
    asked = Asked(lambda _path, _body: reply)
    reviews = Reviews(asked, NAMESPACE, clock=lambda: now)
    for _ in range(3):
        assert await reviews.identify("a token", (AUDIENCE,)) is not None
    assert len(asked.questions) == 1
    reply = answer(authenticated=False)
    now = YES_SECONDS - 0.001
    assert await reviews.identify("a token", (AUDIENCE,)) is not None
    now = YES_SECONDS
    for _ in range(3):
        assert await reviews.identify("a token", (AUDIENCE,)) is None
    assert len(asked.questions) == 2
    reply = answer()
    now += NO_SECONDS
    assert await reviews.identify("a token", (AUDIENCE,)) is not None
    # Another audience, or another token, is another question.
    assert await reviews.identify("a token", ("other",)) is None
    assert await reviews.identify("a token!", (AUDIENCE,)) is not None
    assert len(asked.questions) == 5
    reviews.close()


async def test_the_same_question_at_the_same_time_is_asked_once() -> None:
    gate = threading.Event()

    def reply(_path: str, _body: Mapping[str, Any]) -> Mapping[str, Any]:
        assert gate.wait(20)
        return answer()

    asked = Asked(reply)
    reviews = Reviews(asked, NAMESPACE)
    tasks = [asyncio.ensure_future(reviews.identify("a token", (AUDIENCE,))) for _ in range(20)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # who asked first goes; the others hear the answer
    gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(isinstance(one, Identity) for one in found[1:])
    assert len(asked.questions) == 1
    reviews.close()


@pytest.mark.parametrize("error", [UnreachableError("down"), ApiError(403, "Forbidden", "no"), ApiError(500, "", "")])
async def test_an_api_server_that_does_not_answer_is_no_answer_and_is_not_remembered(error: Exception) -> None:
    def reply(_path: str, _body: Mapping[str, Any]) -> Mapping[str, Any]:
        raise error

    asked = Asked(reply)
    reviews = Reviews(asked, NAMESPACE)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await reviews.identify("a token", (AUDIENCE,))
    assert len(asked.questions) == 2
    reviews.close()


async def test_who_tries_token_after_token_is_slowed_down() -> None:
    asked = Asked(lambda _path, _body: answer(authenticated=False))
    reviews = Reviews(asked, NAMESPACE, per_second=1.0, burst=5.0, clock=lambda: 0.0)
    for index in range(5):
        assert await reviews.identify(f"token {index}", (AUDIENCE,)) is None
    with pytest.raises(UnavailableError, match="too many"):
        await reviews.identify("token 5", (AUDIENCE,))
    assert await reviews.identify("token 4", (AUDIENCE,)) is None  # what is remembered costs nothing
    assert len(asked.questions) == 5
    reviews.close()


async def test_rights_are_asked_for_whoever_was_named_and_for_each_verb() -> None:
    asked = Asked(lambda _path, body: {"status": {"allowed": body["spec"]["resourceAttributes"]["verb"] == "get"}})
    reviews = Reviews(asked, NAMESPACE)
    jane, joe = Identity("jane", groups=("a", "b")), Identity("joe", groups=("a", "b"))
    assert await reviews.allowed(jane, "get")
    assert not await reviews.allowed(jane, "create")
    assert await reviews.allowed(joe, "get")
    assert await reviews.allowed(jane, "get")
    assert await reviews.allowed(Identity("jane", groups=("ab",)), "get")
    assert len(asked.questions) == 4
    path, body = asked.questions[0]
    assert path == f"/apis/authorization.k8s.io/v1/namespaces/{NAMESPACE}/localsubjectaccessreviews"
    assert body["metadata"]["namespace"] == body["spec"]["resourceAttributes"]["namespace"] == NAMESPACE
    assert (body["spec"]["user"], body["spec"]["groups"]) == ("jane", ["a", "b"])
    reviews.close()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=200))
def test_what_is_remembered_is_bounded_and_never_too_old(steps: list[tuple[int, int]]) -> None:
    now = 0
    answers: Answers[int] = Answers(clock=lambda: float(now), limit=10)
    put: dict[int, int] = {}
    for key, passed in steps:
        now += passed
        found = answers.get(bytes([key]))
        if found is not None:
            assert found == (key,)
            assert now - put[key] < 30
        answers.put(bytes([key]), key, 30)
        put[key] = now
        assert len(answers) <= 10


@given(st.lists(st.floats(0, 5), max_size=100))
def test_no_more_go_through_than_the_rate_and_the_burst_allow(pauses: list[float]) -> None:
    now = 0.0
    tap = Tap(2.0, 3.0, clock=lambda: now)
    through = 0
    for pause in pauses:
        now += pause
        through += tap.take()
        assert through <= 3 + 2 * now + 1e-6
