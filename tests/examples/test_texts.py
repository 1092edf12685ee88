"""``examples/texts.py``: tokens of a text, and the chunks that it is cut into."""

import jax.numpy as jnp
import numpy as np
import pytest
import texts

pytestmark = pytest.mark.float32


def test_the_pages_have_what_they_promise():
    text = texts.read(texts.PAGES, None)
    assert text.decode(text.tokens) == texts.PAGES.read_text()
    assert 8_000 < len(text.tokens) < 16_000
    assert (
        text.encode("the sea") == texts.read(texts.PAGES, None).encode("the sea")
    ).all()
    assert len(text.tokens) - text.split == round(0.1 * len(text.tokens))
    assert texts.read(texts.PAGES, 500).characters == "".join(
        sorted(set(texts.PAGES.read_text()[:500]))
    )


@pytest.mark.parametrize(("rows", "steps", "start"), [(3, 5, 0), (3, 5, 4), (1, 7, 2)])
def test_chunks_go_on_where_the_one_before_ended(rows, steps, start):
    tokens = jnp.arange(101)
    inputs, targets = texts.chunks(tokens, start, rows, steps)
    count = texts.chunk_count(101, rows, steps)
    assert inputs.shape == (count, rows, steps)
    assert (targets == inputs + 1).all()
    streams = np.swapaxes(inputs, 0, 1).reshape(rows, -1)
    assert (np.diff(streams.ravel()) == 1).all()
    assert streams[0, 0] == start
    assert 101 - streams.size < (rows + 1) * steps + 1
