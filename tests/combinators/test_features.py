"""Layers that do not fit are found when they are made; all that may work is made."""

import jax.numpy as jnp
import pytest

import rnnjax

UNEVEN = {
    "after a memoryless cell": (
        lambda: rnnjax.stack(
            rnnjax.embedding(9, 5), rnnjax.dropout(0.1), rnnjax.lstm(4, 3)
        ),
        "layer 1 puts out 5 features, layer 2 takes 4",
    ),
    "after a function": (
        lambda: rnnjax.stack(
            rnnjax.gru(3, 4), rnnjax.pointwise(lambda x: x[:2]), rnnjax.dense(4, 1)
        ),
        "layer 1 puts out 2 features, layer 2 takes 4",
    ),
    "in wrappers": (
        lambda: rnnjax.stack(
            rnnjax.with_dropout(rnnjax.bidirectional(rnnjax.gru(3, 4)), outputs=0.1),
            rnnjax.learned_carry(rnnjax.gru(4, 4)),
        ),
        "layer 0 puts out 8 features, layer 1 takes 4",
    ),
    "images": (
        lambda: rnnjax.stack(rnnjax.conv_gru((5, 5, 2), 3), rnnjax.dense(3, 1)),
        r"layer 0 puts out the shape \(5, 5, 3\), layer 1 takes 3",
    ),
    "highway of another input": (
        lambda: rnnjax.highway(rnnjax.gru(4, 3), 3),
        "takes 4 features, and input_size is 3.*input_size=4",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), UNEVEN.values(), ids=UNEVEN)
def test_what_cannot_work_is_not_made(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_cells_of_unknown_inputs_are_made():
    function = rnnjax.pointwise(lambda pair: pair[0])
    rnnjax.stack(function, rnnjax.gru(3, 4))
    rnnjax.stack(rnnjax.phased_lstm(3, 4), rnnjax.dense(4, 1))
    rnnjax.residual(function)


def test_an_argument_of_another_meaning_is_no_reason_to_refuse():
    @rnnjax.constructor
    def any_size(input_size):
        return rnnjax.pointwise(jnp.tanh)

    rnnjax.stack(rnnjax.gru(3, 4), any_size(17), rnnjax.dense(4, 1))


def test_a_merge_written_for_whole_sequences_is_taken():
    rnnjax.bidirectional(
        rnnjax.gru(3, 4), merge=lambda f, b: jnp.concatenate([f, b], axis=1)
    )
