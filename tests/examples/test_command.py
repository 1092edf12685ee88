"""``examples/command.py``: what all programs refuse, and how Ctrl-C ends them."""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import textwrap
import time

import char_lm
import flip_flop
import forecast
import interrupt
import many_hosts
import memory
import mnist
import pixels
import pytest
import ragged
import sine
import stream
from programs import EXAMPLES, Program, main, refusal, run, same_checkpoints
from programs import command as command_of
from written import write_mnist

pytestmark = pytest.mark.float32

RUNS: dict[str, Program] = {
    "char_lm": char_lm,
    "flip_flop": flip_flop,
    "forecast": forecast,
    "many_hosts": many_hosts,
    "memory": memory,
    "mnist": mnist,
    "pixels": pixels,
    "ragged": ragged,
    "sine": sine,
    "stream": stream,
}


def test_every_example_is_known_to_the_docs_and_to_these_tests():
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    programs = {p.stem: p.read_text() for p in EXAMPLES.glob("*.py")}
    programs = {name: code for name, code in programs.items() if "__main__" in code}
    for name, code in programs.items():
        assert f"`{name}.py`" in page
        assert "--quick" in code or "command.add_run(" in code
        assert (EXAMPLES.parent / "tests/examples" / f"test_{name}.py").is_file()
    trained = {name for name, code in programs.items() if "training.fit(" in code}
    assert trained == RUNS.keys()


# Refusals, before any data are read or a model is made.


@pytest.mark.parametrize("name", RUNS)
def test_a_folder_that_cannot_be_written_is_refused_first(name, tmp_path, capsys):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "run"
    with pytest.raises(SystemExit) as end:
        main(RUNS[name], "--out", out)
    said = capsys.readouterr()
    assert end.value.code == 2
    assert said.out == ""
    assert re.search(f"--out {out} cannot be written .*another folder\n$", said.err)
    assert said.err.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="no rights to take away")
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write")
def test_a_folder_without_rights_is_refused(tmp_path, capsys):
    tmp_path.chmod(0o500)
    try:
        assert "Permission denied" in refusal(sine, capsys, "--out", tmp_path)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", RUNS)
def test_a_folder_that_holds_a_run_is_refused_first(name, tmp_path, capsys):
    folder = tmp_path / {"sine": "one", "memory": "parity-gru"}.get(name, "")
    folder.mkdir(exist_ok=True)
    (folder / "checkpoint.npz").write_bytes(b"hours of work")
    said = refusal(RUNS[name], capsys, "--out", tmp_path)
    assert f"{folder} holds a run; add --resume to go on with it" in said
    assert "--overwrite to replace it" in said
    assert (folder / "checkpoint.npz").read_bytes() == b"hours of work"


@pytest.mark.parametrize("name", RUNS)
def test_resuming_nothing_is_refused_first(name, tmp_path, capsys):
    out = tmp_path / "none"
    said = refusal(RUNS[name], capsys, "--out", out, "--resume")
    assert f"{out} holds no run to go on with; leave --resume out" in said
    assert not out.exists()


def test_pictures_without_matplotlib_are_refused_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = refusal(sine, capsys, "--plot", "--out", tmp_path)
    assert 'pictures need matplotlib; write pip install "rnnjax[examples]"' in said


def test_a_run_is_replaced_when_that_is_asked_for(tmp_path, capsys):
    given = ["--model", "one", "--epochs", 1, "--out", tmp_path]
    main(sine, *given)
    first = (tmp_path / "one/checkpoint.npz").read_bytes()
    main(sine, *given, "--seed", 1, "--overwrite")
    assert (tmp_path / "one/checkpoint.npz").read_bytes() != first
    assert "seed=1; this one has seed=0" in refusal(sine, capsys, *given, "--resume")


def test_a_damaged_checkpoint_is_refused_and_left_alone(tmp_path, capsys):
    folder = write_mnist(tmp_path / "data")
    (tmp_path / "checkpoint.npz").write_bytes(b"no checkpoint")
    given = ["--data-dir", folder, "--out", tmp_path, "--resume"]
    said = refusal(mnist, capsys, *given)
    assert "cannot be read as a checkpoint" in said
    assert (tmp_path / "checkpoint.npz").read_bytes() == b"no checkpoint"


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("--epochs", "0", "invalid positive value: '0'"),
        ("--batch-size", "many", "invalid positive value: 'many'"),
        ("--lr", "nan", "invalid nonnegative value: 'nan'"),
        ("--lr", "inf", "invalid nonnegative value: 'inf'"),
        ("--lr", "-0.1", "invalid nonnegative value: '-0.1'"),
        ("--dropout", "1", "invalid share value: '1'"),
        ("--dropout", "-0.1", "invalid share value: '-0.1'"),
        ("--seed", "-1", "invalid seed value: '-1'"),
        ("--seed", "99999999999", "invalid seed value: '99999999999'"),
    ],
)
def test_numbers_that_cannot_work_are_refused(argument, value, words, capsys):
    with pytest.raises(SystemExit) as end:
        forecast.parse([f"{argument}={value}"])
    assert end.value.code == 2
    assert f"argument {argument}: {words}" in capsys.readouterr().err


