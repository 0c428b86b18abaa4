"""All benchmarks in turn (`make bench`): one table, and benchmarks/results-<date>-<machine>.json and .md.

`python -m benchmarks NAME...` runs some of them and puts them in their places in the day's file of this machine.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import bank_scale, distillers, final_metric, profile, sampling_steps
from benchmarks.peak import finish, peak_gflops, peak_name
from benchmarks.timing import HEADER, LEGEND, compare, line
from cgankd.fit.device import this_machine
from pipelines.runtime.machine import available_cores, set_threads

NAMES = (
    "sampling", "biggan_step", "ccgan_step", "ratio_step", "ratio_step_preset", "bank_build", "student_plain", "student_kd",
    "student_kd_live", "features", "vicinity_search", "student_kd_wrn", "student_kd_wrn16", "ccgan_sngan_step",
)  # fmt: skip
"""Benchmarks of two sides, a row each."""
TABLES: dict[str, Any] = {
    "final_metric": final_metric, "bank_scale": bank_scale, "sampling_steps": sampling_steps, "profile": profile,
    "distillers": distillers,
}  # fmt: skip
"""Benchmarks that are a table each."""


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
        "peak_gflops": {
            peak_name(kind, device): peak_gflops(kind, device)
            for device in dict.fromkeys(("cpu", this_machine().device)) for kind in ("fp32", "bf16")
        },
    }  # fmt: skip


def shown(value: Any) -> Any:
    """A fact as the page has it: numbers in a mapping without decimals."""
    return {key: round(one) for key, one in value.items()} if isinstance(value, dict) else value


def report(about: dict[str, Any], rows: list[dict[str, Any]], tables: dict[str, dict[str, Any]]) -> str:
    """The results as a Markdown page."""
    text = [f"# Benchmarks of {about['date']}", "", *(f"- {name}: {shown(value)}" for name, value in about.items()), ""]
    text += [LEGEND, "", HEADER, *map(line, rows)]
    for name, found in tables.items():
        text += [
            "",
            found["title"],
            "",
            f"FAILED: {found['failed']}" if "failed" in found else TABLES[name].table(found),
        ]
    return "\n".join(text) + "\n"


def attempt(name: str, title: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of a benchmark, or what went wrong: one failure must not cost the others their place in the table."""
    try:
        return work()
    except Exception as error:  # whatever it is, it becomes a row
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return {"name": name, "title": title, "failed": reason}


def earlier(path: Path, about: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Rows and tables of this day's file that are not run again; nothing of another torch, Python or machine."""
    found = json.loads(path.read_text()) if path.is_file() else None
    same = ("machine", "cores", "threads", "torch", "python")
    if found is None or any(found["about"].get(key) != about.get(key) for key in same):
        return {"rows": [], "tables": {}, "minutes": 0.0}
    rows = [row for row in found["rows"] if row["name"] in NAMES and row["name"] not in names]
    tables = {name: value for name, value in found["tables"].items() if name in TABLES and name not in names}
    return {"rows": rows, "tables": tables, "minutes": found["about"]["minutes"] if rows or tables else 0.0}


def complaints(rows: list[dict[str, Any]], tables: list[dict[str, Any]], quick: bool) -> dict[str, list[str]]:
    """Names of the benchmarks that failed, are below their target (not at quick sizes), or disagree."""
    done = [row for row in rows if "failed" not in row]
    disagree = [row["name"] for row in done if not all(a["holds"] for a in row["agreement"])]
    disagree += [found["name"] for found in tables if not found.get("holds", True)]
    below, here = (
        [row["name"] for row in done if row.get(kind) and not quick and row["ratio"] < row[kind]]
        for kind in ("target", "target_here")
    )
    failed = [found["name"] for found in [*rows, *tables] if "failed" in found]
    return {"failed": failed, "below their target": below, "below their target here": here, "disagree": disagree}


def run(names: list[str], quick: bool, folder: Path | None) -> int:
    """Run the benchmarks named, to the last; returns 1 where one fails or disagrees. One below its target is named only:
    the targets are of a machine with matrix units, and the share of the peak says whether more is to be had here.
    """
    set_threads()
    about: dict[str, Any] = facts()
    stem = f"results-{about['date']}-{machine_class()}"
    kept = (
        earlier(folder / f"{stem}.json", about, names)
        if folder is not None
        else {"rows": [], "tables": {}, "minutes": 0.0}
    )
    rows: list[dict[str, Any]] = kept["rows"]
    tables: dict[str, dict[str, Any]] = kept["tables"]
    start = time.perf_counter()
    for name in names:
        if name in TABLES:
            module = TABLES[name]
            tables[name] = attempt(name, module.TITLE, partial(module.compare, quick))
            tables = {known: tables[known] for known in TABLES if known in tables}
        else:
            case = importlib.import_module(f"benchmarks.{name}").CASE
            rows.append({"name": name} | attempt(name, case.title, partial(compare, case, quick)))
            print(line(rows[-1]), file=sys.stderr, flush=True)
            rows.sort(key=lambda row: NAMES.index(row["name"]))
        if not quick:
            about["peak_gflops"] = finish(rows, about["peak_gflops"])
        about["minutes"] = round(kept["minutes"] + (time.perf_counter() - start) / 60, 1)
        if folder is not None:  # after each, so that a run cut short leaves what it has
            record = {"about": about, "rows": rows, "tables": tables}
            (folder / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n")
            (folder / f"{stem}.md").write_text(report(about, rows, tables))
    print(report(about, rows, tables))
    found = complaints(rows, list(tables.values()), quick)
    for title, which in found.items():
        if which:
            print(f"{title}: {', '.join(which)}", file=sys.stderr)
    return int(any(found[title] for title in ("failed", "disagree")))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*NAMES, *TABLES], help="which (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing written")
    options = parser.parse_args()
    known = (*NAMES, *TABLES)
    for name in options.names:
        if name not in known:
            parser.error(f"there is no benchmark {name!r}; choose from {', '.join(known)}")
    return run(options.names, options.quick, None if options.quick else Path(__file__).parent)


if __name__ == "__main__":
    sys.exit(main())
