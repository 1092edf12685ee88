"""``examples/char_lm.py``: what is handed on, what is scored, when it stops."""

import json
import re
import signal
import subprocess

import char_lm
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import texts
from programs import command, main, number, refusal, run, same_checkpoints

import rnnjax
from rnnjax import training

pytestmark = pytest.mark.float32


def test_char_lm_quick(tmp_path):
    pytest.importorskip("matplotlib")
    lines = run("char_lm", "--quick", "--plot", "--out", tmp_path)
    assert lines[0].startswith("device ")
    assert lines[1].startswith("data pages.txt: ")
    assert sum(line.startswith("sample, ") for line in lines) == 2
    (first, second) = (line for line in lines if line.startswith("epoch "))
    assert number("validation_bits_per_character", [second]) < 5
    assert number("loss", [second]) < number("loss", [first])
    best = number("final validation_bits_per_character", lines)
    assert best == number("validation_bits_per_character", [second])
    assert {path.name for path in tmp_path.iterdir()} == {
        *("checkpoint.npz", "best.npz", "metrics.jsonl", "curves.png", "states.png")
    }


def small_model(vocabulary, **options):
    cell = char_lm.language_model(vocabulary, 6, embedding=3, layers=1, **options)
    return cell, cell.init(jax.random.key(0))


def test_the_carry_goes_from_chunk_to_chunk():
    """Without updates an epoch's loss is that of whole streams, read in one go."""
    cell, params = small_model(7, dropout=0.0)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 7, 200), jnp.int32)
    optimizer = optax.set_to_zero()
    train = char_lm.truncated_epoch(cell, optimizer, rows=3, steps=4)
    state = training.init(params, optimizer, jax.random.key(5))
    _, key_start, _ = jax.random.split(state.key, 3)
    start = int(jax.random.randint(key_start, (), 0, 4))
    _, metrics = train(state, tokens)

    length = 4 * texts.chunk_count(200, 3, 4)
    taken = tokens[start : start + 3 * length + 1]
    inputs, targets = (a.reshape(3, length) for a in (taken[:-1], taken[1:]))
    _, logits = rnnjax.unroll(cell, params, inputs)
    expected = rnnjax.sequence_loss(logits, targets)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["bits_per_character"], expected / np.log(2), rtol=1e-5
    )
    # In chunks that forget, it is another number.
    cut = [a[:, : length // 4 * 4].reshape(-1, 4) for a in (inputs, targets)]
    _, logits = rnnjax.unroll(cell, params, cut[0])
    assert abs(rnnjax.sequence_loss(logits, cut[1]) - expected) > 1e-4


@pytest.mark.parametrize("streams", [1, 3, 64, 1000])
def test_every_character_is_scored_once(streams):
    """A model without a memory does not care how the text is cut."""
    tokens = np.random.default_rng(0).integers(0, 5, 500).astype(np.uint16)
    text = texts.Text("abcde", tokens, 450)
    cell = rnnjax.stack(rnnjax.embedding(5, 3), rnnjax.dense(3, 5))
    params = cell.init(jax.random.key(0))
    _, logits = cell.unroll(params, ((), ()), jnp.asarray(tokens, jnp.int32))
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits[449:-1], jnp.asarray(tokens[450:], jnp.int32)
    )
    found = char_lm.scorer(cell, text, streams=streams)(params)
    np.testing.assert_allclose(found, np.mean(losses) / np.log(2), rtol=1e-5)


def test_what_is_scored_has_read_what_comes_before():
    tokens = np.random.default_rng(1).integers(0, 5, 300).astype(np.uint16)
    text = texts.Text("abcde", tokens, 250)
    cell, params = small_model(5)
    carry = cell.initial_carry(params)
    _, logits = cell.unroll(params, carry, jnp.asarray(tokens[:-1], jnp.int32))
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.asarray(tokens[1:], jnp.int32)
    )
    found = char_lm.scorer(cell, text, streams=1)(params)
    np.testing.assert_allclose(found, np.mean(losses[249:]) / np.log(2), rtol=1e-5)


def test_samples_begin_with_the_prompt_and_grow_certain_in_the_cold():
    text = texts.read(texts.PAGES, None)
    cell, params = small_model(len(text.characters))
    params = jax.tree.map(lambda a: 3 * a, params)
    keys = jax.random.split(jax.random.key(0), 3)
    prompt = text.encode("The sea")
    warm = char_lm.writer(cell, text, prompt, 1.0, 20)
    cold = char_lm.writer(cell, text, prompt, 0.0, 20)
    for write, different in ((warm, 3), (cold, 1)):
        written = {write(params, key) for key in keys}
        assert len(written) == different
        assert all(w.startswith("The sea") and len(w) == 27 for w in written)


def char_lm_options(*more):
    options = ["--hidden", 8, "--embedding", 4, "--layers", 1, "--chunk", 16]
    return [*options, "--batch-size", 8, "--write", 8, *more]


def test_char_lm_stops_early_and_keeps_its_best(tmp_path, capsys):
    arguments = char_lm_options("--epochs", 9, "--patience", 2, "--out", tmp_path)
    arguments += ["--lr", 0, "--cell", "gru"]
    main(char_lm, *arguments)
    lines = capsys.readouterr().out.splitlines()
    assert "(epoch 1 of 3)" in lines[-1]  # a rate of zero does not improve anything
    log = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in log] == [1, 2, 3]
    main(char_lm, *arguments, "--resume")
    lines = capsys.readouterr().out.splitlines()
    assert "(epoch 1 of 3)" in lines[-1]
    assert not any(line.startswith("epoch ") for line in lines)


def test_char_lm_interrupted_resumes_bit_for_bit(tmp_path):
    options = char_lm_options("--epochs", 40, "--patience", 40)
    run("char_lm", *options, "--out", tmp_path / "whole")
    cut = command("char_lm", *options, "--out", tmp_path / "cut")
    with subprocess.Popen(cut, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch  2/40"):
                process.send_signal(signal.SIGINT)
                break
        assert process.wait(timeout=20) == 130
    lines = run("char_lm", *options, "--out", tmp_path / "cut", "--resume")
    assert not any(line.startswith("epoch  2/40") for line in lines)
    same_checkpoints(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    ("content", "arguments", "sentence"),
    [
        (b"", [], "has 0 characters to train on; 8 streams .* at least 144"),
        (b"too short", [], "at least 144"),
        (b"\xff\xfe binary \x80", [], "is not UTF-8 text"),
        (None, [], "No such file"),
        (b"all in lower case. " * 100, ["--prompt", "AB"], r"prompt has \['A', 'B'\]"),
    ],
)
def test_char_lm_refuses_in_a_sentence(content, arguments, sentence, tmp_path, capsys):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    given = char_lm_options("--text", path, "--out", tmp_path / "out", *arguments)
    assert re.search(sentence, refusal(char_lm, capsys, *given))
