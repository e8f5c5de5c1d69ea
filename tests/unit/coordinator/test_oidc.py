"""An OpenID Connect provider on the loopback, and everything that a token of it can have wrong."""

import base64
import hashlib
import hmac
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from cordee.coordinator.config import Oidc
from cordee.coordinator.errors import CoordinatorError, UnavailableError
from cordee.coordinator.service.oidc import AGAIN_SECONDS, FRESH_SECONDS, STALE_SECONDS, OidcTokens, read_keys
from cordee.coordinator.service.people import METRICS, REMOVE

sys.path.insert(0, str(Path(__file__).parents[2]))
import ssl

import pki

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def public(key: Any, name: str | None, **changes: Any) -> dict[str, Any]:
    """A key's JWK."""
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    made: dict[str, Any] = algorithm.to_jwk(key.public_key(), as_dict=True)
    return {**made, "use": "sig", **({} if name is None else {"kid": name}), **changes}


class Provider:
    """A provider: its discovery document and its keys, over HTTP."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                status, body = provider.pages.get(self.path, (404, {}))
                data = json.dumps(body).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", body["to"])
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Silence."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.issuer = f"{'https' if context else 'http'}://127.0.0.1:{self._server.server_port}/realm"
        self.asked: list[str] = []
        self.keys = [public(RSA_KEY, "one"), public(EC_KEY, "two")]
        self.pages: dict[str, tuple[int, Any]] = {}
        self.publish()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def publish(self, **changes: Any) -> None:
        document = {"issuer": self.issuer, "jwks_uri": self.issuer + "/keys", **changes}
        self.pages["/realm/.well-known/openid-configuration"] = (200, document)
        self.pages["/realm/keys"] = (200, {"keys": self.keys})

    def token(self, key: Any = RSA_KEY, kid: str | None = "one", algorithm: str = "RS256", **claims: Any) -> str:
        now = int(time.time())
        said = {"iss": self.issuer, "aud": "cordee", "sub": "jane", "exp": now + 300, "iat": now, **claims}
        payload = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(payload, key, algorithm=algorithm, headers={} if kid is None else {"kid": kid})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def provider() -> Iterator[Provider]:
    running = Provider()
    yield running
    running.close()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def door(provider: Provider, clock: Clock | None = None, **settings: Any) -> OidcTokens:
    return OidcTokens(Oidc(issuer=provider.issuer, audience="cordee", **settings), clock=clock or Clock())


async def test_a_token_of_either_kind_of_key_names_its_owner(provider: Provider) -> None:
    tokens = door(provider)
    for token in (
        provider.token(),
        provider.token(EC_KEY, "two", "ES256"),
        provider.token(kid=None),  # there is one key of that kind
        provider.token(aud=["other", "cordee"]),
    ):
        principal = await tokens.identify(token)
        assert principal is not None
        assert principal.name == "jane"
        assert await principal.rights.allow("get")
    assert provider.asked == ["/realm/.well-known/openid-configuration", "/realm/keys"]
    await tokens.close()


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": -120},
        {"exp": None},
        {"exp": "never"},
        {"nbf": 3600},
        {"iat": 3600},
        {"aud": "other"},
        {"aud": None},
        {"aud": ["cordee-2", "xcordee"]},
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "line\nbreak"},
    ],
    ids=str,
)
async def test_a_token_with_a_wrong_claim_opens_nothing(provider: Provider, claims: dict[str, Any]) -> None:
    tokens = door(provider)
    # Times are seconds from now.
    later = {
        name: int(time.time()) + claims[name] for name in ("exp", "nbf", "iat") if isinstance(claims.get(name), int)
    }
    claims = claims | later
    try:
        token = provider.token(**claims)
    except TypeError:  # the library would not even write it
        token = forge({"alg": "RS256", "kid": "one"}, claims, provider, RSA_KEY)
    assert await tokens.identify(token) is None
    await tokens.close()


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(header: dict[str, Any], claims: dict[str, Any], provider: Provider, secret: Any) -> str:
    """A token that no library would write."""
    payload = {"iss": provider.issuer, "aud": "cordee", "sub": "jane", "exp": int(time.time()) + 300, **claims}
    signed = f"{encoded(header)}.{encoded(payload)}"
    if isinstance(secret, bytes):
        return f"{signed}.{encoded(hmac.digest(secret, signed.encode(), hashlib.sha256))}"
    if isinstance(secret, rsa.RSAPrivateKey):
        return f"{signed}.{encoded(RSAAlgorithm(RSAAlgorithm.SHA256).sign(signed.encode(), secret))}"
    return f"{signed}."


def pem(key: Any, form: serialization.PublicFormat) -> bytes:
    made: bytes = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    return made


async def test_a_token_cannot_choose_how_it_is_checked(provider: Provider) -> None:
    """Algorithm confusion: none, a public key as an HMAC secret, one kind of key for another, keys of its own."""
    tokens = door(provider)
    stolen = pem(RSA_KEY, serialization.PublicFormat.SubjectPublicKeyInfo)
    mine = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    attempts = [
        forge({"alg": "none"}, {}, provider, None),
        forge({"alg": "None", "kid": "one"}, {}, provider, None),
        forge({"alg": "RS256", "kid": "one"}, {}, provider, None),
        forge({"alg": "HS256", "kid": "one"}, {}, provider, stolen),
        forge({"alg": "HS256", "kid": "one"}, {}, provider, json.dumps(provider.keys[0]).encode()),
        forge({"alg": "RS256", "kid": "one"}, {}, provider, stolen),
        forge({"alg": "ES256", "kid": "one"}, {}, provider, RSA_KEY),
        forge({"alg": "RS256", "kid": "two"}, {}, provider, RSA_KEY),
        forge({"alg": "RS256", "jwk": public(mine, "one")}, {}, provider, mine),
        forge({"alg": "RS256", "kid": "one", "jku": provider.issuer + "/mine"}, {}, provider, mine),
        forge({"alg": "RS256", "kid": "one", "crit": ["exp"]}, {}, provider, mine),
        forge({"alg": ["RS256"], "kid": "one"}, {}, provider, RSA_KEY),
        forge({"alg": "RS256", "kid": ["one"]}, {}, provider, RSA_KEY),
        forge({"kid": "one"}, {}, provider, RSA_KEY),
        provider.token(mine),
        provider.token(algorithm="RS384"),
        provider.token(algorithm="PS256"),
        provider.token(EC_KEY, "one", "ES256"),
    ]
    for token in attempts:
        assert await tokens.identify(token) is None, token
    assert "/realm/mine" not in provider.asked
    await tokens.close()


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "..", "e30.e30.", "x" * 100_000, "é.é.é", "[].[].[]"])
async def test_what_is_no_token_of_the_issuer_costs_the_provider_nothing(provider: Provider, token: str) -> None:
    tokens = door(provider)
    assert await tokens.identify(token) is None
    assert await tokens.identify(provider.token(iss="https://elsewhere.example")) is None
    assert provider.asked == []
    await tokens.close()


async def test_a_signature_with_one_changed_letter_opens_nothing(provider: Provider) -> None:
    tokens = door(provider)
    good = provider.token()
    assert await tokens.identify(good) is not None
    head, body, signature = good.split(".")
    for place in range(0, len(signature) - 1, 37):
        other = "A" if signature[place] != "A" else "B"
        assert await tokens.identify(f"{head}.{body}.{signature[:place]}{other}{signature[place + 1 :]}") is None
    await tokens.close()


async def test_keys_are_rotated_without_a_restart(provider: Provider) -> None:
    clock = Clock()
    tokens = door(provider, clock)
    old, fresh = provider.token(), rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert await tokens.identify(old) is not None
    provider.keys = [public(fresh, "three")]
    provider.publish()
    renewed = provider.token(fresh, "three")
    assert await tokens.identify(renewed) is None  # looked for a moment ago
    assert len(provider.asked) == 2
    clock.now += AGAIN_SECONDS
    assert await tokens.identify(renewed) is not None
    assert await tokens.identify(old) is None  # its key was taken back
    await tokens.close()


async def test_a_key_that_was_taken_back_is_out_within_minutes(provider: Provider) -> None:
    clock = Clock()
    tokens = door(provider, clock)
    assert await tokens.identify(provider.token()) is not None
    provider.keys = []
    provider.publish()
    clock.now += FRESH_SECONDS - 1
    assert await tokens.identify(provider.token()) is not None
    clock.now += 1
    assert await tokens.identify(provider.token()) is None
    await tokens.close()


async def test_while_the_provider_is_away_its_keys_go_on_for_an_hour(provider: Provider) -> None:
    clock = Clock()
    tokens = door(provider, clock)
    assert await tokens.identify(provider.token()) is not None
    provider.pages.clear()
    clock.now += STALE_SECONDS
    assert await tokens.identify(provider.token()) is not None
    clock.now += AGAIN_SECONDS + 1
    with pytest.raises(UnavailableError):
        await tokens.identify(provider.token())
    provider.publish()
    clock.now += AGAIN_SECONDS
    assert await tokens.identify(provider.token()) is not None
    await tokens.close()


@pytest.mark.parametrize(
    "published",
    [
        {"issuer": "https://elsewhere.example"},
        {"jwks_uri": "http://keys.example/keys"},  # in the clear
        {"jwks_uri": "file:///etc/keys"},
        {"jwks_uri": None},
    ],
    ids=str,
)
async def test_a_discovery_document_that_does_not_fit_is_not_followed(
    provider: Provider, published: dict[str, Any]
) -> None:
    tokens = door(provider)
    provider.publish(**published)
    with pytest.raises(UnavailableError):
        await tokens.identify(provider.token())
    assert provider.asked == ["/realm/.well-known/openid-configuration"]
    await tokens.close()


async def test_no_redirection_is_followed(provider: Provider) -> None:
    tokens = door(provider)
    provider.pages["/realm/keys"] = (302, {"to": provider.issuer + "/others"})
    provider.pages["/realm/others"] = (200, {"keys": provider.keys})
    with pytest.raises(UnavailableError):
        await tokens.identify(provider.token())
    assert "/realm/others" not in provider.asked
    await tokens.close()


@pytest.mark.parametrize(
    "issuer",
    [
        "http://issuer.example",
        "ftp://127.0.0.1",
        "issuer.example",
        "https://",
        "https://a:b@issuer.example",
        "http://127.0.0.1.example",
    ],
)
def test_an_issuer_in_the_clear_is_refused_at_once(issuer: str) -> None:
    with pytest.raises(CoordinatorError, match=r"auth\.oidc\.issuer"):
        OidcTokens(Oidc(issuer=issuer, audience="cordee"))


async def test_only_members_of_the_named_groups_come_in(provider: Provider) -> None:
    tokens = door(provider, groups_claim="roles", groups=("research", "ops"), username_claim="email")
    for roles, comes_in in (
        (["ops"], True),
        ("research", True),
        (["guests"], False),
        ([], False),
        (None, False),
        ([1], False),
    ):
        principal = await tokens.identify(provider.token(roles=roles, email="jane@example.org"))
        assert (principal is not None) is comes_in, roles
        assert principal is None or principal.name == "jane@example.org"
    await tokens.close()


@pytest.mark.parametrize(
    ("said", "verbs"),
    [
        (["guests"], None),
        (["training"], "get list metrics"),
        ([], None),
        (["editors"], "get list metrics create update delete"),
        (["training", "editors"], "get list metrics create update delete"),
        (["editors", "platform"], "get list metrics create update delete remove None"),
    ],
)
async def test_groups_give_roles(provider: Provider, said: list[str], verbs: str | None) -> None:
    tokens = door(provider, groups=("training",), editor_groups=("editors",), admin_groups=("platform",))
    principal = await tokens.identify(provider.token(groups=said))
    await tokens.close()
    assert (principal is None) is (verbs is None)
    if principal is not None and verbs is not None:
        asked = ("get", "list", METRICS, "create", "update", "delete", REMOVE, None)
        assert [str(verb) for verb in asked if await principal.rights.allow(verb)] == verbs.split()


async def test_who_may_do_what_without_groups_is_one_word(provider: Provider) -> None:
    for settings, creates in (({}, False), ({"role": "editor"}, True)):
        tokens = door(provider, **settings)
        principal = await tokens.identify(provider.token(groups=["editors"]))
        await tokens.close()
        assert principal is not None
        assert await principal.rights.allow("get")
        assert await principal.rights.allow("create") is creates


async def test_the_provider_is_verified_by_its_authority(tmp_path: Path) -> None:
    authority, stranger = pki.Authority(tmp_path / "a"), pki.Authority(tmp_path / "b")
    shown = authority.issue("provider")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.certificate, shown.key)
    provider = Provider(context)
    try:
        good, bad = door(provider, authority=str(authority.file)), door(provider, authority=str(stranger.file))
        assert await good.identify(provider.token()) is not None
        with pytest.raises(UnavailableError):
            await bad.identify(provider.token())
        await good.close()
        await bad.close()
    finally:
        provider.close()


def test_only_public_keys_of_sound_kinds_are_taken() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    other_curve = ec.generate_private_key(ec.SECP384R1())
    private = {**RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True), "kid": "private"}
    keys = [
        public(RSA_KEY, "good"),
        public(EC_KEY, "fine"),
        public(RSA_KEY, "encrypts", use="enc"),
        public(RSA_KEY, "other", alg="RS512"),
        public(weak, "weak"),
        public(other_curve, "curve"),
        private,
        {"kty": "oct", "k": "c2VjcmV0c2VjcmV0", "kid": "shared"},
        {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "broken"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "off"},
        {**public(RSA_KEY, None), "kid": 7},
        "nonsense",
        None,
    ]
    assert [(key.id, key.algorithm) for key in read_keys({"keys": keys})] == [("good", "RS256"), ("fine", "ES256")]
    assert read_keys({"keys": None}) == read_keys({}) == ()
