"""The model of a training step on many chips, by hand and in its limits."""

import pytest

from benchmarks import scaling, topologies
from benchmarks.scaling import Chip, Level, Line, Work

NO = Line(0, 0)
# Numbers that make every sum short: two chips to a host, four messages between hosts.
CHIP = Chip(
    flops=1e12,
    bandwidth=1e9,
    launch=1e-6,
    exchange=5e-6,
    levels=(
        Level(2, 1e9, 1e-6, lambda chips: 2 * (chips - 1)),
        Level(1024, 1e8, 1e-5, lambda chips: 4),
    ),
)
WORK = Work(
    time=100,
    flops=Line(0, 1e9),
    bytes=NO,
    step_flops=NO,
    step_bytes=Line(1e3, 1e2),
    launches=3,
    gradients=1e6,
    outputs=1e3,
)
POWERS = [2**n for n in range(11)]


def test_a_layer_by_hand():
    # 10 Gflop at 1 Tflop/s; 100 steps of 2 kB at 1 GB/s and of three launches.
    assert scaling.layer(CHIP, WORK, 10) == pytest.approx(10e-3 + 100 * (2e-6 + 3e-6))


def test_an_exchange_by_hand():
    # In a host: half of 1 MB at 1 GB/s there and back, and two messages.
    in_host = 5e-6 + 1e-3 + 2e-6
    assert scaling.exchange(CHIP, 1e6, 2) == pytest.approx(in_host)
    # Between two hosts: half of each chip's half at 0.1 GB/s both ways.
    assert scaling.exchange(CHIP, 1e6, 4) == pytest.approx(in_host + 5e-3 + 4e-5)


@pytest.mark.parametrize("platform", scaling.MODELS)
def test_one_chip_exchanges_nothing_and_more_take_longer(platform):
    chip = scaling.MODELS[platform]
    seconds = [scaling.exchange(chip, 1e8, n) for n in POWERS]
    assert seconds[0] == 0
    assert seconds == sorted(seconds)
    assert scaling.exchange(chip, 2e8, 64) > scaling.exchange(chip, 1e8, 64)


@pytest.mark.parametrize("platform", scaling.MODELS)
def test_a_step_gets_no_faster_than_its_loops_and_no_better_than_linear(platform):
    chip = scaling.MODELS[platform]
    seconds = [scaling.data(chip, WORK, 1024 / n, n) for n in POWERS]
    for n, each in zip(POWERS, seconds, strict=True):
        assert each >= seconds[0] / n
        floor = WORK.time * (WORK.launches * chip.launch + 1e3 / chip.bandwidth)
        assert each > scaling.LAYERS * floor


def test_layers_on_chips_pay_where_launches_are_all():
    launches = WORK._replace(flops=NO, step_bytes=NO, gradients=0, outputs=0)
    alone = scaling.data(CHIP, launches, 1, scaling.LAYERS)
    ahead = scaling.pipeline(CHIP, launches, 1, scaling.LAYERS)
    # No more than the steps of one layer, the time to fill it, and the messages.
    assert alone / scaling.LAYERS < ahead < alone / 2


def test_layers_on_chips_do_not_pay_where_products_are_all():
    products = WORK._replace(step_bytes=NO, launches=0, gradients=0, outputs=0)
    alone = scaling.data(CHIP, products, 64, scaling.LAYERS)
    assert scaling.pipeline(CHIP, products, 64, scaling.LAYERS) > alone - 5e-6


def test_time_on_chips_never_pays():
    for batch in (1, 16, 256):
        alone = scaling.layer(CHIP, WORK, batch)
        assert scaling.sequence(CHIP, WORK, batch, 1) == pytest.approx(alone)
        assert scaling.sequence(CHIP, WORK, batch, 8) > alone


def test_the_tables_have_a_row_for_each_number_of_chips():
    lines = scaling.tables("cuda", CHIP, WORK).splitlines()
    for n in scaling.CHIPS:
        assert len([line for line in lines if line.startswith(f"| {n:,} |")]) == 2
    assert "| launches | 3 | |" in lines


def test_without_the_compilers_the_command_names_them(monkeypatch, capsys):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        scaling.main([])
    assert "no libtpu" in capsys.readouterr().err
