"""Bearer tokens of an OpenID Connect provider: JSON Web Tokens that it has signed for us.

The provider's discovery document says where its keys are (OpenID Connect Discovery 1.0); both are fetched when the
first token comes, over https only, and again as keys are rotated. A token is good if it is signed by one of those keys
with the algorithm that the key is for, names this issuer and our audience, and is neither old nor early. The token's
own header chooses among keys, never what is done with them: what it says of algorithms is compared, not obeyed.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from cordee.coordinator.config import Oidc
from cordee.coordinator.errors import CoordinatorError, UnavailableError
from cordee.coordinator.service.auth import is_loopback
from cordee.coordinator.service.people import Principal, rights_of

__all__ = ["OidcTokens", "read_keys"]

_log = logging.getLogger(__name__)

_DISCOVERY: Final = "/.well-known/openid-configuration"
_TIMEOUT_SECONDS: Final = 5.0
_MAX_DOCUMENT_BYTES: Final = 1 << 20
_MAX_TOKEN_LENGTH: Final = 16384
_MAX_NAME: Final = 200
_LEEWAY_SECONDS: Final = 30  # clocks differ
_MIN_RSA_BITS: Final = 2048
FRESH_SECONDS: Final = 300.0
"""Keys are fetched again after so long: one that the provider has taken back is out within it."""
AGAIN_SECONDS: Final = 10.0
"""An unknown key's name makes us look again, but not more often."""
STALE_SECONDS: Final = 3600.0
"""Keys go on being used so long while the provider does not answer."""


@dataclass(frozen=True)
class _Key:
    id: str | None
    algorithm: str
    public: Any


