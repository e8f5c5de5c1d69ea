"""What jobs are called, and who asks for things."""

import base64
import secrets
from typing import Final

__all__ = ["asked_by", "new_id"]

_MAX_WHO: Final = 200


def new_id(name: str) -> str:
    """An id for a job of this name: it, and something random."""
    return f"{name}-{base64.b32encode(secrets.token_bytes(5)).decode().lower()[:6]}"


def asked_by(who: str) -> str:
    """Who asked for it, where that is known; what an identity provider calls people is cut to a sane length."""
    return f" by {who[:_MAX_WHO]}" if who else ""
