"""All benchmarks in turn (`make bench`): one table, and benchmarks/results-<date>-<machine>.json and .md."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import bank_scale
from benchmarks.timing import HEADER, compare, line, peak_gflops
from cgankd.fit.device import this_machine
from pipelines.machine import available_cores, set_threads

NAMES = (
    "sampling", "biggan_step", "ccgan_step", "ratio_step", "features", "bank_build", "student_plain", "student_kd",
    "student_kd_wrn", "student_kd_live", "vicinity_search",
)  # fmt: skip
"""Benchmarks of two sides; bank_scale is a table of its own."""


def machine_class() -> str:
    """A short name of the machine for the file: cores and units, or the CUDA device."""
    machine = this_machine()
    if machine.device == "cuda":
        return machine.name.lower().replace(" ", "-")
    return f"{available_cores()}core-{'bf16' if machine.bf16 else 'fp32'}-{platform.machine()}"


def facts() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "date": datetime.date.today().isoformat(), "machine": this_machine().name, "cores": available_cores(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version(),
        "peak_gflops": {kind: round(peak_gflops(kind)) for kind in ("fp32", "bf16")},
    }  # fmt: skip


def report(about: dict[str, Any], rows: list[dict[str, Any]], scale: dict[str, Any] | None) -> str:
    """The results as a Markdown page."""
    text = [f"# Benchmarks of {about['date']}", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    text += [HEADER, *map(line, rows)]
    if scale:
        text += ["", scale["title"], "", bank_scale.table(scale)]
    return "\n".join(text) + "\n"


def run(names: list[str], quick: bool, folder: Path | None) -> int:
    """Run the benchmarks named; returns 1 where a result disagrees or a target is missed."""
    set_threads()
    about, rows = facts(), []
    for name in names:
        if name == "bank_scale":
            continue
        rows.append(compare(importlib.import_module(f"benchmarks.{name}").CASE, quick))
        print(line(rows[-1]), file=sys.stderr, flush=True)
    scale = bank_scale.compare(quick) if "bank_scale" in names else None
    print(report(about, rows, scale))
    if folder is not None:
        stem = folder / f"results-{about['date']}-{machine_class()}"
        stem.with_suffix(".json").write_text(
            json.dumps({"about": about, "rows": rows, "scale": scale}, indent=1) + "\n"
        )
        stem.with_suffix(".md").write_text(report(about, rows, scale))
    missed = [row["name"] for row in rows if row["target"] and not quick and row["ratio"] < row["target"]]
    wrong = [row["name"] for row in rows if not all(a["holds"] for a in row["agreement"])]
    for title, which in (("below their target", missed), ("disagree", wrong)):
        if which:
            print(f"{title}: {', '.join(which)}", file=sys.stderr)
    return int(bool(missed or wrong))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*NAMES, "bank_scale"], help="which (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing written")
    options = parser.parse_args()
    known = (*NAMES, "bank_scale")
    for name in options.names:
        if name not in known:
            parser.error(f"there is no benchmark {name!r}; choose from {', '.join(known)}")
    return run(options.names, options.quick, None if options.quick else Path(__file__).parent)


if __name__ == "__main__":
    sys.exit(main())
