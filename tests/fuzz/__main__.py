"""Coverage-guided fuzzing of every reader by atheris, one process each:

    python -m tests.fuzz [--minutes 2] [--out build/fuzz] [READER ...]

Inputs that found new code are kept under OUT/corpus and begin the next time; what breaks a reader is kept under OUT/found.
OUT/record.json has of each reader the inputs in all, the seconds, the slowest input and the largest memory. Exit code 1
where a reader broke.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SLOWEST_S = 60
"""An input that takes longer counts as a hang."""
MEMORY_MB = 4096
"""A reader that takes more, all libraries included, broke its bound."""


def one(name: str, seconds: int, out: Path) -> None:
    """Fuzz a reader in this process; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["cgankd", "pipelines", "ruamel", "PIL"]):
        from tests.fuzz.readers import READERS, feed, prepare

    corpus, facts = out / "corpus" / slug(name), out / f"{slug(name)}.json"
    corpus.mkdir(parents=True, exist_ok=True)
    (out / "found").mkdir(exist_ok=True)
    for number, seed in enumerate(READERS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = out / f"{slug(name)}.dict"
    tokens = [token for token in READERS[name].tokens if len(token) <= 64]
    escaped = ["".join(rf"\x{byte:02x}" for byte in token) for token in tokens]
    words.write_text("".join(f'"{token}"\n' for token in escaped))
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    prepare(folder)
    done: dict[str, Any] = {"inputs": 0, "taken": 0, "slowest_s": 0.0, "start_mb": used_mb()}
    begin = last = time.monotonic()

    def test(data: bytes) -> None:
        nonlocal last
        start = time.monotonic()
        done["taken"] += feed(name, data, folder)
        end = time.monotonic()
        done["inputs"] += 1
        done["slowest_s"] = max(done["slowest_s"], end - start)
        if end - last > 2:  # libFuzzer ends the process by itself
            last = end
            facts.write_text(json.dumps(done | {"seconds": end - begin, "most_mb": used_mb()}))

    options = [f"-max_total_time={seconds}", f"-timeout={SLOWEST_S}", f"-rss_limit_mb={MEMORY_MB}", "-max_len=65536"]
    options += [f"-artifact_prefix={out}/found/{slug(name)}-", "-verbosity=0", f"-dict={words}"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test)
    atheris.Fuzz()


def used_mb() -> float:
    """The most memory this process had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def slug(name: str) -> str:
    """A reader's name as that of a file."""
    return name.replace(" ", "-").replace(".", "-")


def main() -> int:
    """Fuzz the readers named, or all, and add to the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*")
    parser.add_argument("--minutes", type=float, default=2.0, help="for each reader")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if given.one:
        one(given.readers[0], round(given.minutes * 60), out)
        return 0
    from tests.fuzz.readers import READERS

    record_path = out / "record.json"
    record: dict[str, Any] = json.loads(record_path.read_text()) if record_path.exists() else {}
    broken = []
    for name in given.readers or READERS:
        command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", "--one", name, "--minutes", str(given.minutes)]
        with (out / f"{slug(name)}.log").open("wb") as log:
            status = subprocess.call(
                [*command, "--out", str(out)], stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(out)}
            )
        facts_path = out / f"{slug(name)}.json"
        facts = json.loads(facts_path.read_text()) if facts_path.exists() else {}
        before = record.get(name, {})
        for key in ("inputs", "taken", "seconds"):
            facts[key] = before.get(key, 0) + facts.get(key, 0)
        for key in ("slowest_s", "most_mb", "start_mb"):
            facts[key] = max(before.get(key, 0), facts.get(key, 0))
        record[name] = facts | {"status": status}
        record_path.write_text(json.dumps(record, indent=2) + "\n")
        facts_path.unlink(missing_ok=True)
        broken += [name] if status else []
        sys.stdout.write(
            f"{name:24} {facts['inputs']:9} inputs, {facts['taken']} taken, {facts['seconds'] / 60:.1f} min, slowest"
            f" {facts['slowest_s']:.2f} s, {facts['most_mb']:.0f} MiB ({facts['start_mb']:.0f} at the start)"
            f"{f', BROKE: see {out}/{slug(name)}.log' if status else ''}\n"
        )
        sys.stdout.flush()
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
