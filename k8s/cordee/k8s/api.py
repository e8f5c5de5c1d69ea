"""The API server, as plain JSON: one request, or one stream of lines.

The official client brings what is tedious (TLS, kubeconfig with its plug-ins, service-account tokens that are read
again as they are renewed, proxies); its typed models would cost a second of imports and say less about a status
than the JSON does. Synchronous: callers on an event loop use `asyncio.to_thread`.
"""

import contextlib
import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from http.client import IncompleteRead
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlencode, urlsplit

from cordee.coordinator.config import Kubernetes
from cordee.k8s.errors import ApiError, KubernetesError, UnreachableError

__all__ = ["ANSWER_SECONDS", "APPLY", "JSON_PATCH", "MERGE_PATCH", "STRATEGIC_PATCH", "Api", "Json", "Stream"]

Json = dict[str, Any]
"""An object of Kubernetes, as its API has it."""

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"

_CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0
_POOL: Final = 32
"""Connections that are kept: so many requests run at once."""
_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class Stream:
    """The lines of an answer that goes on. `close` may be called from another thread, and ends the iteration."""

    def __init__(self, response: Any, server: str) -> None:
        self._response = response
        self._server = server
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        try:
            for piece in self._response.stream(amt=None, decode_content=True):
                *lines, rest = (rest + piece).split(b"\n")
                yield from (line for line in lines if line.strip())
        except Exception as error:
            if not self._closed:
                words = f"the connection to the API server at {self._server} broke: {_words(error)}"
                raise UnreachableError(words) from error
        finally:
            self._response.close()

    def close(self) -> None:
        """End it: a thread that reads in it comes back at once."""
        self._closed = True
        connection = getattr(self._response, "connection", None)
        sock = getattr(connection, "sock", None)
        if sock is not None:  # closing it would wait for the reader; shutting it down wakes the reader
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Api:
    """One cluster's API server, by one identity. Threads may share it."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._client = client
        self._server = _address(client.configuration.host)
        self.namespace = namespace

    @classmethod
    def connect(cls, settings: Kubernetes) -> "Api":
        """By the kubeconfig that is named, or as the pod that this process runs in. Asks nothing of the server yet."""
        from kubernetes.client.api_client import ApiClient
        from kubernetes.client.configuration import Configuration
        from kubernetes.config import incluster_config, kube_config
        from kubernetes.config.config_exception import ConfigException

        incluster: Any = incluster_config  # neither has types
        files: Any = kube_config
        configuration = Configuration()
        configuration.connection_pool_maxsize = _POOL
        configuration.keep_alive = True  # a watch whose server is gone without a word is noticed
        configuration.retries = False  # whoever asks knows whether asking again is safe
        own = "default"
        try:
            if settings.kubeconfig is None:
                incluster.load_incluster_config(client_configuration=configuration)
                own = _NAMESPACE_FILE.read_text().strip() or own
            else:
                contexts, current = files.list_kube_config_contexts(config_file=settings.kubeconfig)
                chosen = next((c for c in contexts if c["name"] == settings.context), current)
                own = chosen["context"].get("namespace") or own
                files.load_kube_config(
                    config_file=settings.kubeconfig,
                    context=settings.context,
                    client_configuration=configuration,
                    persist_config=False,
                )
        except (ConfigException, OSError) as error:
            hint = "outside a cluster set kubernetes.kubeconfig in the coordinator's configuration"
            raise KubernetesError(f"the cluster's API cannot be used: {error}", hint=hint) from error
        client = ApiClient(configuration)
        client.user_agent = "cordee"
        return cls(client, settings.namespace or own)

    def request(
        self,
        method: Method,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout_seconds: float = ANSWER_SECONDS,
    ) -> Json:
        """One answer. Raises `ApiError` when the server refuses and `UnreachableError` when there is none."""
        response = self._call(method, path, query, body, content_type, timeout_seconds)
        try:
            data = response.read()
        except Exception as error:
            words = f"the answer of the API server at {self._server} broke off: {_words(error)}"
            raise UnreachableError(words) from error
        answer = _parse(data)
        if response.status >= 400:
            raise _refusal(response.status, response.headers, answer, data)
        return answer

    def stream(self, path: str, *, query: Mapping[str, str], timeout_seconds: float) -> Stream:
        """An answer that goes on, line by line; silence for longer than the timeout breaks it."""
        response = self._call("GET", path, query, None, "application/json", timeout_seconds)
        if response.status >= 400:
            data = response.read()
            raise _refusal(response.status, response.headers, _parse(data), data)
        return Stream(response, self._server)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        timeout_seconds: float,
    ) -> Any:
        from urllib3 import Timeout  # the official client brings it

        headers = {**self._client.default_headers, "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            # Its own way down to urllib3 looks at every value of a body to find what is no JSON yet.
            return self._client.rest_client.pool_manager.urlopen(
                method,
                f"{self._client.configuration.host}{path}{'?' if query else ''}{urlencode(query or {})}",
                body=None if body is None else json.dumps(body, separators=(",", ":")).encode(),
                headers=headers,
                timeout=Timeout(connect=_CONNECT_SECONDS, read=timeout_seconds),
                preload_content=False,
            )
        except Exception as error:  # urllib3's many, the client's own, a token file that is gone
            words = f"the API server at {self._server} cannot be reached: {_words(error)}"
            raise UnreachableError(words) from error


def _parse(data: bytes) -> Json:
    try:
        answer = json.loads(data)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _refusal(status: int, headers: Any, answer: Json, data: bytes) -> ApiError:
    if answer.get("kind") != "Status":
        words = data.decode(errors="replace").strip()[:500] or f"HTTP status {status}"
        answer = {"message": words, "reason": "", "details": {}}
    details = dict(answer.get("details") or {})
    after = headers.get("Retry-After") if headers is not None else None
    if after is not None and str(after).isdigit():
        details.setdefault("retryAfterSeconds", int(after))
    return ApiError(status, str(answer.get("reason") or ""), str(answer.get("message") or status), details)


def _address(url: str) -> str:
    """Host and port of a URL."""
    parts = urlsplit(url)
    host = parts.hostname or url
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or (80 if parts.scheme == 'http' else 443)}"


def _words(error: BaseException) -> str:
    """Why, in the same words whenever the cause is the same: these are told as events, which are counted by them.

    What was raised first says it; around that urllib3 names its own objects, with where they lie in memory.
    """
    causes = [error]
    while (inner := _cause(causes[-1])) is not None and inner not in causes:
        causes.append(inner)
    if any(isinstance(cause, IncompleteRead) for cause in causes):
        return "it was closed in the middle"
    match causes[-1]:
        case socket.gaierror() as last:
            return f"its name is not found ({last.strerror})"
        case ssl.SSLCertVerificationError() as last:
            return f"its certificate is not trusted ({last.verify_message})"
        case ssl.SSLError() as last if last.reason:
            return f"TLS fails ({last.reason.lower().replace('_', ' ')})"
        case TimeoutError():
            return "it does not answer in time"
        case OSError() as last if last.strerror:
            return f"{last.filename}: {last.strerror}" if last.filename else last.strerror
        case last:
            return re.sub(r" at 0x[0-9a-f]+", "", str(last)) or type(last).__name__


def _cause(error: BaseException) -> BaseException | None:
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__
