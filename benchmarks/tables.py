"""The measured and the derived figures as text: lines, and tables in Markdown."""

from collections.abc import Iterable
from typing import Any

from benchmarks import figures
from benchmarks.figures import MODES, NAMES, case_of
from benchmarks.peers import DEVICES, OURS
from benchmarks.rounds import BUSY
from benchmarks.workloads import CELLS

NOTHING = "-"


def heading(results: dict[str, Any]) -> list[str]:
    """The machine, the versions and the settings, a line each."""
    here, idle = results["machine"], results["idle"]
    versions: dict[str, str] = {}
    for one in results["versions"].values():
        versions |= one
    lines = [
        f"{here['processor']} ({here['vector_units']}), {here['cores']} cores, "
        f"{here['memory']}, {here['system']}, Python {here['python']}",
        ", ".join(f"{package} {version}" for package, version in versions.items()),
        f"{results['threads']} threads each, {results['rounds']} rounds, XLA_FLAGS "
        f"{results['xla_flags'] or 'not set'}, {results['date']}",
    ]
    if results["device"] == "gpu":
        kept = "rounded to TF32" if results["tf32"] else "kept in float32"
        gpu = results["gpus"][0]
        lines.append(f"On a GPU, {gpu}; factors of float32 products are {kept}.")
    others, steal = idle.get("others"), idle.get("steal", 0.0)
    if others is None:
        lines.append("Whether the machine was idle is not known on this system.")
    else:
        lines.append(
            f"Before: load average {idle['load_average']:.2f}, other processes took "
            f"{others:.1%} of the cores, the host {steal:.1%}."
        )
        if others + steal > BUSY:
            lines.append("The machine was not idle: do not rely on these times.")
    for peer, about in results["about"].items():
        lines += [f"{peer}: {' '.join(about.split())}"] if about else []
    if results["quick"]:
        lines.append(
            "Quick: the sizes are small; this shows that everything runs, not how fast."
        )
    lines += [f"{peer}: not here, {why}" for peer, why in results["missing"].items()]
    return lines


def line(entry: dict[str, Any]) -> str:
    """One case for the terminal: every library's median, and ours beside torch."""
    parts = []
    for peer, answer in entry["peers"].items():
        if "median" in answer:
            parts.append(f"{peer} {_milliseconds(answer['median'])}")
        elif "failed" in answer:
            parts.append(f"{peer} FAILED: {answer['failed']}")
    ratio = figures.times_faster(entry, "torch")
    beside = f"  ({ratio:.2f} x torch)" if ratio else ""
    return f"  {entry['name']}, ms: {' · '.join(parts)}{beside}"


def failures(results: dict[str, Any]) -> list[str]:
    """A line for each library and case that should have run and did not."""
    return [
        f"{peer} failed in {entry['name']}: {answer['failed']}"
        for entry in results["cases"]
        for peer, answer in entry["peers"].items()
        if "failed" in answer
    ]


