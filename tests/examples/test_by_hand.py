from programs import run


def test_by_hand():
    lines = run("by_hand")
    assert sum("forget gate" in line for line in lines) == 4
    assert sum(line.startswith("final largest difference") for line in lines) == 2


def test_by_hand_quick():
    lines = run("by_hand", "--quick")
    assert sum("forget gate" in line for line in lines) == 2
