"""What an engine costs a job: many jobs that do nothing, or sleep, on the engine that CGANKD_ENGINE names.

`python -m benchmarks.engine_jobs WORKERS [JOBS [SECONDS]]`; with Ray, the cluster of RAY_ADDRESS has as many cores as WORKERS.
The second call of each kind is what counts: the first also pays for the start of the workers.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.engines.choice import engine_name, executor
from pipelines.engines.executor import Hear
from pipelines.engines.local import Crew


@dataclass(frozen=True)
class Nothing:
    """A job that reads nothing and writes one file."""

    number: int
    out: Path
    seconds: float


def idle(job: Nothing) -> list[str]:
    """Sleep, which takes no processor time from the engine, and write the file."""
    time.sleep(job.seconds)
    job.out.write_bytes(b"done")
    return []


def measure(workers: int, number: int, seconds: float, folder: Path) -> tuple[float, float]:
    """Wall seconds of a call, and processor seconds of this process in it."""
    jobs = [Nothing(n, folder / f"{n}.out", seconds) for n in range(number)]
    start, used = time.perf_counter(), time.process_time()
    executor().map(idle, jobs, Crew(workers, "jobs"), Hear(lambda line: None))
    found = time.perf_counter() - start, time.process_time() - used
    assert all(job.out.is_file() for job in jobs)
    return found


def main() -> None:
    """Print a line a call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workers", type=int)
    parser.add_argument("jobs", type=int, nargs="?", default=200)
    parser.add_argument("seconds", type=float, nargs="?", default=0.0)
    asked = parser.parse_args()
    what = f"{engine_name()}, {asked.workers} workers, {asked.jobs} jobs of {asked.seconds:g} s"
    for call in ("first", "second"):
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
            wall_s, used_s = measure(asked.workers, asked.jobs, asked.seconds, Path(folder))
        above = 1000 * (wall_s - asked.jobs * asked.seconds / asked.workers) / asked.jobs
        print(
            f"{what}, {call} call: {wall_s:.2f} s, {above:.1f} ms a job above its own time,"
            f" {used_s:.2f} processor seconds of this process",
            flush=True,
        )


if __name__ == "__main__":
    main()
