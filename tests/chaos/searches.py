"""Searches with two workers that are killed: every setting has the score that it has undisturbed, none lost, none twice."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from pipelines.search.config import SearchConfig
from pipelines.search.storage import storage_url
from tests.chaos import projects, state
from tests.chaos.kills import Plan, run_until
from tests.chaos.rounds import Kill, Round, end, left_over

TRIED = [{"bank.rho": rho, "bank.num_fakes": fakes} for rho in (0.4, 0.6, 0.8, 1.0) for fakes in (30, 60)]
"""The settings that are tried, put into the queue beforehand: what a sampler draws depends on which trials ended first."""
SPACE = {
    "bank.rho": {"kind": "float", "low": 0.3, "high": 1.0},
    "bank.num_fakes": {"kind": "int", "low": 20, "high": 80},
}
POSTGRES = "CGANKD_TEST_POSTGRES"


def storages(say: Callable[[str], None]) -> list[str | None]:
    """SQLite in the folder, and PostgreSQL where a variable names a database."""
    url = os.environ.get(POSTGRES)
    if not url:
        say(f"searches on PostgreSQL are left out: the variable {POSTGRES} names no database")
    return [None, *([url] if url else [])]


@dataclass
class Searches:
    """Rounds of searches in a finished project of class labels."""

    folder: Path
    pipelines: Any
    storage: str | None

    @property
    def kind(self) -> str:
        """How the rounds are called."""
        return "search on PostgreSQL" if self.storage else "search on SQLite"

    def command(self, study: str) -> list[str]:
        """The search, and the same again after a kill."""
        own = ["--storage", self.storage] if self.storage else []
        return ["cgankd", "search", "--workers", "2", "--trials", str(len(TRIED)), "--study", study, *own]

    def prepared(self, name: str, study: str) -> Path:
        """A finished project with the settings to try in the queue of a new study."""
        self.pipelines.wanted()
        work = projects.copy(self.pipelines.reference, self.folder / name)
        params = work / "params.yaml"
        from ruamel.yaml import YAML

        yaml = YAML()
        values = yaml.load(params.read_text())
        values["search"] |= {"space": SPACE, "num_trials": len(TRIED), "rungs": 0}
        with params.open("w") as file:
            yaml.dump(values, file)
        begin = ["cgankd", "search", *self.command(study)[4:]]
        begin[begin.index("--trials") + 1] = "1"
        outcome = run_until(None, begin, work, work / "chaos.log", 600)
        assert outcome.code == 0, outcome.text[-3000:]
        opened = optuna.load_study(study_name=study, storage=self.url(work))
        for tried in TRIED:
            opened.enqueue_trial(tried, user_attrs={"values": tried})
        return work

    def url(self, work: Path) -> str:
        """The database."""
        return storage_url(work, SearchConfig(), self.storage)

    def scores(self, work: Path, study: str) -> list[tuple[tuple[float, ...], list[float]]]:
        """Settings and scores of each finished trial."""
        trials = optuna.load_study(study_name=study, storage=self.url(work)).get_trials(deepcopy=False)
        done = [t for t in trials if t.state == optuna.trial.TrialState.COMPLETE]
        return sorted((tuple(t.params[key] for key in SPACE), [*t.user_attrs["val"]]) for t in done)

    def play(self, seed: int, most: int) -> Round:
        """One round; `most` kills."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = f"chaos-{seed}-{time.time_ns()}"
        wanted = self.undisturbed()
        work, dice = self.prepared("search-killed", study), random.Random(seed)
        found, begin_s, command = Round(self.kind, seed), time.monotonic(), self.command(study)
        command[command.index("--trials") + 1] = str(len(TRIED) + 1)
        code: int | None = None
        while code != 0:
            plan = Plan.drawn(dice, wanted["seconds"] / 2) if len(found.kills) < most else None
            outcome = run_until(plan, command, work, work / "chaos.log", 1800)
            code = outcome.code
            if outcome.hit and plan is not None and outcome.killed_s is not None:
                saved_s = max(state.last_save_s(work), state.last_save_s(work, "search"))
                lost = max(0.0, outcome.killed_s - max(saved_s, outcome.begun_s))
                left = left_over(outcome, work)
                found.kills.append(Kill(outcome.hit, plan.moment, "search", lost, lost * outcome.busy, left))
            elif code != 0:
                found.faults.append(f"ended with {code} without a kill: {outcome.text[-1500:]}")
                break
            if "Traceback (most recent call last)" in outcome.text:
                found.faults.append(f"traceback: {outcome.text[-3000:]}")
        late = state.ended(work, 20)
        found.faults += [f"still there: {state.words_of(pid)}" for pid in late]
        end(late)
        self.compare(found, self.scores(work, study), wanted["scores"], work, study)
        found.faults += [f"half-written: {name}" for name in state.temporary(work) if not name.endswith(".resume")]
        found.faults += [f"still locked: {name}" for name in state.held_locks(work)]
        found.seconds = time.monotonic() - begin_s
        return found

    def compare(self, found: Round, scores: list[Any], wanted: list[Any], work: Path, study: str) -> None:
        """Every setting once, with its score; files of pools and students as undisturbed."""
        given_up = self.given_up(work, study)
        found.compared += len(wanted)
        for one in wanted:
            times = sum(other[0] == one[0] for other in scores)
            if times == 0 and one[0] not in given_up:
                found.faults.append(f"lost: {one[0]}")
            if times > 1:
                found.faults.append(f"{times} times: {one[0]}")
            if times == 1 and one not in scores:
                found.faults.append(f"another score: {one[0]}")
        reference = self.folder / "search-undisturbed"
        for part in ("artifacts/search/pools", "artifacts/resume/student"):
            mine, its = ({p.relative_to(of): p for p in (of / part).rglob("*.safetensors")} for of in (work, reference))
            for name in mine.keys() & its.keys():
                found.compared += 1
                if mine[name].read_bytes() != its[name].read_bytes():
                    found.faults.append(f"other bytes: {name}")

    def given_up(self, work: Path, study: str) -> set[tuple[float, ...]]:
        """Settings whose process was killed at each of the tries that a search makes."""
        from pipelines.search.study import RETRIES

        trials = optuna.load_study(study_name=study, storage=self.url(work)).get_trials(deepcopy=False)
        failed = [t for t in trials if t.state == optuna.trial.TrialState.FAIL and t.params]
        keys = [tuple(t.params[key] for key in SPACE) for t in failed]
        return {key for key in keys if keys.count(key) > RETRIES}

    def undisturbed(self) -> dict[str, Any]:
        """Scores of a search that nobody disturbs, and its seconds; made once for all storages."""
        known = self.folder / "search.json"
        if not known.exists():
            import json

            alone = Searches(self.folder, self.pipelines, None)
            work, begin_s = alone.prepared("search-undisturbed", "undisturbed"), time.monotonic()
            command = alone.command("undisturbed")
            command[command.index("--trials") + 1] = str(len(TRIED) + 1)
            outcome = run_until(None, command, work, work / "chaos.log", 1800)
            assert outcome.code == 0, outcome.text[-3000:]
            seconds = time.monotonic() - begin_s
            known.write_text(json.dumps({"scores": alone.scores(work, "undisturbed"), "seconds": seconds}))
        return read(known)


def read(known: Path) -> dict[str, Any]:
    """Scores with their settings as tuples again."""
    import json

    found: dict[str, Any] = json.loads(known.read_text())
    return found | {"scores": [(tuple(key), value) for key, value in found["scores"]]}
