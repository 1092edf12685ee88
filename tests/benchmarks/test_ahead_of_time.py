"""The command that compiles for chips that are elsewhere says what it lacks."""

import pytest

from benchmarks import ahead_of_time, topologies


def test_without_the_compilers_the_command_names_them(monkeypatch, capsys):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        ahead_of_time.main([])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "no libtpu and no jax_cuda13_plugin: pip install" in said


def test_with_the_compilers_nothing_is_missing(monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: object())
    assert topologies.missing() == ""
