"""Where a coordinator answers, how it is known to be the one, and what to say when nobody does."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx2

from cordee.coordinator.client_errors import InvalidError
from cordee.coordinator.folders import default_state

if TYPE_CHECKING:
    import ssl

__all__ = ["LOOPBACK", "Endpoint", "host_of", "reach_hint", "read_endpoint", "reason", "start_hint", "trust"]

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_CLOSED: Final = "it ended the connection"
# What the libraries say, and what it means to somebody who has typed an address.
_SIGNS: Final = {
    "refused": "nobody listens there",
    "unexpected_eof": _CLOSED,
    "reset by peer": _CLOSED,
    "disconnected without": _CLOSED,
    "name or service not known": "this name is not known here",
    "wrong_version_number": "it does not speak TLS",
}


@dataclass(frozen=True)
class Endpoint:
    """Where a coordinator answers. `state` is its folder where that is known."""

    url: str
    token: str
    state: Path | None = None
    authority: str | None = None
    """A PEM file: what the coordinator is verified by; None: the system's authorities."""
    certificate: str | None = None
    """A PEM file that this side shows, where the coordinator asks for one; its key lies in `key` (None: in there)."""
    key: str | None = None

    @property
    def exposes_token(self) -> bool:
        """Whether the token travels to another machine where anybody on the way can read it."""
        return bool(self.token) and urlsplit(self.url).scheme == "http" and host_of(self.url) not in LOOPBACK


def read_endpoint(state: Path) -> Endpoint | None:
    """What a state folder says about its coordinator; it may be long gone."""
    try:
        written = json.loads((state / "endpoint.json").read_text(encoding="utf-8"))
        token = (state / written.get("token_file", "token")).read_text(encoding="ascii").strip()
        url = str(written["url"])
        return Endpoint(url, token, state, written.get("authority")) if host_of(url) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidError):
        return None


def trust(endpoint: Endpoint) -> "ssl.SSLContext | bool":
    """What an encrypted connection is made with. Over plain http nothing of the sort is even loaded."""
    if urlsplit(endpoint.url).scheme != "https":
        return False
    import ssl

    try:
        context = ssl.create_default_context(cafile=endpoint.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if endpoint.certificate is not None:
            context.load_cert_chain(endpoint.certificate, endpoint.key)
    except OSError as error:  # SSLError is one
        given = (endpoint.authority, endpoint.certificate, endpoint.key)
        names = " and ".join(name for name in given if name) or "the system's authorities"
        why = getattr(error, "reason", None) or error.strerror or str(error)
        raise InvalidError(
            f"{names} cannot be used for TLS: {why}", "--ca, --cert and --key (CORDEE_CA, …) name PEM files"
        ) from error
    return context


def host_of(url: str) -> str:
    """The host of an address that can be one of a coordinator."""
    try:
        parts = urlsplit(url)
        httpx2.URL(url)
        if parts.scheme in {"http", "https"} and parts.hostname:
            return parts.hostname
    except (ValueError, httpx2.InvalidURL):
        pass
    raise InvalidError(f"{url!r} is not the address of a coordinator", "give a URL such as http://127.0.0.1:8470")


def reason(error: Exception) -> str:
    """Why there is no connection, in few words."""
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"its certificate is not trusted ({text.partition('failed: ')[2].partition(' (_ssl')[0] or text})"
    return next((words for sign, words in _SIGNS.items() if sign in text.lower()), text)


def reach_hint(endpoint: Endpoint, why: str = "") -> str:
    """What may be wrong when nobody answers, for the `reason` that was found."""
    if "certificate is not trusted" in why and endpoint.state is None:
        return "CORDEE_CA (--ca) names the file of who signed it, and the address a host that it is good for"
    if endpoint.state is not None or urlsplit(endpoint.url).scheme != "https":
        closed = endpoint.state is None and why == _CLOSED
        https = f"; or it speaks TLS: https://{urlsplit(endpoint.url).netloc}" if closed else ""
        return f"{start_hint(endpoint.state)}{https}"
    # A server that misses a certificate just closes the connection (TLS 1.3): nobody can tell it from another reason.
    mutual = (
        "" if endpoint.certificate else "; where it asks for certificates, give yours: cordee --cert FILE --key FILE"
    )
    return f"see that it runs, and that this address leads to it (kubectl port-forward){mutual}"


def start_hint(state: Path | None) -> str:
    """How to start the coordinator that is not there."""
    return f"start one: cordee coordinator{f' --state {state}' if state and state != default_state() else ''}"
