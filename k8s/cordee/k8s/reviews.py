"""Asking the API server who somebody is (TokenReview) and what they may do (LocalSubjectAccessReview).

What the answers mean is decided by pure functions; asking happens in threads of its own, at a bounded rate, and an
answer is kept for a short while: a yes for a minute at most, a no for seconds. So whoever hammers at the door with
nonsense costs the API server little, and a token that was taken back is out within the minute.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

from cordee.coordinator.errors import UnavailableError
from cordee.k8s.errors import ApiError, KubernetesError

__all__ = [
    "GROUP",
    "RESOURCE",
    "Answers",
    "Asker",
    "Identity",
    "Reviews",
    "Tap",
    "read_access_review",
    "read_token_review",
]

_log = logging.getLogger(__name__)

_TIMEOUT_SECONDS: Final = 5.0
_NUM_THREADS: Final = 8
_MAX_ANSWERS: Final = 8192
_MAX_TOKEN_LENGTH: Final = 16384
YES_SECONDS: Final = 60.0
NO_SECONDS: Final = 5.0
ACCESS_SECONDS: Final = 10.0
GROUP: Final = "cordee.dev"
RESOURCE: Final = "trainingjobs"

_T = TypeVar("_T")


class Asker(Protocol):
    """What of `cordee.k8s.api.Api` is needed here."""

    def request(
        self, method: Any, path: str, *, body: Any = None, timeout_seconds: float = _TIMEOUT_SECONDS
    ) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Identity:
    """Whom the API server vouches for."""

    username: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    audiences: tuple[str, ...] = ()
    """Those it was asked for that the token is good for."""

    def only(self, key: str) -> str | None:
        """The one value of an extra; None where there is none, or several."""
        values = self.extra.get(key, ())
        return values[0] if len(values) == 1 else None


def read_token_review(answer: Mapping[str, Any], audiences: Sequence[str]) -> Identity | None:
    """Whom an answered TokenReview names; None: nobody.

    An authenticator that knows nothing of audiences says "authenticated" and names none, whatever it was asked for: a
    token that was made for another service must not be taken, so the answer has to name one of ours.
    """
    status = answer.get("status")
    if not isinstance(status, Mapping) or status.get("authenticated") is not True or status.get("error"):
        return None
    named = _strings(status.get("audiences"))
    good = tuple(audience for audience in audiences if audience in named)
    user = status.get("user")
    if not good or not isinstance(user, Mapping):
        return None
    username = user.get("username")
    if not isinstance(username, str) or not username:
        return None
    extra = user.get("extra")
    uid = user.get("uid")
    return Identity(
        username=username,
        uid=uid if isinstance(uid, str) else "",
        groups=_strings(user.get("groups")),
        extra={str(key): _strings(values) for key, values in extra.items()} if isinstance(extra, Mapping) else {},
        audiences=good,
    )


def read_access_review(answer: Mapping[str, Any]) -> bool:
    """Whether an answered review allows; a denial beside it wins."""
    status = answer.get("status")
    return isinstance(status, Mapping) and status.get("allowed") is True and status.get("denied") is not True


class Answers(Generic[_T]):
    """Answers that are kept for a while, so many at most; the oldest go first."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, limit: int = _MAX_ANSWERS) -> None:
        self._clock = clock
        self._limit = limit
        self._kept: OrderedDict[bytes, tuple[float, _T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> tuple[_T] | None:
        """The answer, in a tuple; None: there is none that still counts."""
        found = self._kept.get(key)
        if found is None:
            return None
        until, answer = found
        if self._clock() >= until:
            del self._kept[key]
            return None
        return (answer,)

    def put(self, key: bytes, answer: _T, seconds: float) -> None:
        """Keep an answer for so long."""
        self._kept.pop(key, None)
        self._kept[key] = (self._clock() + seconds, answer)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)


class Tap:
    """Lets so many through per second, after a burst."""

    def __init__(self, per_second: float, burst: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._level, self._at = burst, clock()

    def take(self) -> bool:
        """Whether one more goes through now."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._per_second)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True


class Reviews:
    """The API server's word on tokens and on rights, remembered for a while. Used on one event loop."""

    def __init__(
        self,
        asker: Asker,
        namespace: str,
        *,
        per_second: float = 20.0,
        burst: float = 100.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asker = asker
        self.namespace = namespace
        self._people: Answers[Identity | None] = Answers(clock=clock)
        self._rights: Answers[bool] = Answers(clock=clock)
        self._tap = Tap(per_second, burst, clock=clock)
        self._asking: dict[bytes, asyncio.Task[Any]] = {}
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="cordee-reviews")

    def close(self) -> None:
        """Ask nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def identify(self, token: str, audiences: Sequence[str]) -> Identity | None:
        """Whose token it is, if it was made for one of the audiences. Raises UnavailableError: ask again."""
        if len(token) > _MAX_TOKEN_LENGTH or not token.isascii():
            return None
        key = _key("token", token, *audiences)
        known = self._people.get(key)
        if known is not None:
            return known[0]

        async def ask() -> Identity | None:
            spec = {"token": token, "audiences": list(audiences)}
            answer = await self._ask("/apis/authentication.k8s.io/v1/tokenreviews", "TokenReview", spec)
            identity = read_token_review(answer, audiences)
            self._people.put(key, identity, YES_SECONDS if identity is not None else NO_SECONDS)
            return identity

        return await self._once(key, ask)

    async def allowed(self, who: Identity, verb: str) -> bool:
        """Whether they may do that with training jobs in this namespace. Raises UnavailableError: ask again."""
        extra = [f"{name}={value}" for name, values in sorted(who.extra.items()) for value in values]
        key = _key("access", verb, who.username, who.uid, *who.groups, "", *extra)
        known = self._rights.get(key)
        if known is not None:
            return known[0]

        async def ask() -> bool:
            spec = {
                "user": who.username,
                "uid": who.uid,
                "groups": list(who.groups),
                "extra": {name: list(values) for name, values in who.extra.items()},
                "resourceAttributes": {
                    "namespace": self.namespace,
                    "group": GROUP,
                    "resource": RESOURCE,
                    "verb": verb,
                },
            }
            path = f"/apis/authorization.k8s.io/v1/namespaces/{self.namespace}/localsubjectaccessreviews"
            allowed = read_access_review(await self._ask(path, "LocalSubjectAccessReview", spec))
            self._rights.put(key, allowed, ACCESS_SECONDS if allowed else NO_SECONDS)
            return allowed

        return await self._once(key, ask)

    async def _once(self, key: bytes, ask: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Many who ask the same at the same time are one question."""
        task: asyncio.Task[_T] | None = self._asking.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(ask())
            self._asking[key] = task

            def done(ended: "asyncio.Task[_T]") -> None:
                del self._asking[key]
                if not ended.cancelled():
                    ended.exception()  # whoever asked may have gone meanwhile

            task.add_done_callback(done)
        return await asyncio.shield(task)

    async def _ask(self, path: str, kind: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._tap.take():
            raise UnavailableError("too many unknown tokens at once", hint="ask again in a moment")
        body: dict[str, Any] = {"apiVersion": path.removeprefix("/apis/").partition("/v1")[0] + "/v1", "kind": kind}
        body["spec"] = spec
        if kind == "LocalSubjectAccessReview":
            body["metadata"] = {"namespace": self.namespace}
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._threads,
                lambda: self._asker.request("POST", path, body=body, timeout_seconds=_TIMEOUT_SECONDS),
            )
        except KubernetesError as error:
            _log.warning("the API server could not be asked for a %s: %s", kind, error.message)
            hint = "the coordinator's service account may not create it" if _forbidden(error) else "ask again"
            raise UnavailableError(f"the API server does not answer a {kind}", hint=hint) from error


def _forbidden(error: KubernetesError) -> bool:
    return isinstance(error, ApiError) and error.status == 403


def _strings(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _key(*parts: str) -> bytes:
    """A digest: what is remembered are no tokens."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode()
        hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.digest()
