"""Who comes in over REST, and what they may do.

Several authenticators may be set up; a token is good if one of them knows it. The administrator's opens everything. To
other static tokens, and to people of an OpenID Connect provider, the configuration gives a role; a Kubernetes identity
is asked about, request by request, and the metrics token opens one page. What a request does is a verb, by `verb_of`: a
page without a verb is closed to everybody whose rights are limited, so a new route is closed until it is put into the
table.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol

from cordee.coordinator.service import auth

if TYPE_CHECKING:
    from cordee.coordinator.config import Role

__all__ = [
    "METRICS",
    "REMOVE",
    "Authenticator",
    "Everything",
    "InRole",
    "OnlyMetrics",
    "People",
    "Principal",
    "Rights",
    "StaticTokens",
    "rights_of",
    "verb_of",
]

METRICS: Final = "metrics"
REMOVE: Final = "remove"

_JOB: Final = r"/v1/jobs/[^/]+"
_VERBS: Final[tuple[tuple[str, str, str], ...]] = (
    ("GET", r"/metrics", METRICS),
    ("GET", r"/openapi\.json", "get"),
    ("GET", r"/v1/jobs", "list"),
    ("POST", r"/v1/jobs", "create"),
    ("GET", _JOB, "get"),
    ("DELETE", _JOB, REMOVE),
    ("GET", _JOB + r"/(events|logs|watch)", "get"),
    ("GET", _JOB + r"/files(/.*)?", "get"),
    ("POST", _JOB + r"/scale", "update"),
    ("POST", _JOB + r"/faults", "update"),
    ("POST", _JOB + r"/cancel", "delete"),
    ("HEAD", r"/v1/bundles/[^/]+", "create"),
    ("PUT", r"/v1/bundles/[^/]+", "create"),
)
"""Verbs are those that Kubernetes' RBAC has for `trainingjobs.cordee.dev`; METRICS is a page of its own, and REMOVE
takes results away, which `delete` (a running job's end) does not."""

_LOOK: Final = frozenset({METRICS, "get", "list"})
_EDIT: Final = _LOOK | {"create", "update", "delete"}


def verb_of(method: str, path: str) -> str | None:
    """What a request does; None: nothing that anybody with limited rights may."""
    for known, pattern, verb in _VERBS:
        if method == known and re.fullmatch(pattern, path):
            return verb
    return None


class Rights(Protocol):
    """What somebody may do."""

    async def allow(self, verb: str | None) -> bool:
        """Whether they may; raises CoordinatorError when that cannot be found out now."""
        ...

    def refused(self, verb: str | None) -> tuple[str, str]:
        """What it is that they may not do, as whoever decides it calls it (empty: it has no name there), and a hint."""
        ...


class Everything:
    """The rights of whoever has the administrator's token."""

    async def allow(self, verb: str | None) -> bool:  # noqa: ARG002  its protocol
        """Yes."""
        return True

    def refused(self, verb: str | None) -> tuple[str, str]:  # noqa: ARG002  its protocol
        """Nothing is."""
        return "", ""


class OnlyMetrics:
    """The rights of Prometheus."""

    async def allow(self, verb: str | None) -> bool:
        """One page."""
        return verb == METRICS

    def refused(self, verb: str | None) -> tuple[str, str]:  # noqa: ARG002  its protocol
        """All others."""
        return "", "this token opens /metrics and nothing else"


class InRole:
    """The rights of a role of the configuration's."""

    def __init__(self, role: Literal["viewer", "editor"]) -> None:
        self._role = role

    async def allow(self, verb: str | None) -> bool:
        """What stands in the table."""
        return verb in (_LOOK if self._role == "viewer" else _EDIT)

    def refused(self, verb: str | None) -> tuple[str, str]:
        """What another role may."""
        needed = "editor" if verb in _EDIT else "admin"
        return "", f"their role is {self._role}, this takes the role {needed}; the coordinator's configuration gives it"


def rights_of(role: "Role") -> Rights:
    """What somebody in a role may do."""
    return Everything() if role == "admin" else InRole(role)


@dataclass(frozen=True)
class Principal:
    """Somebody who came in. The administrator of a laptop has no name."""

    name: str = ""
    rights: Rights = field(default_factory=Everything)


class Authenticator(Protocol):
    """Knows people by their tokens."""

    @property
    def source(self) -> str:
        """Where somebody without a token gets one that is known here."""
        ...

    async def identify(self, token: str) -> Principal | None:
        """Whose token it is; None: nobody's that is known here. Raises CoordinatorError when it cannot be found out."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class StaticTokens:
    """Tokens in files, which are read again when they change: a token is taken back by writing another."""

    def __init__(self, files: Sequence[tuple[Path, Principal]], *, fixed: Sequence[tuple[str, Principal]] = ()) -> None:
        self._files = [(auth.TokenFile(path), principal) for path, principal in files]
        self._fixed = tuple(fixed)

    @property
    def source(self) -> str:
        """The state folder, unless the configuration names files: those are the installation's affair."""
        if self._fixed:
            return "what the file 'token' in the coordinator's state folder holds"
        return "the administrator's token, which the coordinator was installed with"

    async def identify(self, token: str) -> Principal | None:
        """Compares with every token, however early one matches."""
        found: Principal | None = None
        for file, principal in self._files:
            if auth.matches(token, file.token):
                found = found or principal
        for expected, principal in self._fixed:
            if auth.matches(token, expected):
                found = found or principal
        return found

    async def close(self) -> None:
        """Nothing is held."""


class People:
    """All authenticators of a coordinator, asked in turn."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)

    @property
    def hint(self) -> str:
        """What to do without a token that is good here."""
        sources = ", or ".join(authenticator.source for authenticator in self._authenticators)
        return f"set CORDEE_TOKEN (in REST, 'Authorization: Bearer …') to {sources}"

    async def identify(self, token: str) -> Principal | None:
        """The first answer."""
        for authenticator in self._authenticators:
            principal = await authenticator.identify(token)
            if principal is not None:
                return principal
        return None

    async def close(self) -> None:
        """Close them all."""
        for authenticator in self._authenticators:
            await authenticator.close()
