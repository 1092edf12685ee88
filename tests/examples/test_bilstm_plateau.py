import re

import bilstm_plateau
import pytest
from programs import EXAMPLES, refusal, run

pytestmark = pytest.mark.float32


def test_bilstm_plateau_quick(tmp_path):
    pytest.importorskip("mlxtend")
    lines = run("bilstm_plateau", "--quick", "--out", tmp_path)
    rows = [line for line in lines if ", seed 0: " in line]
    assert len(rows) == 3
    assert all(len(row.split(": ")[1].split()) == 2 for row in rows)
    assert b"<svg" in (tmp_path / "bilstm_plateau.svg").read_bytes()


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    (tmp_path / "file").touch()
    said = refusal(bilstm_plateau, capsys, "--out", tmp_path / "file")
    assert re.search(r"--out \S+ cannot be written .*another folder", said)


def test_it_leaves_the_pictures_of_the_docs_alone():
    out = (EXAMPLES.parent / bilstm_plateau.parse([]).out).resolve()
    assert out == EXAMPLES.parent / "runs/bilstm_plateau"