class OidcTokens:
    """An authenticator: people and programs that a provider knows."""

    def __init__(self, settings: Oidc, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._check_url(settings.issuer, "auth.oidc.issuer")
        host = urlsplit(settings.issuer).hostname or ""
        self._http = httpx2.AsyncClient(
            verify=_trust(settings.authority), timeout=_TIMEOUT_SECONDS, trust_env=not is_loopback(host)
        )
        self._keys: tuple[_Key, ...] = ()
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching = asyncio.Lock()

    @property
    def source(self) -> str:
        """The provider."""
        return f"a token of {self._settings.issuer} for {self._settings.audience}"

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def identify(self, token: str) -> Principal | None:
        """Whose token it is. Raises UnavailableError while the provider's keys cannot be had."""
        if len(token) > _MAX_TOKEN_LENGTH or not token.isascii():
            return None
        try:
            header = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        if claimed.get("iss") != self._settings.issuer:
            return None  # another door's: nobody is asked about it
        key = await self._find(header.get("kid"), header.get("alg"))
        if key is None:
            return None
        try:
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[key.algorithm],
                issuer=self._settings.issuer,
                audience=self._settings.audience,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"], "strict_aud": False},
            )
        except (jwt.PyJWTError, ValueError) as error:
            _log.info("a token of %s is refused: %s", self._settings.issuer, error)
            return None
        return self._principal(claims)

    def _principal(self, claims: Mapping[str, Any]) -> Principal | None:
        name = claims.get(self._settings.username_claim)
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            _log.info("a token has no usable claim %r", self._settings.username_claim)
            return None
        settings, groups = self._settings, self._groups(claims)
        if not groups.isdisjoint(settings.admin_groups):
            return Principal(name[:_MAX_NAME], rights_of("admin"))
        if not groups.isdisjoint(settings.editor_groups):
            return Principal(name[:_MAX_NAME], rights_of("editor"))
        if settings.groups and groups.isdisjoint(settings.groups):
            _log.info("%s is in none of the groups that may come in", name[:_MAX_NAME])
            return None
        return Principal(name[:_MAX_NAME], rights_of(settings.role))

    def _groups(self, claims: Mapping[str, Any]) -> set[str]:
        said = claims.get(self._settings.groups_claim or "groups")
        listed = [said] if isinstance(said, str) else said if isinstance(said, list) else []
        return {group for group in listed if isinstance(group, str)}

    # -- keys

    async def _find(self, name: object, algorithm: object) -> _Key | None:
        """The key that a token says it was signed with; looked for at the provider when it is new."""
        if not isinstance(algorithm, str) or algorithm not in ("RS256", "ES256"):
            return None
        if name is not None and not isinstance(name, str):
            return None
        await self._refresh(FRESH_SECONDS)
        found = self._among(name, algorithm)
        if found is None:
            await self._refresh(AGAIN_SECONDS)
            found = self._among(name, algorithm)
        return found

    def _among(self, name: str | None, algorithm: str) -> _Key | None:
        fitting = [key for key in self._keys if key.algorithm == algorithm and (name is None or key.id == name)]
        return fitting[0] if len(fitting) == 1 else None

    async def _refresh(self, older_than: float) -> None:
        """Fetch the keys if they are older than so; not more often than every few seconds, whatever happens."""
        async with self._fetching:
            now = self._clock()
            age = None if self._fetched_at is None else now - self._fetched_at
            if age is not None and age < older_than:
                return
            if self._tried_at is None or now - self._tried_at >= (AGAIN_SECONDS if age is not None else 1.0):
                self._tried_at = now
                try:
                    self._keys = await self._fetch()
                    self._fetched_at = now
                    return
                except (httpx2.HTTPError, ValueError, CoordinatorError) as error:
                    _log.warning("the keys of %s cannot be had: %s", self._settings.issuer, error)
            if age is None or age > STALE_SECONDS:
                self._keys, self._fetched_at = (), None
                raise UnavailableError(f"the identity provider {self._settings.issuer} does not answer", "ask again")

    async def _fetch(self) -> tuple[_Key, ...]:
        issuer = self._settings.issuer
        document = await self._get(issuer.rstrip("/") + _DISCOVERY)
        if document.get("issuer") != issuer:
            raise ValueError(f"its discovery document is for the issuer {document.get('issuer')!r:.200}")
        where = document.get("jwks_uri")
        if not isinstance(where, str):
            raise ValueError("its discovery document says nothing of keys")
        self._check_url(where, "its jwks_uri")
        return read_keys(await self._get(where))

    async def _get(self, url: str) -> Mapping[str, Any]:
        data = b""
        async with self._http.stream("GET", url, headers={"Accept": "application/json"}) as answer:
            if answer.status_code != 200:
                raise ValueError(f"{url} answered {answer.status_code}")
            async for piece in answer.aiter_bytes():
                data += piece
                if len(data) > _MAX_DOCUMENT_BYTES:
                    raise ValueError(f"{url} is too large")
        document = httpx2.Response(200, content=data).json()
        if not isinstance(document, Mapping):
            raise ValueError(f"{url} is no JSON object")
        return document

    def _check_url(self, url: str, what: str) -> None:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
        except ValueError:
            parts, host = urlsplit(""), ""
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
        if not host or not safe or parts.username is not None or parts.fragment or re.search(r"[\s\x00-\x1f]", url):
            raise CoordinatorError(f"{what} is {url[:200]!r}, which is no https URL", hint="give it as https://…")


def read_keys(document: Mapping[str, Any]) -> tuple[_Key, ...]:
    """The public keys of a JWK set (RFC 7517) that we take: RSA of 2048 bits at least, and the curve P-256.

    What is none of these, or broken, is passed over: a provider may have keys for other purposes. A symmetric key, or a
    private one, is never taken.
    """
    listed = document.get("keys")
    found: list[_Key] = []
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, Mapping) or "d" in entry or entry.get("use", "sig") != "sig":
            continue
        name, said = entry.get("kid"), entry.get("alg")
        if name is not None and not isinstance(name, str):
            continue
        try:
            if entry.get("kty") == "RSA" and said in (None, "RS256"):
                public: Any = RSAAlgorithm.from_jwk(dict(entry))
                if isinstance(public, RSAPublicKey) and public.key_size >= _MIN_RSA_BITS:
                    found.append(_Key(name, "RS256", public))
            elif entry.get("kty") == "EC" and entry.get("crv") == "P-256" and said in (None, "ES256"):
                public = ECAlgorithm.from_jwk(dict(entry))
                if isinstance(public, EllipticCurvePublicKey):
                    found.append(_Key(name, "ES256", public))
        except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            _log.warning("the key %r of the identity provider cannot be used: %s", name, error)
    return tuple(found)


def _trust(authority: str | None) -> Any:
    import ssl

    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise CoordinatorError(f"auth.oidc.authority {authority} cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
