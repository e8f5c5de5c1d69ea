"""Text as numbers, one per character: enough for a first language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CharTokenizer"]


class CharTokenizer:
    """Numbers the characters of a text, in the order of their code points: the same text gives the same numbers.

    Attributes:
        characters: the alphabet; character `characters[i]` has the number `i`.
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = "".join(sorted(set(characters)))
        if not self.characters:
            raise ValueError("a tokenizer needs at least one character")
        self._codes = np.array([ord(character) for character in self.characters], dtype=np.int64)

    def __len__(self) -> int:
        """How many different characters there are: the size of the vocabulary."""
        return len(self.characters)

    def encode(self, text: str) -> NDArray[np.int64]:
        """The numbers of the characters, of shape `(len(text),)`.

        Raises:
            ValueError: a character is not in the alphabet.
        """
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
        ids = np.searchsorted(self._codes, codes)
        wrong = self._codes[np.minimum(ids, len(self._codes) - 1)] != codes
        if wrong.any():
            raise ValueError(f"{text[int(wrong.argmax())]!r} is not among the {len(self)} characters of this tokenizer")
        return ids.astype(np.int64, copy=False)

    def decode(self, ids: Any) -> str:
        """The text that these numbers stand for; `ids` is a sequence, an array or a tensor of one dimension."""
        numbers: Sequence[int] = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        return "".join(self.characters[number] for number in numbers)

    def __repr__(self) -> str:
        return f"CharTokenizer({len(self)} characters)"
