"""The words that a worker says to its agent on the lifeline: one letter, and a number or a text where there is one.

Standard library only: the agent imports this.
"""

from __future__ import annotations

__all__ = ["BEAT", "ENDING", "MEMBER", "WHY", "WORD_BYTES", "parse", "say", "say_why", "why"]

MEMBER = "m"
"""It has been a member of a world."""
BEAT = "b"
"""It lives; the number is the last step it committed."""
ENDING = "f"
"""It ends in good order, with this code. A script may call `os._exit(0)` too, which is no finish."""

WHY = "w"
"""What it ends of; the text is short, and has no number in it that is another one each time."""
WORD_BYTES = 64
"""No word is longer."""


def say(kind: str, number: int = 0) -> bytes:
    return f"{kind}{number}".encode()


def say_why(text: str) -> bytes:
    printable = "".join(c if " " <= c <= "~" else "?" for c in text)
    return f"{WHY}{printable}".encode("ascii")[:WORD_BYTES]


def why(word: bytes) -> str:
    """The text of such a word; empty: it is another one."""
    text = word.decode("ascii", "replace")
    return text[1:] if text.startswith(WHY) else ""


def parse(word: bytes) -> tuple[str, int]:
    """The letter and the number; what is no number counts as 0."""
    text = word.decode("ascii", "replace")
    try:
        return text[:1], int(text[1:] or 0)
    except ValueError:
        return text[:1], 0
