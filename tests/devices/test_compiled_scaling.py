"""The model of a training step computes what the compiler for TPUs counts."""

import pytest

from benchmarks import ahead_of_time, scaling, topologies

WHY = topologies.missing()
pytestmark = [pytest.mark.float32, pytest.mark.skipif(bool(WHY), reason=WHY)]


def test_the_work_of_a_layer_is_what_the_compiler_counts(monkeypatch):
    monkeypatch.setattr(scaling, "UNITS", 256)
    monkeypatch.setattr(scaling, "STEPS", 16)
    counted = {}
    compiled = ahead_of_time.compiled

    def count(program, mesh, options=None):
        made = compiled(program, mesh, options)
        counted[program.arguments[1].shape[0], mesh.size] = made.cost_analysis()
        return made

    monkeypatch.setattr(ahead_of_time, "compiled", count)
    work = scaling.from_compiler("tpu")
    # The compiler counts what a loop repeats once or not at all, and elementwise
    # operations too.
    assert work.flops.at(64) == pytest.approx(counted[64, 1]["flops"], rel=0.06)
    # The gradients of two weights and a bias, and the loss.
    assert work.gradients == 4 * (2 * 256 * 1024 + 1024 + 1)
    assert work.bytes.each > 0
