"""The benchmark: it runs, compares before it times, and derives what it says."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import rnnjax
from benchmarks import (
    agree,
    char_lm,
    compare,
    figures,
    machine,
    mnist,
    parts,
    processes,
    report,
    rounds,
    sharding,
    sweep,
    tables,
)
from benchmarks.peers import MODULES
from benchmarks.workloads import WORKLOADS, Case, data, flops, name

ROOT = Path(__file__).parents[2]
CASE = Case("A", "lstm", "backward", 2, 3, 4, 5)


@pytest.mark.drawn(0.35)
@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ("--workloads A --dtypes float32,bfloat16", set(MODULES)),
        ("--workloads O --keep-memory", set(MODULES)),
        (
            "--workloads D,I,J,K,L,M,P --cells lstm --peers torch,scan,rnnjax --warm",
            {"torch", "scan", "rnnjax"},
        ),
    ],
)
def test_a_quick_run_measures_every_case_in_every_library(arguments, asked, tmp_path):
    command = [sys.executable, "-m", "benchmarks.compare", "--quick", "--rounds", "1"]
    command += ["--seconds", "0", "--out", str(tmp_path), *arguments.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["versions"]) | set(results["missing"]) == asked
    # torch is in no extra; everything else is.
    assert set(results["missing"]) <= {"torch"}
    for entry in results["cases"]:
        meant = WORKLOADS[entry["case"]["workload"]].peers or results["versions"]
        assert set(entry["peers"]) == set(meant) & set(results["versions"])
        for peer, answer in entry["peers"].items():
            assert answer.get("median", 0) > 0 or answer["left_out"], (entry, peer)
        assert "median" in entry["peers"]["rnnjax"], entry
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {entry['name']} |" in table for entry in results["cases"])
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_timed_after_a_difference(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(agree, "OUTPUTS", -1.0)
    arguments = "--quick --workloads A --cells elman --peers scan,rnnjax --out"
    assert compare.main([*arguments.split(), str(tmp_path)]) == 1
    assert "A elman forward: rnnjax against scan: ys differs" in capfd.readouterr().err
    assert not (tmp_path / "results.json").exists()


def test_a_library_that_dies_fails_its_case_and_no_other(tmp_path):
    workers = {"scan": processes.start("scan", 1)}
    effort = rounds.Effort(1, 0.0)
    try:
        assert "jax" in processes.greeting(workers["scan"])["versions"]
        workers["scan"].process.kill()
        (entry,) = rounds.run([CASE], workers, effort, tmp_path)
        assert "exit status -9" in entry["peers"]["scan"]["failed"]
        (entry,) = rounds.run([CASE], workers, effort, tmp_path)
        assert entry["peers"]["scan"]["median"] > 0
    finally:
        processes.stop(workers["scan"])


@pytest.mark.parametrize(
    ("got", "complaint"),
    [
        ({"ys": np.ones(3)}, None),
        ({"ys": np.ones(3) + 5e-5}, None),
        ({"ys": np.ones(3) + 5e-4}, "differs"),
        ({"ys": np.array([1.0, np.nan, 1.0])}, "differs by nan"),
        ({"ys": np.ones((3, 1))}, "shape"),
        ({}, "missing"),
        ({"ys": np.ones(3), "zs": np.ones(3)}, "unexpected"),
    ],
)
def test_differences_are_found(got, complaint):
    found = agree.differences({"ys": np.ones(3)}, got)
    assert bool(found) == bool(complaint)
    assert complaint is None or complaint in found[0]


def test_every_process_gets_the_same_numbers():
    program = (
        "from benchmarks.workloads import *;"
        "d = data(Case('I', 'gru', 'forward', 4, 16, 3, 5, bidirectional=True,"
        " ragged=True)); print(d.xs.sum(), d.layers[1].b_hn.sum(), d.lengths.tolist())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "random"}
    command = [sys.executable, "-c", program]
    runs = {
        subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
        for _ in range(2)
    }
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (Case("A", "lstm", "forward", 1, 1, 3, 5), 2 * (3 + 5) * 20),
        (Case("A", "gru", "forward", 2, 7, 3, 5), 14 * 2 * (3 + 5) * 15),
        (Case("H", "elman", "forward", 1, 1, 3, 5, 2), 2 * (3 + 5 + 5 + 5) * 5),
        (CASE._replace(cell="elman", bidirectional=True), 6 * 2 * 2 * (4 + 5) * 5),
        (Case("P", "none", "product", 1, 1, 1, 4), 128),
    ],
)
def test_operations_are_those_of_the_products(case, expected):
    assert flops(case) == expected


def _entry(case, **medians):
    peers = {peer.replace("_", "-"): {"median": m} for peer, m in medians.items()}
    return {"name": name(case), "case": case._asdict(), "peers": peers, "others": {}}


def test_means_and_the_best_peer():
    a, b = (CASE._replace(workload=w) for w in "AB")
    entries = [
        _entry(a, torch=8.0, scan=3.0, haiku=2.0, rnnjax=1.0),
        _entry(b, torch=2.0, scan=4.0, haiku=9.0, rnnjax=2.0),
        _entry(CASE._replace(workload="J"), torch=1.0, rnnjax=9.0),
    ]
    found = {f.what: f for f in figures.derive({"cases": entries})}
    lstm = "over ours, LSTM forward and backward"
    assert found[f"torch {lstm}, mean of AB"].value == pytest.approx(8**0.5)
    assert found[f"torch {lstm}, mean of AB"].reached
    assert found[f"torch {lstm}, least (B)"].value == 1.0
    assert found[f"best JAX library {lstm}, mean of AB"].value == pytest.approx(2.0)


def test_ragged_is_counted_per_useful_step():
    full = Case("I", "gru", "forward", 4, 16, 3, 8, bidirectional=True)
    ragged = full._replace(ragged=True)
    lengths = data(ragged).lengths
    assert lengths is not None
    useful = int(lengths.sum()) / (4 * 16)
    entries = [_entry(full, rnnjax=2.0), _entry(ragged, rnnjax=2.0 * useful * 1.5)]
    (figure,) = figures.derive({"cases": entries})
    assert figure.value == pytest.approx(1.5)
    assert figure.reached is False


def test_of_a_second_dtype_there_are_means_alone():
    case = Case("I", "lstm", "backward", 4, 16, 3, 8, bidirectional=True)
    entries = [_entry(case, torch=2.0, rnnjax=1.5)]
    entries += [
        _entry(e._replace(dtype="bfloat16"), torch=2.0, rnnjax=1.0)
        for e in (case, CASE)
    ]
    found = {f.what: f for f in figures.derive({"cases": entries})}
    both = found.pop("torch over ours, bidirectional LSTM forward and backward")
    assert both.value == pytest.approx(4 / 3)
    assert both.reached
    assert found
    assert all("in bfloat16" in what for what in found)


def test_the_share_is_of_the_best_product():
    product = Case("P", "none", "product", 1, 1, 1, 100)
    forward = Case("F", "lstm", "forward", 64, 100, 128, 256)
    entries = [
        _entry(product, torch=2e-3, rnnjax=1e-3),
        _entry(forward, rnnjax=flops(forward) / (0.9 * flops(product) / 1e-3)),
    ]
    share = next(f for f in figures.derive({"cases": entries}) if "share" in f.what)
    assert (share.text, share.reached) == ("90%", True)


def test_other_programs_are_noticed():
    before, after = machine.Load(100, 0, 1000), machine.Load(180, 10, 1200)
    shares = machine.foreign_share(before, after, own_ticks=60)
    assert shares == {"others": 0.1, "steal": 0.05}


def test_the_generated_part_of_a_page_is_replaced_and_the_rest_kept(tmp_path):
    page = tmp_path / "page.md"
    begin, end = (f"<!-- {w}: it (generated) -->" for w in ("begin", "end"))
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    for _ in range(2):
        report.between(page, "it", "new")
        assert page.read_text() == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    with pytest.raises(ValueError, match="must have one line"):
        report.between(page, "other", "new")


def test_the_docs_have_a_place_for_the_figures(tmp_path):
    places = {
        report.DOCS: ("benchmarks", "mnist"),
        report.README: ("speed", "benchmark means", "whole program"),
    }
    for path, names in places.items():
        page = (ROOT / path).read_text()
        for part in names:
            assert page.count(f"<!-- begin: {part} (generated) -->") == 1
            assert page.count(f"<!-- end: {part} (generated) -->") == 1


def test_the_readme_says_what_was_measured():
    cases = [
        CASE._replace(workload=letter, mode=mode)
        for letter in "AB"
        for mode in ("forward", "backward")
    ]
    results = {
        "cases": [_entry(case, torch=3.0, scan=2.0, rnnjax=1.0) for case in cases],
        "command": "the command",
        "threads": 2,
        "versions": {"torch": {}, "scan": {}, "rnnjax": {}},
    }
    table = tables.means_table(results)
    assert "| LSTM | 3.00 | 3.00 | 2.00 | 2.00 |" in table
    assert "| GRU | - | - | - | - |" in table
    assert "`the command`; the best JAX library is the fastest of scan in" in table
    said = tables.speed(results)
    assert "forward 3.00 times as fast as torch's, on average, and 2.00 times" in said

    seconds = {"rnnjax": [40.0, 42.0, 41.0], "torch": [50.0]}
    finals = {"rnnjax": "test_accuracy 0.9927  more", "torch": "test_accuracy 0.9922"}
    said = mnist.sentence(seconds, finals, "the command")
    assert "mnist.py` takes 41.0 s and reads 99.27 % of" in said
    assert "torch takes 50.0 s and reads 99.22 % (`the command`)" in said


@pytest.mark.parametrize(
    "arguments",
    ["--workloads Z", "--rounds 0", "--quick --update-docs", "--threads 0"],
)
def test_wrong_calls_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare.main(arguments.split())
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_tokens_per_second_are_medians_of_the_last_lines():
    def line(rate, bits, seconds):
        return (
            f"final validation_bits_per_character {bits} (epoch 2 of 2)  "
            f"tokens_per_second {rate}  training 9.0 s  total {seconds} s"
        )

    ours = [line(9000, 2.5, 20.0), line(12000, 2.25, 21.0), line(11000, 2.75, 40.0)]
    table = char_lm.table({"rnnjax": ours, "torch": [line(5500, 3, 22.0)]})
    assert "| rnnjax | 11,000 | 2.500 | 21.0 |" in table
    assert "| torch | 5,500 | 3.000 | 22.0 |" in table
    assert table.endswith("over torch's: 2.00")


@pytest.mark.float32
def test_the_table_of_sharding_counts_params_and_moments(capsys):
    cell = rnnjax.stack(rnnjax.lstm(8, 8), rnnjax.lstm(8, 8))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    held, temporary = sharding.memory(cell, mesh, (4, 3, 8), P("data"), P())
    numbers = 2 * (2 * 8 * 32 + 32)
    assert held == 3 * 4 * numbers + 4  # and how many updates there were
    assert temporary > 0
    sharding.main((2, 4, 3, 8))
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 6


@pytest.mark.float32
@pytest.mark.parametrize("cell", parts.CELLS)
def test_the_parts_are_those_of_the_gradient(cell, capsys):
    parts.main(["--seconds", "0.01", f"{cell}:2,3,4,5"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines[3:]] == [
        *("gradient", "forwards", "backwards"),
        *("gradient of w_hh", "gradient of w_ih"),
    ]


class Images(NamedTuple):
    images: np.ndarray
    labels: np.ndarray


@pytest.mark.float32
def test_the_sweep_changes_what_a_setting_says():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 600).astype(np.uint8)
    images = rng.integers(0, 50, (600, 28, 28)).astype(np.uint8)
    images[np.arange(600), :, labels] = 255  # a bright column for each digit
    train = Images(images[:500], labels[:500])
    score = Images(images[500:], labels[500:])
    options = argparse.Namespace(hidden=8, epochs=4, batch_size=50, seed=0)
    plain = sweep.accuracy(sweep.Setting(), train, score, options)
    assert plain > 0.5
    still = sweep.Setting(rate=0.0)
    assert sweep.accuracy(still, train, score, options) < 0.3
    assert sweep.Setting() == sweep.SETTINGS["peak rate 0.01"]
    assert len(set(sweep.SETTINGS.values())) == len(sweep.SETTINGS)
