"""No argument of a constructor takes what cannot work: each is tried with nonsense."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.combinators import (
    attending,
    blocks,
    convolving,
    layers,
    memoryless,
    noise,
    normalizing,
    shortcuts,
    starting,
    timing,
    windows,
)

CELL = rnnjax.gru(4, 4)

# A call of each constructor that is right; every argument of it is then made wrong.
RIGHT = {
    "attention": {"cell": rnnjax.gru(8, 4), "input_size": 4, "size": 4}
    | {"memory_shape": (6, 4), "monotonic": "soft"},
    "attention_window": {"cell": CELL, "input_size": 4, "size": 4, "length": 3},
    "bidirectional": {"forward": CELL},
    "causal_conv": {"size": 4, "width": 3},
    "conv_gru": {"input_shape": (5, 5, 2), "features": 3},
    "conv_lstm": {"input_shape": (5, 5, 2), "features": 3},
    "dense": {"input_size": 4, "output_size": 2},
    "drop_connect": {"cell": CELL, "rate": 0.1},
    "dropout": {"rate": 0.1},
    "embedding": {"vocabulary_size": 7, "embedding_size": 4},
    "glstm": {"input_size": 4, "hidden_size": 4, "groups": 2},
    "grid_lstm": {"input_size": 4, "hidden_size": 4, "layers": 2},
    "griffin_block": {"cell": rnnjax.rg_lru(6), "size": 4, "inner_size": 6},
    "highway": {"cell": CELL, "input_size": 4},
    "intersection_rnn": {"size": 4},
    "layer_norm": {"size": 4},
    "learned_carry": {"cell": CELL},
    "low_rank_rnn": {"input_size": 4, "hidden_size": 4, "rank": 2},
    "parallel": {"cells": (CELL,)},
    "passing_time": {"cell": CELL},
    "pointwise": {"function": jnp.tanh},
    "residual": {"cell": CELL},
    "residual_block": {"cell": CELL, "size": 4},
    "reverse": {"cell": CELL},
    "rg_lru": {"size": 4},
    "rms_norm": {"size": 4},
    "s4d": {"input_size": 4, "state_size": 3},
    "selective_ssm": {"size": 4},
    "skip_stack": {"cells": (CELL,)},
    "stack": {"cells": (CELL,)},
    "time_distributed": {"init": lambda key: (), "apply": lambda params, x: x},
    "with_dropout": {"cell": CELL},
    "with_initial_carry": {"cell": CELL, "init": lambda key: (), "start": jnp.asarray},
    "zoneout": {"cell": CELL, "rate": 0.1},
}
SIZES = {"input_size": 4, "hidden_size": 4}
WRONG = {
    "a word": "word",
    "nothing": None,
    "an array": jnp.ones((50, 50)),
    "a NumPy array": np.ones((50, 50)),
    "an object": object(),
    "a dictionary": {"a": 1.0},
    "not a number": float("nan"),
}
# What looks wrong and has a meaning: None is then the default, or leaves something out.
OPTIONAL = {"backward", "cell_clip", "projection_clip", "projection_size"} | {
    "layer_norm",
    "key_size",
    "output_size",
    "rank",
    "input_shape",
    "traversal",
    "carry_dtype",
    "monotonic",
}


def constructors():
    modules = [rnnjax.cells, attending, blocks, convolving, layers, memoryless]
    modules += [noise, normalizing, shortcuts, starting, timing, windows]
    for module in modules:
        for name, made in vars(module).items():
            if name.startswith("_") or not hasattr(made, "__wrapped__"):
                continue
            if made.__module__.startswith(module.__name__):
                yield name, made


ARGUMENTS = [
    (make, argument)
    for _, make in constructors()
    for argument in inspect.signature(make).parameters
]


def call(make, **changed):
    given = RIGHT.get(make.__name__, SIZES) | changed
    several = given.pop("cells", ())
    return make(*several, **given)


@pytest.mark.parametrize(
    ("make", "argument"), ARGUMENTS, ids=lambda v: getattr(v, "__name__", v)
)
def test_no_argument_takes_nonsense(make, argument):
    call(make)
    for what, value in WRONG.items():
        if value is None and argument in OPTIONAL:
            continue
        changed = {argument: (value,) if argument == "cells" else value}
        with pytest.raises((TypeError, ValueError)) as caught:
            call(make, **changed)
        sentence = str(caught.value)
        named = make.__name__ if argument == "cells" else argument
        assert named in sentence, f"{what}: {sentence}"
        assert len(sentence) < 500, f"{what}: {sentence}"


@pytest.mark.parametrize("name", RIGHT)
def test_the_table_is_of_constructors_that_are_there(name):
    assert name in dict(constructors())


@pytest.mark.parametrize(
    ("name", "changed", "sentence"),
    [
        ("attention", {"memory_shape": 5}, r"memory_shape is 5; .*\(7, 8\)"),
        ("attention", {"memory_shape": (5, 4, 3)}, r"memory_shape is \(5, 4, 3\)"),
        ("attention", {"memory_shape": (5, 0)}, r"memory_shape\[1\] is 0"),
        ("attention", {"score_noise": -1.0}, r"score_noise is -1.0; .*0 or more"),
        ("attention", {"cell": CELL}, "takes 4 features.* is 8 features"),
        ("attention_window", {"cell": rnnjax.gru(8, 4)}, "takes 8 .* is 4 features"),
    ],
)
def test_attention_refuses_what_does_not_fit(name, changed, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        call(dict(constructors())[name], **changed)


def test_traced_numbers_are_refused():
    for make, argument in ((rnnjax.lstm, "forget_bias"), (rnnjax.leaky_rnn, "dt")):
        with pytest.raises(TypeError, match=f"{argument} is float64.*known when"):
            jax.jit(lambda v, m=make, a=argument: call(m, **{a: v}).init(v))(0.5)
