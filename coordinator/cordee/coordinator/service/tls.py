"""TLS of what the coordinator listens on: TLS 1.2 at least, from files that are read again when they change.

A certificate is renewed by writing its files anew (cert-manager does, and so does the kubelet with a Secret that it has
mounted). Whether that has happened is looked at when somebody connects, which costs a few `stat`s; connections that
stand go on as they are. Files that do not fit together, as between two writes, leave the last good ones in use.
"""

import calendar
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cordee.coordinator.errors import CoordinatorError

if TYPE_CHECKING:
    from cordee.coordinator.config import Tls

__all__ = ["Certificates", "not_after"]

_log = logging.getLogger(__name__)

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17


@dataclass(frozen=True)
class _Loaded:
    """What the files held at one moment."""

    seen: tuple[object, ...]
    certificate: bytes
    end: float
    key: bytes
    client_authority: bytes | None
    context: ssl.SSLContext  # asks clients for a certificate, where that is configured
    open_context: ssl.SSLContext  # does not: for probes and Prometheus


class Certificates:
    """The certificate that the coordinator shows, and the authority that it verifies clients by (mutual TLS)."""

    def __init__(self, tls: "Tls") -> None:
        self._tls = tls
        self._refused: tuple[object, ...] = ()
        seen = self._look()
        try:
            self._loaded = self._load(seen)
        except (OSError, ValueError) as error:
            raise CoordinatorError(_sentence(tls, error), hint="tls.certificate and tls.key are PEM files") from error

    @property
    def mutual(self) -> bool:
        """Whether nobody comes in without a certificate."""
        return self._tls.client_authority is not None

    def ends_at(self) -> float:
        """When the certificate in use ends, in Unix seconds."""
        return self._current().end

    def context(self, *, ask_clients: bool = True) -> ssl.SSLContext:
        """For a listener; each handshake is made with what the files hold then."""

        def current(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            loaded = self._current()
            connection.context = loaded.context if ask_clients else loaded.open_context

        context = self._build(ask_clients=ask_clients)
        context.sni_callback = current
        return context

    def grpc_credentials(self) -> Any:
        """The same for gRPC."""
        import grpc

        told = self._loaded

        def changed() -> Any:
            nonlocal told
            loaded = self._current()
            if loaded is told:
                return None
            told = loaded
            return _grpc_configuration(loaded)

        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(told), changed, require_client_authentication=self.mutual
        )

    def _current(self) -> _Loaded:
        seen = self._look()
        if seen not in (self._loaded.seen, self._refused):
            try:
                self._loaded = self._load(seen)
                _log.info("the certificate %s was read again", self._tls.certificate)
            except (OSError, ValueError) as error:
                self._refused = seen  # said once
                _log.warning("%s; the earlier one stays in use", _sentence(self._tls, error))
        return self._loaded

    def _look(self) -> tuple[object, ...]:
        tls = self._tls
        seen: list[object] = []
        for name in filter(None, (tls.certificate, tls.key, tls.client_authority)):
            try:
                status = Path(name).stat()
                seen.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError as error:
                seen.append(error.errno)
        return tuple(seen)

    def _load(self, seen: tuple[object, ...]) -> _Loaded:
        tls = self._tls
        context, open_context = self._build(), self._build(ask_clients=False)
        certificate = Path(tls.certificate).read_bytes()
        loaded = _Loaded(
            seen=seen,
            certificate=certificate,
            end=not_after(certificate),
            key=Path(tls.key).read_bytes(),
            client_authority=Path(tls.client_authority).read_bytes() if tls.client_authority else None,
            context=context,
            open_context=open_context,
        )
        if self._look() != seen:
            raise ValueError("it is being written now")
        return loaded

    def _build(self, *, ask_clients: bool = True) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._tls.certificate, self._tls.key, password=_no_password)
        if ask_clients and self._tls.client_authority is not None:
            context.load_verify_locations(self._tls.client_authority)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def not_after(pem: bytes) -> float:
    """When the first certificate of a PEM file ends, in Unix seconds (RFC 5280, 4.1.2.5)."""
    text = pem.decode("ascii", errors="replace")
    begin, end = text.find(ssl.PEM_HEADER), text.find(ssl.PEM_FOOTER)
    if not 0 <= begin < end:
        raise ValueError("it holds no certificate")
    der = ssl.PEM_cert_to_DER_cert(text[begin : end + len(ssl.PEM_FOOTER)])
    _, certificate, _ = _element(der)
    _, fields, _ = _element(certificate)
    tag, _, rest = _element(fields)
    for _ in range(3 if tag == _VERSION else 2):  # the serial number, the algorithm, the issuer
        _, _, rest = _element(rest)
    tag, validity, _ = _element(rest)
    _, _, rest = _element(validity)
    kind, moment, _ = _element(rest)
    if tag != _SEQUENCE:
        raise ValueError("it holds no certificate")
    digits = moment.decode("ascii").rstrip("Z")
    if kind == _UTC_TIME:
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    year, parts = int(digits[:4]), [int(digits[at : at + 2]) for at in range(4, 14, 2)]
    return float(calendar.timegm((year, *parts)))


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """The first DER element: its tag, its content, and what follows it."""
    if len(data) < 2:
        raise ValueError("its certificate is cut off")
    tag, length, start = data[0], data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start])
    if start + length > len(data):
        raise ValueError("its certificate is cut off")
    return tag, data[start : start + length], data[start + length :]


def _grpc_configuration(loaded: _Loaded) -> Any:
    import grpc

    return grpc.ssl_server_certificate_configuration(
        [(loaded.key, loaded.certificate)], root_certificates=loaded.client_authority
    )


def _no_password() -> str:
    """Without this OpenSSL would ask the terminal."""
    raise ValueError("its key is encrypted; give one that is not")


def _sentence(tls: "Tls", error: Exception) -> str:
    reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
    return f"the certificate {tls.certificate} with the key {tls.key} cannot be used: {reason}"
