"""``examples/timeseries.py``: sktime's files, whole and damaged."""

import numpy as np
import pytest
import timeseries
from written import TS

pytestmark = pytest.mark.float32


def test_ts_files(tmp_path):
    path = tmp_path / "Made_TRAIN.ts"
    path.write_text(TS)
    xs, labels = timeseries.read_ts(path)
    assert labels == ["low", "high"]
    np.testing.assert_array_equal(xs[0], [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(xs[1], np.array([[7.5, 90], [-8, 10]]))
    assert xs[0].dtype == np.float32


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("@timeStamps false", "@timeStamps true", "@timestamps true; expected false"),
        ("@missing false", "@missing true", "@missing true; expected false"),
        ("@classLabel true low high", "@classLabel false", "not say @classLabel"),
        ("@data\n", "", "line 9, is a sequence above the line @data"),
        ("4,5,6", "4,5", "line 10, is damaged"),
        ("4,5,6", "4,x,6", "line 10, is damaged"),
        ("4,5,6", "4,?,6", "line 10, is damaged"),
        ("4,5,6", "4,nan,6", "line 10, has 2 dimensions, or numbers"),
        (":4,5,6", "", "line 10, has 1 dimensions"),
        (TS.partition("@data\n")[2], "", "no sequences"),
    ],
)
def test_damaged_ts_files(old, new, sentence, tmp_path):
    path = tmp_path / "Made_TRAIN.ts"
    assert old in TS
    path.write_text(TS.replace(old, new, 1))
    with pytest.raises(ValueError, match=sentence):
        timeseries.read_ts(path)
