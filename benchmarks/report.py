"""Write what was measured: JSON, Markdown and a picture, and the docs' copy of them.

``python -m benchmarks.report RESULTS.json`` writes them again from stored results.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.picture import draw

FILES = ("results.json", "table.md", "all.md", "ratios.png")
DOCS = "docs/performance.md"
README = "README.md"
ROOT = Path(__file__).resolve().parent.parent


def write_json(results: dict[str, Any], folder: Path) -> None:
    """Store the results; whole or not at all, for a run may be interrupted."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "results.json.partial"
    partial.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(partial, folder / "results.json")


def write(results: dict[str, Any], folder: Path) -> None:
    """Write `FILES`."""
    write_json(results, folder)
    (folder / "table.md").write_text(tables.markdown(results))
    (folder / "all.md").write_text(tables.everything(results))
    draw(results, folder / "ratios.png")


def update_docs(results: dict[str, Any], folder: Path, root: Path = ROOT) -> list[Path]:
    """Write the generated parts of the docs; returns the files that were written."""
    if results["quick"]:
        raise ValueError("a quick run measures nothing; leave --quick out for the docs")
    docs = root / DOCS
    picture = docs.with_suffix(".png")
    text = f"![How many times faster than torch each library is]({picture.name})"
    between(docs, "benchmarks", f"{text}\n\n{tables.markdown(results)}")
    shutil.copyfile(folder / "ratios.png", picture)
    readme = root / README
    between(readme, "benchmark means", tables.means_table(results))
    between(readme, "speed", tables.speed(results))
    return [docs, picture, readme]


def _mark(end: str, name: str) -> str:
    return f"<!-- {end}: {name} (generated) -->"


def between(path: Path, name: str, text: str) -> None:
    """Replace what a file has between its two comments of that name."""
    begin, end = _mark("begin", name), _mark("end", name)
    old = path.read_text()
    if old.count(begin) != 1 or old.count(end) != 1:
        raise ValueError(f"{path} must have one line {begin!r} and one line {end!r}")
    before, after = old.split(begin)[0], old.split(end)[1]
    path.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def main() -> int:
    """Write the files again from stored results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("results", type=Path, help="a results.json")
    parser.add_argument("--update-docs", action="store_true")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    folder = options.results.parent
    write(results, folder)
    if options.update_docs:
        update_docs(results, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
