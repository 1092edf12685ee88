"""``examples/many_hosts.py``: several processes train as one, and end and go on as one.

``pytest tests/examples/test_many_hosts.py --kills 20`` kills as many processes.
"""

import json
import os
import signal
import socket
import subprocess
import time

import many_hosts
import numpy as np
import pytest
from programs import command, number, run
from written import write_mnist

pytestmark = pytest.mark.float32


EPOCHS = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_mnist(tmp_path_factory.mktemp("digits"), train=320)


def options(folder, out, *more):
    chosen = ["--hidden", 4, "--batch-size", 24, "--data-dir", folder, "--out", out]
    return [*chosen, *more]


def log(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def values(log):
    return np.array([list(record.values()) for record in log])


def test_processes_train_as_one(folder, tmp_path):
    """Two and four have the losses of one, and print once what it prints."""
    printed = {}
    for count in (1, 2, 4):
        more = ("--epochs", 2, "--processes", count)
        printed[count] = run(
            "many_hosts", *options(folder, tmp_path / str(count), *more)
        )
    one = log(tmp_path / "1")
    assert [record["epoch"] for record in one] == [1, 2]
    assert one[1]["loss"] != one[0]["loss"]
    for count in (2, 4):
        logged = log(tmp_path / str(count))
        assert [list(record) for record in logged] == [list(record) for record in one]
        np.testing.assert_allclose(values(logged), values(one), rtol=1e-6, atol=1e-6)
        assert len(printed[count]) == len(printed[1])
        assert f"processes {count}, devices {count}, batch 24" in printed[count]
        final = number("final test_accuracy", printed[count])
        assert final == number("final test_accuracy", printed[1])


def started(folder, out, processes, *more):
    """Processes as several hosts would start them, each in a group with its worker."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    shared = ["--coordinator", address, "--processes", processes, "--devices", 1]
    return [
        subprocess.Popen(
            command(
                "many_hosts",
                *options(folder, out, *shared, "--process", process, *more),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for process in range(processes)
    ]


BOUND = 60  # seconds; a process that says nothing for 10 counts as lost


def kill_one(hosts, victim, delay, compiled):
    """Kill a host after a moment; what it says in one line on each of the others."""
    if compiled:
        lines = iter(hosts[0].stdout.readline, "")
        assert any(line.startswith("compiled") for line in lines)
    time.sleep(delay)
    os.killpg(hosts[victim].pid, signal.SIGKILL)
    killed = time.monotonic()
    said = [host.communicate(timeout=BOUND)[1] for host in hosts]
    assert time.monotonic() - killed < BOUND
    assert hosts[victim].returncode == -signal.SIGKILL
    for process, host in enumerate(hosts):
        if process != victim:
            assert host.returncode == many_hosts.LOST, said[process]
            assert said[process].count("\n") == 1, said[process]
            assert f"process {process} has lost another one" in said[process]


def held(out):
    """The history in the checkpoint, if there is one."""
    if not (out / "checkpoint.npz").exists():
        return []
    with np.load(out / "checkpoint.npz") as archive:
        return json.loads(archive["rnnjax.json"])["metadata"]["history"]


def test_a_killed_process_ends_the_others_and_loses_nothing(folder, tmp_path, request):
    """Each time other processes go on from there, and one alone at the end."""
    out, draw = tmp_path / "killed", np.random.default_rng(0)
    more = ["--epochs", EPOCHS, "--patience", 20]
    seen, moments = [], []
    for kill in range(request.config.option.kills):
        resumed = ["--resume"] * (out / "checkpoint.npz").exists()
        hosts = started(folder, out, [3, 2][kill % 2], *more, *resumed)
        # One in four may fall into the start, where they connect and compile.
        compiled = kill % 4 != 3
        delay = float(draw.uniform(0, 2 if compiled else 15))
        victim = int(draw.integers(len(hosts)))
        moments.append((len(hosts), victim, compiled, delay))
        print(f"kill {kill}: {moments[-1]}, {len(seen)} epochs so far")
        kill_one(hosts, victim, delay, compiled)
        found = held(out)
        assert found[: len(seen)] == seen, moments
        numbers = [record["epoch"] for record in found]
        assert numbers == list(range(1, len(found) + 1)), moments
        seen = found
    assert 0 < len(seen) < EPOCHS, moments
    arguments = options(folder, out, "--processes", 1, *more, "--resume")
    printed = run("many_hosts", *arguments)
    assert f"going on with {out} after epoch {len(seen)}" in printed
    assert held(out)[: len(seen)] == seen
    assert len(held(out)) == len(log(out)) == EPOCHS


STATUSES = {
    "by hand": ({0: -6, 1: many_hosts.LOST, 2: -9}, "process 2 was ended by signal 9"),
    "elsewhere": ({3: -6}, "process 3 has lost another one and ended"),
    "by the runtime": ({0: 0, 1: many_hosts.LOST}, "process 1 has lost another one"),
    "on a pod": ({None: many_hosts.LOST}, "process has lost another one and ended"),
}


@pytest.mark.parametrize(("statuses", "sentence"), STATUSES.values(), ids=STATUSES)
def test_one_line_says_what_is_lost_and_how_to_go_on(statuses, sentence, tmp_path):
    line = many_hosts.what_is_lost(tmp_path, statuses)
    assert line.startswith(sentence)
    assert line.endswith("; nothing is saved yet: start again")
    (tmp_path / "checkpoint.npz").touch()
    line = many_hosts.what_is_lost(tmp_path, statuses)
    assert line.endswith(f"; {tmp_path} has the last full epoch: add --resume to go on")


MISUSES = {
    "a process alone": (["--process", 0], "--process and --coordinator belong"),
    "no number": (
        ["--process", 0, "--coordinator", "localhost:1"],
        "--process needs --processes",
    ),
}


@pytest.mark.parametrize(("arguments", "sentence"), MISUSES.values(), ids=MISUSES)
def test_what_does_not_fit_together_is_refused(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        many_hosts.parse(list(map(str, arguments)))
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_without_a_cluster_it_says_what_to_write(folder, tmp_path):
    """Nothing names the other processes here."""
    done = subprocess.run(
        command("many_hosts", *options(folder, tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "write --processes 2 to start two here" in done.stderr
