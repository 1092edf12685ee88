"""The picture: every library's speed relative to torch's, a dot for each workload."""

from pathlib import Path
from typing import Any

from benchmarks.figures import MODES, NAMES, case_of, median, of_first_dtype
from benchmarks.peers import DEVICES, OURS
from benchmarks.workloads import CELLS, GRID


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw torch's time over each library's, per workload, cell and mode."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    cases = of_first_dtype(results["cases"])
    entries = [e for e in cases if case_of(e).workload in GRID]
    cells = [c for c in CELLS if any(case_of(e).cell == c for e in entries)]
    reference = "torch" if "torch" in results["versions"] else OURS
    figure, axes = plt.subplots(
        len(MODES),
        max(len(cells), 1),
        figsize=(4.2 * max(len(cells), 1), 6.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for row, (mode, title) in zip(axes, MODES.items(), strict=True):
        for axis, cell in zip(row, cells, strict=False):
            chosen = [e for e in entries if case_of(e)[1:3] == (cell, mode)]
            _panel(axis, chosen, reference)
            axis.set_title(f"{NAMES[cell]}, {title}", fontsize=10)
        row[0].set_ylabel(f"{reference}'s time over the library's")
    handles, labels = axes[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _panel(axis: Any, entries: list[dict], reference: str) -> None:
    letters = [case_of(entry).workload for entry in entries]
    axis.axhline(1, color="0.6", linewidth=1)
    for k, peer in enumerate(DEVICES["gpu"]):
        at, ratios = [], []
        for position, entry in enumerate(entries):
            theirs, base = median(entry, peer), median(entry, reference)
            if theirs and base and peer != reference:
                at.append(position)
                ratios.append(base / theirs)
        if not at:
            continue
        ours = peer == OURS
        marker, size, color = ("D", 45, "black") if ours else ("o", 28, f"C{k}")
        axis.scatter(at, ratios, s=size, color=color, marker=marker, label=peer)
    axis.set_yscale("log")
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.yaxis.minorticks_off()
    axis.set_xticks(range(len(letters)), letters)
    axis.grid(axis="y", linewidth=0.3)
