"""Attention over a cell's own outputs."""

import numpy as np

import rnnjax
from rnnjax import testing


def test_the_contract():
    testing.check_cell(rnnjax.attention_window(rnnjax.lstm(3, 2), 3, 2, 3), np.ones(3))