def test_a_refusal_is_one_line_and_status_2_for_a_user():
    done = subprocess.run(
        command_of("mnist", "--resume", "--out", "gone"), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mnist.py: gone holds no run")
    assert done.stderr.count("\n") == 1


def test_a_loss_that_is_not_finite_is_one_line(tmp_path):
    given = ["--batch-size", 16, "--lr", "1e30", "--out", tmp_path]
    given += ["--data-dir", write_mnist(tmp_path / "data")]
    done = subprocess.run(command_of("mnist", *given), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("mnist.py: loss is nan in epoch 1; nothing is saved")
    assert done.stderr.count("\n") == 1


# Ctrl-C.


@contextlib.contextmanager
def interrupted(arguments, line):
    """A child to which Ctrl-C goes once it has printed such a line.

    pytest ignores the interrupt itself meanwhile, as when it runs in the background.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        with subprocess.Popen(arguments, **pipes, text=True) as process:
            assert process.stdout is not None
            for found in process.stdout:
                if found.startswith(line):
                    break
            else:
                pytest.fail(f"{line} was not printed")
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            try:
                yield process
            finally:
                process.kill()
    finally:
        signal.signal(signal.SIGINT, before)


def test_run_stopped_by_ctrl_c_resumes_bit_for_bit(tmp_path):
    folder = write_mnist(tmp_path / "data")
    options = ["--data-dir", folder, "--hidden", 8, "--batch-size", 16, "--epochs", 60]
    run("mnist", *options, "--out", tmp_path / "whole")
    cut = command_of("mnist", *options, "--out", tmp_path / "cut")
    with interrupted(cut, "epoch  2/60") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    line = f"{tmp_path / 'cut'} has the last full epoch: add --resume to go on"
    assert said == f"mnist.py: stopped; {line}\n"
    lines = run("mnist", *options, "--out", tmp_path / "cut", "--resume")
    assert not any(line.startswith("epoch  2/60") for line in lines)
    same_checkpoints(tmp_path / "whole", tmp_path / "cut")


def child(tmp_path, body):
    """A program of ``command.run`` with such a main."""
    code = f"""
        import argparse, pathlib, signal, sys, time
        sys.path.insert(0, {str(EXAMPLES)!r})
        import command, jax, jax.numpy as jnp

        def parse(arguments):
            return argparse.Namespace(out=pathlib.Path({str(tmp_path)!r}))

        def main(options):
            {body}

        command.run(parse, main)
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(code))
    return command_of(path.with_suffix(""))


def test_ctrl_c_does_not_wait_for_a_compiled_loop(tmp_path):
    """Python's own handler would: the loop takes longer than the test may."""
    loop = "jax.lax.fori_loop(0, 2**31 - 1, lambda i, x: jnp.sin(x) + i, 0.0)"
    body = f"run = jax.jit(lambda: {loop}).lower().compile(); print('begins'); "
    with interrupted(child(tmp_path, body + "print(run())"), "begins") as process:
        out, said = process.communicate(timeout=10)
    assert process.returncode == interrupt.STOPPED
    assert (out, said) == ("", "program.py: stopped before anything was saved\n")


def test_ctrl_c_while_jax_is_imported_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text(
        "import time; print('begins', flush=True); time.sleep(60)"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    with interrupted(command_of("sine", "--quick"), "begins") as process:
        out, said = process.communicate(timeout=20)
    assert (process.returncode, out, said) == (130, "", "sine.py: stopped\n")


def test_ctrl_c_is_left_to_those_in_the_foreground(tmp_path):
    """A shell ignores it for programs in the background, which do not end by it."""
    body = "print('begins'); print(time.sleep(1))"
    arguments = child(tmp_path, body)
    arguments[2] = arguments[2].replace("SIG_DFL", "SIG_IGN")
    with interrupted(arguments, "begins") as process:
        out, said = process.communicate(timeout=20)
    assert (process.returncode, out, said) == (0, "None\n", "")
