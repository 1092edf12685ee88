"""``examples/pixels.py``: the order of its pixels, its optimizer and a short run."""

import jax
import jax.numpy as jnp
import numpy as np
import pixels
import pytest
from programs import main, refusal, run
from written import some_digits, write_mnist

pytestmark = pytest.mark.float32


def test_pixels_quick(tmp_path):
    folder = write_mnist(tmp_path / "data")
    given = ["--data-dir", folder, "--out", tmp_path, "--permuted"]
    lines = run("pixels", "--quick", "--plot", *given)
    assert "100 digits to train on, 40 (test) to score on" in lines[1]
    assert lines[3].startswith("compiled in ")
    assert lines[-1].startswith("final test_accuracy ")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert (tmp_path / "checkpoint.npz").is_file()


@pytest.mark.drawn(0.15)
@pytest.mark.parametrize("cell", pixels.CELLS)
def test_every_cell_reads_pixels(cell, tmp_path, capsys):
    folder = write_mnist(tmp_path / "data")
    given = ["--data-dir", folder, "--out", tmp_path, "--cell", cell]
    main(pixels, "--quick", *given)
    assert "final test_accuracy" in capsys.readouterr().out


def test_a_batch_of_more_digits_than_there_are_is_refused(tmp_path, capsys):
    given = ["--data-dir", write_mnist(tmp_path / "data"), "--out", tmp_path]
    said = refusal(pixels, capsys, *given, "--batch-size", 161)
    assert "--batch-size is 161, more than the 160 digits to train on" in said


def test_pixels_are_read_row_by_row_or_in_one_order_for_all():
    images = some_digits(3).images
    rows = pixels.pixels(images, np.arange(784))
    assert rows.shape == (3, 784, 1)
    assert rows[1, 28 * 5 + 2, 0] == images[1, 5, 2]
    order = np.random.default_rng(0).permutation(784)
    assert (pixels.pixels(images, order) == rows[:, order]).all()


def test_timescales_do_not_decay():
    options = pixels.parse(
        ["--size", "2", "--hidden", "2", "--blocks", "1", "--lr", "0.1"]
    )
    optimizer = pixels.optimizer_for(options, 100)
    params = pixels.build(options).cell.init(jax.random.key(0))
    state = optimizer.init(params)
    still = jax.tree.map(jnp.zeros_like, params)  # so that only decay moves them
    _, state = optimizer.update(still, state, params)  # at a rate of zero
    updates, _ = optimizer.update(still, state, params)
    moved = {
        jax.tree_util.keystr(path): bool(jnp.any(leaf != 0))
        for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
    }
    slow = [name for name in moved if any(n in name for n in pixels.TIMESCALES)]
    assert len(slow) == 3
    assert not any(moved[name] for name in slow)
    assert any(moved.values())
