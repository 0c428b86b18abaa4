"""The table of all files of a student, and what goes under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from cgankd.measure.places import places
from pipelines.device.boards import KB, RUNTIME_BYTES, RUNTIME_SOURCE, TIGHT_FLASH, TIGHT_RAM, Board, verdict


def device_table(values: dict[str, Any]) -> Table:
    """One row a file, from device.json."""
    rows, unit = values["forms"], values["headline"]["unit"]
    dec = places([rows[0]["validation"], rows[0]["test"]])
    classes = "agreement" in rows[-1]
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    alike = "alike\n%" if classes else "largest\ndiff"
    for name in ("file", "KB", "arena\nKB", f"val\n({unit})", "test", "+-", "loses", alike, "ms", "MB", "holds"):
        # In a narrow terminal the names of files are broken, and no number.
        table.add_column(name, justify="left" if name == "file" else "right", no_wrap=name != "file", overflow="fold")
    for row in rows:
        micro = row.get("micro")
        arena = "" if micro is None else f"{micro['arena'] / 1000:.1f}" if micro["arena"] else "none"
        twin = row["file"] is None
        near = "" if twin else f"{row['agreement']:.1f}" if classes else f"{row['difference']:.2g}"
        half = (row["test_high"] - row["test_low"]) / 2
        peak = row["peak_bytes"]
        table.add_row(
            row["file"] or "the student itself",
            f"{row['bytes'] / 1000:.1f}",
            arena,
            f"{row['validation']:.{dec}f}",
            f"{row['test']:.{dec}f}",
            f"{half:.{dec}f}",
            "" if twin else f"{row['loss']:+.{dec}f}",
            near,
            f"{row['latency_ms']:.3f}",
            "" if peak is None else f"{peak / 1e6:.0f}",
            "" if twin else "yes" if row["holds"] else "NO",
        )
    return table


def device_remarks(values: dict[str, Any], shown: Path) -> list[str]:
    """How the columns were measured, what files take, which to use."""
    headline, percent = values["headline"], f"{100 * values['confidence']:g} %"
    rows = [row for row in values["forms"] if row["file"]]
    lines = [
        f"{headline['name']} in {headline['unit']} on {values['num_test']} test images with {percent} intervals over these"
        f" images; loses: than the student, image by image. Nothing was chosen on test.",
        f"holds: validation ({values['num_val']} images) is at most {100 * values['tolerance']:g} % worse than the"
        " student's. ms: median for one image on one core of this machine; MB: peak memory of a process that runs"
        " only the file, most of it the runtime's and Python's",
    ]
    if any("micro" in row for row in rows):
        lines.append(
            "arena: RAM by the interpreter of TensorFlow Lite Micro, with the pointers of a 64-bit machine; flash is the"
            f" file plus the program's code ({RUNTIME_BYTES // KB} KB is {RUNTIME_SOURCE})"
        )
    for row in rows:
        micro = row.get("micro")
        if micro and not micro["runs"]:
            absent = [name for name, there in micro["operators"].items() if not there]
            why = f"it has no operator {', '.join(absent)}" if absent else micro["error"]
            lines.append(f"{row['file']} does not run on a microcontroller: {why}")
        elif micro:
            lines += _board_lines(row, micro)
            lines.append(f"operators of {row['file']}, all there on a microcontroller: {', '.join(micro['operators'])}")
    if "recover" in values:
        lines.append(recover_line(values))
    lines += [f"{row['file']} does not hold; `cgankd ship` leaves it out" for row in rows if not row["holds"]]
    good = [row for row in rows if row["holds"]]
    if good:
        best = min(good, key=lambda row: row["bytes"])
        lines.append(f"the smallest file that holds: {shown / best['file']} ({best['bytes']:,} bytes)")
    other = {
        row["file"]: row["tolerance"]
        for row in rows
        if row.get("tolerance", values["tolerance"]) != values["tolerance"]
    }
    lines += [f"{name} was exported before, with --tolerance {share:g}" for name, share in other.items()]
    lines.append("there: " + ", ".join(str(shown / row["file"]) for row in rows) + f", {shown / 'device.json'}")
    return [*lines, *values.get("dropped", ())]


def _board_lines(row: dict[str, Any], micro: dict[str, Any]) -> list[str]:
    """How far the answers on a board are from those under LiteRT."""
    if "difference" not in micro:
        return []
    if "agreement" in micro:
        said = f"gives the labels of LiteRT on {micro['agreement']:g} % of {micro['images']} images"
    else:
        said = f"differs from LiteRT by at most {micro['difference']:.2g} on {micro['images']} images"
    arena = f" in {micro['arena']:,} bytes of RAM" if micro["arena"] else ""
    so = "" if micro.get("agrees", True) else ", which is too far, so it does not hold"
    return [f"{row['file']} on a microcontroller{arena} {said}{so}"]


def recover_line(values: dict[str, Any]) -> str:
    """What training on as int8 changed, on validation and on test."""
    record, unit = values["recover"], values["headline"]["unit"]
    before, after = record["before"], record["after"]
    dec = places([before["validation"], before["test"]])
    kept = "kept" if record["kept"] == "after" else "not better on validation, so the file before it was kept"

    def loss(row: dict[str, Any]) -> str:
        return f"{row['loss']:+.{dec}f} [{row['loss_low']:+.{dec}f}, {row['loss_high']:+.{dec}f}]"

    return (
        f"--recover, {record['steps']} steps: int8 on validation {before['validation']:.{dec}f} -> {after['validation']:.{dec}f}"
        f" {unit}, on test {before['test']:.{dec}f} -> {after['test']:.{dec}f} (loses {loss(before)} -> {loss(after)}); {kept}"
    )


def board_lines(values: dict[str, Any], boards: list[Board]) -> list[str]:
    """For each board and each file that is for one, whether it fits."""
    lines = []
    for board in boards:
        chip = f" ({board.chip})" if board.chip else ""
        room = f"{board.flash / 1024:g} KB of flash and {board.ram / 1024:g} KB of RAM, {board.source}"
        lines.append(f"board {board.name}{chip}: {room}")
        for row in values["forms"]:
            micro = row.get("micro")
            if micro is None:
                continue
            missing = tuple(name for name, there in micro["operators"].items() if not there)
            lines.append(f"  {row['file']}: {verdict(board, row['bytes'], micro['arena'], missing)}")
    if boards:
        lines.append(
            f"flash: the file and {RUNTIME_BYTES // KB} KB, {RUNTIME_SOURCE}; RAM: the arena. Operators, program and"
            f" stack go into what is left: tight is less than {TIGHT_FLASH // KB} KB of flash or {TIGHT_RAM // KB} KB of RAM"
        )
    return lines
