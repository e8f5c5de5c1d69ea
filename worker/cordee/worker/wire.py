"""Text of the script's, made fit for a protobuf message.

A string field takes no lone surrogates (a file name that is no UTF-8 has them), and a message over gRPC's size limit
breaks the stream, each time it is said again. A failure that cannot be told would look like a machine's.
"""

from __future__ import annotations

__all__ = ["fit"]


def fit(text: str, limit: int = 8 << 10) -> str:
    """`text`, what UTF-8 cannot hold escaped, and its middle left out where it is longer than `limit` characters."""
    if len(text) > limit:
        text = f"{text[: limit // 4]}\n[… {len(text) - limit:,} characters left out …]\n{text[-(limit - limit // 4) :]}"
    return text.encode("utf-8", "backslashreplace").decode()
