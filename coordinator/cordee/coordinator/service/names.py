"""What jobs are called, and who asks for things."""

import secrets
from typing import Final

__all__ = ["asked_by", "new_id"]

_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"  # base32's, in lower case
_MAX_WHO: Final = 200


def new_id(name: str) -> str:
    """An id for a job of this name: it, and something random."""
    return f"{name}-{''.join(secrets.choice(_ALPHABET) for _ in range(6))}"


def asked_by(who: str) -> str:
    """Who asked for it, where that is known; what an identity provider calls people is cut to a sane length."""
    return f" by {who[:_MAX_WHO]}" if who else ""
