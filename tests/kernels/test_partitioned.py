"""What holds on a mesh of eight devices, in processes that have so many."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("laws", ["eight_devices.py", "eight_devices_typed.py"])
def test_on_eight_devices(laws):
    flags = os.environ.get("XLA_FLAGS", "")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", str(HERE / laws)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=8",
        },
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