def markdown(results: dict[str, Any]) -> str:
    """The tables for the docs."""
    lines = ["```text", results["command"], *heading(results)]
    if "minutes" in results:
        lines.append(f"The whole run took {results['minutes']:.1f} minutes.")
    parts = ["\n".join([*lines, "```"])]
    # Their aims are a CPU's.
    derived = figures.derive(results) if results["device"] == "cpu" else []
    if derived:
        parts.append("### Derived figures\n\n" + _derived_table(derived))
    for mode, title in {**MODES, "train": "training step with Adam"}.items():
        chosen = [e for e in results["cases"] if case_of(e).mode == mode]
        if chosen:
            table = _time_table(results, chosen, 1e3, ratios=True)
            parts.append(f"### {title[0].upper()}{title[1:]}, milliseconds\n\n{table}")
    parts += _other_tables(results)
    parts += [_left_out(results), _disturbed(results)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _other_tables(results: dict[str, Any]) -> list[str]:
    parts = []
    streams = [e for e in results["cases"] if case_of(e).mode in ("step", "chunk")]
    if streams:
        table = _time_table(results, streams, 1e6, p99=True)
        title = "Streams, microseconds a call, median / 99th percentile"
        parts.append(f"### {title}\n\n{table}")
    compiled = [e for e in results["cases"] if case_of(e).mode == "compile"]
    if compiled:
        table = _time_table(results, compiled, 1)
        parts.append(f"### Trace and compile, seconds\n\n{table}")
    products = [e for e in results["cases"] if case_of(e).mode == "product"]
    if products:
        table = _time_table(results, products, 1e3)
        parts.append(f"### A square product, milliseconds\n\n{table}")
    memory = [e for e in results["cases"] if case_of(e).workload == "M"]
    if memory:
        rows = _rows(results, memory, _mebibytes)
        parts.append(f"### Peak memory of a call, MiB\n\n{rows}")
    return parts


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def _rows(
    results: dict[str, Any], entries: list[dict], cell: Any, ratios: bool = False
) -> str:
    peers = [peer for peer in DEVICES[results["device"]] if peer in results["versions"]]
    peers = [p for p in peers if any(cell(entry, p) != NOTHING for entry in entries)]
    body = [[e["name"], *(cell(e, peer) for peer in peers)] for e in entries]
    if not ratios:
        return _table(["", *peers], body)
    for row, entry in zip(body, entries, strict=True):
        for peer in ("torch", figures.best_jax_peer(entry)):
            ratio = figures.times_faster(entry, peer) if peer else None
            row.append(f"{ratio:.2f}" if ratio else NOTHING)
    return _table(["", *peers, "torch / ours", "best JAX / ours"], body)


def _time_table(
    results: dict[str, Any],
    entries: list[dict],
    scale: float,
    *,
    p99: bool = False,
    ratios: bool = False,
) -> str:
    def cell(entry, peer):
        answer = entry["peers"].get(peer, {})
        if "median" not in answer:
            return "failed" if "failed" in answer else NOTHING
        text = _digits(answer["median"] * scale)
        if p99:
            text += f" / {_digits(answer['p99'] * scale)}"
        timed = [a["median"] for a in entry["peers"].values() if "median" in a]
        return f"**{text}**" if answer["median"] == min(timed) else text

    return _rows(results, entries, cell, ratios)


def _mebibytes(entry: dict[str, Any], peer: str) -> str:
    size = entry["peers"].get(peer, {}).get("peak_bytes")
    return NOTHING if size is None else f"{size / 2**20:.0f}"


def _derived_table(derived: list[figures.Figure]) -> str:
    said = {True: "reached", False: "not reached", None: ""}
    body = [[f.what, f.text, f.aim, said[f.reached]] for f in derived]
    return _table(["", "figure", "aim", ""], body)


def _left_out(results: dict[str, Any]) -> str:
    reasons = {
        f"- {peer}: {answer['left_out']}."
        for entry in results["cases"]
        for peer, answer in entry["peers"].items()
        if "left_out" in answer
    }
    lines = sorted(reasons)
    lines += [f"- {peer}: not installed." for peer in results["missing"]]
    return "Left out:\n\n" + "\n".join(lines) if lines else ""


def _disturbed(results: dict[str, Any]) -> str:
    busy = {
        entry["name"]: sum(entry["others"].values())
        for entry in results["cases"]
        if sum(entry["others"].values()) > BUSY
    }
    rows = ", ".join(f"{name} ({share:.0%})" for name, share in busy.items())
    return f"Other programs or the host took cores during: {rows}." if busy else ""


def everything(results: dict[str, Any]) -> str:
    """Each measurement in a row of its own."""
    head = ["case", "library", "calls", "q1 ms", "median ms", "q3 ms", "p99 ms"]
    head += ["trace s", "compile s", "first call ms", "peak MiB", "others' share"]
    body = []
    for entry in results["cases"]:
        for peer, a in entry["peers"].items():
            if "median" not in a:
                continue
            times = [_milliseconds(a[key]) for key in ("q1", "median", "q3", "p99")]
            body.append(
                [
                    entry["name"],
                    peer,
                    str(a["calls"]),
                    *times,
                    f"{a['trace_seconds']:.2f}",
                    f"{a['compile_seconds']:.2f}",
                    _milliseconds(a["first_seconds"]),
                    _mebibytes(entry, peer),
                    f"{sum(entry['others'].values()):.1%}",
                ]
            )
    return _table(head, body) + "\n"


def _milliseconds(seconds: float) -> str:
    return _digits(seconds * 1e3)


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.4f}"


def means_table(results: dict[str, Any]) -> str:
    """The geometric means alone, for the README, and what they are means of."""
    body = []
    for cell in CELLS:
        row = [NAMES[cell]]
        for against in ("torch", None):
            row += [_mean(results, cell, mode, against) for mode in MODES]
        body.append(row)
    head = ["times faster than", "torch, forward", "torch, forward+backward"]
    head += ["best JAX library, forward", "best JAX library, forward+backward"]
    others = ", ".join(
        peer for peer in results["versions"] if peer not in ("torch", OURS)
    )
    return (
        f"{_table(head, body)}\n\n"
        "Geometric means over [workloads](docs/performance.md) A to H, by "
        f"`{results['command']}`; the best JAX library is the fastest of {others} in "
        "each."
    )


def speed(results: dict[str, Any]) -> str:
    """What the README says of speed on its first screen, in a sentence."""
    torch, best = (
        [_mean(results, "lstm", mode, against) for mode in MODES]
        for against in ("torch", None)
    )
    return (
        f"On {results['threads']} CPU cores an LSTM layer runs forward {torch[0]} "
        f"times as fast as torch's, on average, and {best[0]} times as fast as the "
        f"best other JAX library's; forward and backward it is {torch[1]} and "
        f"{best[1]} times as fast ([how this was measured](docs/performance.md))."
    )


def _mean(results: dict[str, Any], cell: str, mode: str, against: str | None) -> str:
    known = figures.ratios(results["cases"], cell, mode, against).values()
    return f"{figures.geometric_mean(known):.2f}" if known else NOTHING
