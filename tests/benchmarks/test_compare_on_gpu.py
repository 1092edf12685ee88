"""The comparison on a GPU, as far as it can be seen without one."""

import numpy as np
import pytest

from benchmarks import agree, compare, machine, processes, tables
from benchmarks.peers import DEVICES, MODULES, LeftOut, rnnjax_cudnn, rnnjax_pallas
from benchmarks.workloads import WORKLOADS, Case, data

CASE = Case("A", "lstm", "forward", 2, 3, 4, 5)


@pytest.fixture
def a_gpu(monkeypatch):
    """What the driver of one tells; nothing is computed on it."""
    monkeypatch.setattr(machine, "gpus", lambda: ["NVIDIA H100 80GB HBM3, 580.1"])


def test_without_a_gpu_one_sentence_says_what_to_do(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == []
    with pytest.raises(SystemExit) as stopped:
        compare.main(["--device", "gpu"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "there is no NVIDIA GPU here" in said
    assert "run this where there is one" in said


def test_gpus_are_those_that_the_driver_names(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA L4, 580.1\necho NVIDIA L4, 580.1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert machine.gpus() == ["NVIDIA L4, 580.1"] * 2
    program.write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert machine.gpus() == []


@pytest.mark.usefixtures("a_gpu")
def test_a_gpu_has_its_own_rows_and_libraries():
    on_gpu = compare._options(["--device", "gpu"])
    assert on_gpu.peers == tuple(DEVICES["gpu"])
    assert set(on_gpu.workloads) == set(WORKLOADS) - {"M"}
    ((case,), *_) = WORKLOADS["N"].groups(("lstm",), False)
    assert (case.batch, case.time, case.inputs, case.hidden) == (16, 1024, 768, 768)
    on_cpu = compare._options([])
    assert on_cpu.peers == tuple(MODULES)
    assert set(on_cpu.workloads) == set(WORKLOADS) - {"N"}


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--workloads N", "--workloads N is not for --device cpu"),
        ("--device gpu --workloads A,M", "--workloads M is not for --device gpu"),
        ("--peers rnnjax-cudnn", "--peers rnnjax-cudnn is not for --device cpu"),
        ("--device gpu --update-docs", "the figures in the docs are a CPU's"),
        ("--tf32", "--tf32 is for a GPU"),
    ],
)
def test_what_a_device_does_not_have_is_refused(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare.main(arguments.split())
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_every_library_is_told_the_device_and_how_to_round():
    on_cpu = processes.environment(1)
    assert (on_cpu["JAX_PLATFORMS"], on_cpu["BENCHMARKS_DEVICE"]) == ("cpu", "cpu")
    on_gpu = processes.environment(1, "gpu", tf32=True)
    assert (on_gpu["JAX_PLATFORMS"], on_gpu["BENCHMARKS_DEVICE"]) == ("cuda,cpu", "gpu")
    assert on_gpu["JAX_DEFAULT_MATMUL_PRECISION"] == "tensorfloat32"
    assert on_gpu["BENCHMARKS_TF32"] == "1"
    exact = processes.environment(1, "gpu")
    assert exact["JAX_DEFAULT_MATMUL_PRECISION"] == "float32"


def test_a_library_that_finds_no_gpu_is_missing_and_says_so():
    """No GPU is used, wherever this runs: the driver shows none to the processes."""
    around = processes.environment(1, "gpu") | {"CUDA_VISIBLE_DEVICES": ""}
    started = {peer: processes.start(peer, 1, around) for peer in ("scan", "torch")}
    try:
        said = {peer: processes.greeting(worker) for peer, worker in started.items()}
    finally:
        for worker in started.values():
            processes.stop(worker)
    assert "JAX found no gpu" in said["scan"]["missing"]
    assert "torch" in said["torch"]["missing"]


def test_torch_moves_to_the_device_and_waits_for_it(monkeypatch):
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_nn

    waited = []
    # Tensors of this device have shapes and no numbers, so it is on every machine.
    monkeypatch.setattr(torch_nn, "PLACE", torch.device("meta"))
    monkeypatch.setattr(torch_nn, "finish", lambda: waited.append(True))
    for mode, cell in (("forward", "lstm"), ("backward", "gru"), ("step", "gru")):
        made = torch_nn.prepare(CASE._replace(mode=mode, cell=cell))
        result = made.call()
        first = result[0] if mode == "backward" else result
        assert first.device.type == "meta"
    assert len(waited) == 3


@pytest.mark.float32
@pytest.mark.parametrize(
    ("peer", "refused"),
    [
        (rnnjax_cudnn, CASE._replace(cell="gru")),
        (rnnjax_pallas, CASE._replace(cell="elman")),
        (rnnjax_pallas, CASE._replace(hidden=768)),
    ],
)
def test_the_options_run_what_they_have_and_leave_out_the_rest(peer, refused):
    made = peer.prepare(CASE)
    assert made.outputs(made.call())["ys"].shape == (2, 3, 5)
    with pytest.raises(LeftOut):
        peer.build(refused, data(refused).layers)


def test_tf32_is_compared_less_closely():
    expected, got = {"ys": np.ones(3)}, {"ys": np.ones(3) + 5e-3}
    assert agree.differences(expected, got)
    assert agree.differences(expected, got, agree.TF32) == []
    assert agree.differences(expected, {"ys": np.ones(3) + 0.1}, agree.TF32)


def test_the_heading_names_the_gpu():
    results = {
        "machine": dict.fromkeys(
            ("processor", "vector_units", "cores", "memory", "system", "python"), "some"
        ),
        "versions": {},
        "idle": {},
        "threads": 1,
        "rounds": 1,
        "xla_flags": "",
        "date": "2026-01-31",
        "about": {},
        "missing": {},
        "quick": False,
        "device": "gpu",
        "gpus": ["NVIDIA H100"],
        "tf32": True,
    }
    lines = "\n".join(tables.heading(results))
    assert "On a GPU, NVIDIA H100; factors of float32 products are rounded" in lines
