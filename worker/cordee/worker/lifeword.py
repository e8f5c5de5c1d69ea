"""The words that a worker says to its agent on the lifeline: one letter, and a number where there is one.

Standard library only: the agent imports this.
"""

from __future__ import annotations

__all__ = ["BEAT", "ENDING", "MEMBER", "parse", "say"]

MEMBER = "m"
"""It has been a member of a world."""
BEAT = "b"
"""It lives; the number is the last step it committed."""
ENDING = "f"
"""It ends in good order, with this code. A script may call `os._exit(0)` too, which is no finish."""


def say(kind: str, number: int = 0) -> bytes:
    return f"{kind}{number}".encode()


def parse(word: bytes) -> tuple[str, int]:
    """The letter and the number; what is no number counts as 0."""
    text = word.decode("ascii", "replace")
    try:
        return text[:1], int(text[1:] or 0)
    except ValueError:
        return text[:1], 0
