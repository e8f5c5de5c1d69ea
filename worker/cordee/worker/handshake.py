"""How two workers make sure of each other before a byte of training data flows.

The accepting side sends a fresh nonce; the dialling side answers with its own nonce, the world it belongs to and who it
takes both ends for, under an HMAC-SHA256 that only holders of the job's worker token can make; the accepting side
answers the same way. So neither a stranger who finds the port, nor a recording of an earlier handshake, nor a worker of
a world that is gone, becomes a member: the MAC covers both nonces, the generation, both ranks and both incarnations.

Everything here is pure: bytes in, bytes out.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass
from typing import Final

__all__ = [
    "ANSWER_BYTES",
    "CHALLENGE_BYTES",
    "HELLO_BYTES",
    "Hello",
    "answer",
    "challenge",
    "check_answer",
    "hello",
    "mesh_key",
    "open_challenge",
    "open_hello",
]

_MAGIC: Final = b"CORDEE\x00\x01"
"""The last byte is the version of this protocol."""
_NONCE_BYTES: Final = 32
_MAC_BYTES: Final = 32
_ID_BYTES: Final = 32
_BODY: Final = struct.Struct(f"<8sQIII{_ID_BYTES}s{_ID_BYTES}s{_NONCE_BYTES}s")

CHALLENGE_BYTES: Final = len(_MAGIC) + _NONCE_BYTES
HELLO_BYTES: Final = _BODY.size + _MAC_BYTES
ANSWER_BYTES: Final = 1 + _MAC_BYTES

ACCEPTED: Final = 0
STALE: Final = 1
MISMATCH: Final = 2
DUPLICATE: Final = 3
REFUSALS: Final = {
    STALE: "it is in a later generation already",
    MISMATCH: "it knows another world of this generation",
    DUPLICATE: "it has a connection from this rank already",
}


@dataclass(frozen=True)
class Hello:
    """What the dialling side claims. Identities are `identity(worker, incarnation)`: both names, in 32 bytes."""

    generation: int
    size: int
    dialling_rank: int
    accepting_rank: int
    dialling: bytes
    accepting: bytes


def mesh_key(token: str) -> bytes:
    """The mesh's key, from the job's worker token. One-way: who learns the key cannot talk to the coordinator."""
    return hmac.digest(token.encode(), b"cordee mesh", hashlib.sha256)


def identity(worker: str, incarnation: str) -> bytes:
    """A fixed-size name of one process: 32 bytes, whatever the lengths of its names."""
    parts = [text.encode() for text in (worker, incarnation)]
    return hashlib.sha256(b"".join(struct.pack("<I", len(part)) + part for part in parts)).digest()


def challenge() -> tuple[bytes, bytes]:
    """A new challenge: the message, and the nonce in it."""
    nonce = os.urandom(_NONCE_BYTES)
    return _MAGIC + nonce, nonce


def open_challenge(message: bytes) -> bytes | None:
    """The nonce of a challenge; None: whoever is there does not speak this protocol."""
    return message[len(_MAGIC) :] if message.startswith(_MAGIC) else None


def hello(key: bytes, nonce: bytes, claim: Hello) -> bytes:
    """The dialling side's answer to a challenge."""
    body = _BODY.pack(
        _MAGIC,
        claim.generation,
        claim.size,
        claim.dialling_rank,
        claim.accepting_rank,
        claim.dialling,
        claim.accepting,
        os.urandom(_NONCE_BYTES),
    )
    return body + _mac(key, b"dial", nonce, body)


def open_hello(key: bytes, nonce: bytes, message: bytes) -> Hello | None:
    """The claim in a hello that answers `nonce`; None: it was not made with this key for this nonce."""
    body, mac = message[: _BODY.size], message[_BODY.size :]
    if not hmac.compare_digest(mac, _mac(key, b"dial", nonce, body)):
        return None
    magic, generation, size, dialling_rank, accepting_rank, dialling, accepting, _ = _BODY.unpack(body)
    if magic != _MAGIC:
        return None
    return Hello(generation, size, dialling_rank, accepting_rank, dialling, accepting)


def answer(key: bytes, nonce: bytes, hello_message: bytes, status: int) -> bytes:
    """The accepting side's verdict on a hello."""
    code = bytes([status])
    return code + _mac(key, b"accept", nonce, hello_message + code)


def check_answer(key: bytes, nonce: bytes, hello_message: bytes, message: bytes) -> int | None:
    """The status in a verdict on `hello_message`; None: it was not made with this key for this handshake."""
    if hmac.compare_digest(message[1:], _mac(key, b"accept", nonce, hello_message + message[:1])):
        return message[0]
    return None


def _mac(key: bytes, label: bytes, nonce: bytes, message: bytes) -> bytes:
    return hmac.digest(key, label + b"\x00" + nonce + message, hashlib.sha256)
