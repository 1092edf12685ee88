"""Texts as tokens, one for each character, and cut into chunks of parallel streams."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

PAGES = Path(__file__).parent / "data" / "pages.txt"
SHARE = 0.1  # of the text, at its end, is held back


class Text(NamedTuple):
    """``characters`` are the vocabulary, ``tokens: (n,)`` uint16 its indices.

    ``tokens[:split]`` are there to train on, the others to score on.
    """

    characters: str
    tokens: np.ndarray
    split: int

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text of known characters."""
        strange = sorted(set(text) - set(self.characters))
        if strange:
            raise ValueError(
                f"the prompt has {strange}, which the text does not have; write a "
                "prompt of characters of the text"
            )
        return np.array([self.characters.index(c) for c in text], np.uint16)

    def decode(self, tokens: Any) -> str:
        """The text of tokens."""
        return "".join(self.characters[token] for token in tokens)


def read(path: Path, most: int | None) -> Text:
    """A text, or its first ``most`` characters, and its vocabulary.

    Raises:
      OSError: for a file that cannot be read.
      ValueError: for one that is not UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8")[:most]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error}); convert it, for example by "
            "iconv -t utf-8"
        ) from error
    characters = "".join(sorted(set(text)))
    lookup = {character: token for token, character in enumerate(characters)}
    tokens = np.array([lookup[character] for character in text], np.uint16)
    return Text(characters, tokens, len(tokens) - round(SHARE * len(tokens)))


def last_line(text: Text) -> str:
    """The beginning of the line in which training ends, or the characters before it."""
    return text.decode(text.tokens[text.split - 40 : text.split]).lstrip()


def chunks(tokens: Array, start: Any, rows: int, steps: int) -> tuple[Array, Array]:
    """Inputs and targets ``(chunks, rows, steps)``; the rows are streams of the text.

    The first stream begins with token ``start``, one of the first.
    """
    count = chunk_count(len(tokens), rows, steps)
    size = rows * count * steps
    taken = jax.lax.dynamic_slice(tokens, (start,), (size + 1,)).astype(jnp.int32)
    inputs, targets = (
        a.reshape(rows, count, steps).swapaxes(0, 1) for a in (taken[:-1], taken[1:])
    )
    return inputs, targets


def chunk_count(characters: int, rows: int, steps: int) -> int:
    """How many chunks an epoch has."""
    # One chunk less than would fit leaves room to begin elsewhere in every epoch.
    return max((characters - steps) // (rows * steps), 0)
