"""The machine: what it is, whether it is idle, and how much memory a process took."""

import contextlib
import ctypes
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")


class Load(NamedTuple):
    """A reading of the counters of all cores, in clock ticks."""

    busy: int
    steal: int
    total: int


def describe() -> dict[str, str]:
    """Processor, cores, system and Python, as text."""
    model = platform.processor() or platform.machine()
    memory = "unknown"
    with contextlib.suppress(OSError):
        for line in (_PROC / "cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
        kilobytes = int((_PROC / "meminfo").read_text().split()[1])
        memory = f"{kilobytes / 2**20:.0f} GiB"
    return {
        "processor": model,
        "vector_units": _vector_units(),
        "cores": str(len(cores())),
        "memory": memory,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def gpus() -> list[str]:
    """Name and driver of each NVIDIA GPU, as its driver tells; none without one."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return said.stdout.strip().splitlines() if said.returncode == 0 else []


def _vector_units() -> str:
    with contextlib.suppress(OSError):
        for line in (_PROC / "cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                known = ("avx512f", "avx2", "fma", "amx_tile", "sve", "asimd")
                return " ".join(flag for flag in known if flag in line.split())
    return "unknown"


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The installed version of each package."""

    def version(package):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            # Run from a checkout that was not installed.
            return importlib.import_module(package).__version__

    return {package: version(package) for package in packages}


def cores() -> list[int]:
    """The cores this process may run on."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(threads: int) -> None:
    """Keep this process on ``threads`` cores; thread pools made later are that big."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores()[:threads])


def load() -> Load | None:
    """The counters now, or None on a system that has none."""
    try:
        fields = (_PROC / "stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, idle, wait, irq, softirq, steal = map(int, fields)
    busy = user + nice + system + irq + softirq
    return Load(busy, steal, busy + steal + idle + wait)


def process_ticks(pids: list[int]) -> int:
    """Clock ticks that these processes have used so far."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = (_PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks


def foreign_share(before: Load, after: Load, own_ticks: int) -> dict[str, float]:
    """Shares of all cores that others used, and that the host kept for itself."""
    total = max(after.total - before.total, 1)
    others = max(after.busy - before.busy - own_ticks, 0)
    return {"others": others / total, "steal": (after.steal - before.steal) / total}


def idle_check(seconds: float = 1.0) -> dict[str, float]:
    """Watch the machine before a run: load average, other processes, steal."""
    before = load()
    time.sleep(seconds)
    after = load()
    watched = {"load_average": os.getloadavg()[0]}
    if before and after:
        watched |= foreign_share(before, after, 0)
    return watched


def resident_bytes() -> int | None:
    """Memory of this process now, after giving free pages back to the system."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return None
    return _status("VmRSS")


def reset_peak() -> bool:
    """Let the peak of this process's memory start again from here; Linux only."""
    try:
        (_PROC / "self" / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """The most memory this process has had since `reset_peak`."""
    return _status("VmHWM")


def _status(field: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in (_PROC / "self" / "status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None
