"""Seals on the trials of a study and on the study itself, by which they are known to be as they were written.

The seal of a trial has what is known of it, its number and its study among that, and a digest; it is put on just before the
study is told. An attribute of the study for each sealed trial (`sealed-N`) tells of one that is gone: each is written once, so
that no two workers write the same. Seals of former versions have no `version` and are checked by what they hold.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeGuard

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from pipelines.files.made import seal
from pipelines.search.space import RETRY_OF
from pipelines.search.storage import COUNTED, changed, readable

SEAL = "seal"
"""The user attribute of a trial, and of a study, that is its seal."""
NOTED = "sealed-"
"""How the attributes of a study begin that name the sealed trials."""
GIVEN_UP = "given_up"
"""The attribute of a trial that was failed because its process is gone."""
RUNG = "completed_rung_"
"""How the attributes begin by which Optuna prunes."""
OWNER = re.compile(r"[^|]*\|\d+\|[^|]*")
FORMS: dict[str, type] = {"tries": int, RETRY_OF: int, "values": dict}
"""What other attributes are, where they are there."""
PARTS: dict[str, type] = {SEAL: str, "state": str, "scores": list, "params": dict, "steps": dict}
"""What a trial's seal has, of whatever version."""


def seal_of(
    study: optuna.Study, number: int, trial: FrozenTrial, state: TrialState, scores: Sequence[float] = ()
) -> dict[str, Any]:
    """What is known of a trial that ends in this state with these scores, with a digest over that and its attributes.

    Kept as JSON, which changes no float, as a column of some databases does.
    """
    found: dict[str, Any] = {"version": 2, "study": _id_of(study.user_attrs.get(SEAL)), "number": number}
    found |= {"state": state.name, "scores": list(scores), "params": dict(trial.params)}
    found |= {"steps": {str(step): value for step, value in trial.intermediate_values.items()}}
    return found | {SEAL: seal(_whole(found, trial))}


def _whole(found: Mapping[str, Any], trial: FrozenTrial) -> dict[str, Any]:
    """What the digest of a trial is taken of."""
    limits = {name: json.loads(optuna.distributions.distribution_to_json(d)) for name, d in trial.distributions.items()}
    # Another machine may give a trial up at the very moment at which it ends by its seal.
    attrs = {name: value for name, value in trial.user_attrs.items() if name not in (SEAL, GIVEN_UP)}
    system = {"system": dict(trial.system_attrs)} if "version" in found else {}
    return {"trial": found, "limits": limits, "attrs": attrs} | system


def seal_trial(study: optuna.Study, trial: optuna.Trial, state: TrialState, scores: Sequence[float] = ()) -> None:
    """Put a seal on a trial; call it just before the study is told, as a finished trial takes no attributes."""
    record = seal_of(study, trial.number, study.get_trials(deepcopy=False)[trial.number], state, scores)
    trial.set_user_attr(SEAL, record)
    note_seal(study, trial.number, record)


def note_seal(study: optuna.Study, number: int, record: Mapping[str, Any]) -> None:
    """Let the study know of a sealed trial, where it has a seal itself."""
    if SEAL in study.user_attrs:
        study.set_user_attr(f"{NOTED}{number}", record[SEAL])


def end_by_seal(study: optuna.Study, trial: FrozenTrial) -> bool:
    """End a trial whose process was killed between its seal and its end as the seal says; False where it has none that fits."""
    record = trial.user_attrs.get(SEAL)
    if not _is_seal(record) or _misfit(record, trial):
        return False
    note_seal(study, trial.number, record)
    with suppress(ValueError, UpdateFinishedTrialError):  # somebody else did
        study.tell(trial.number, record["scores"] or None, state=TrialState[record["state"]])
    return True


def seal_study(study: optuna.Study, attrs: Mapping[str, Any]) -> None:
    """Write the attributes of a new study, a seal over them before the last. It names the study by chance, as another may have
    the same attributes."""
    *first, last = attrs
    for name in first:
        study.set_user_attr(name, attrs[name])
    mark = {"names": list(attrs), "id": study.user_attrs.get(SEAL, {}).get("id") or uuid.uuid4().hex}
    study.set_user_attr(SEAL, mark | {SEAL: _study_seal(study, mark, attrs)})
    study.set_user_attr(last, attrs[last])


def _study_seal(study: optuna.Study, mark: Mapping[str, Any], attrs: Mapping[str, Any]) -> str:
    own = {"id": mark["id"]} if "id" in mark else {}
    return seal({"attrs": dict(attrs), "directions": [direction.name for direction in study.directions]} | own)


def _id_of(mark: Mapping[str, Any] | None) -> str:
    """By what the trials of a study know it; "" for one of a version that put no seal on it."""
    return "" if mark is None else str(mark.get("id", mark[SEAL]))


def check_seals(study: optuna.Study, url: str) -> None:
    """Raise ConfigError that names the database and the trial where one, or the study, is not as it was written."""
    what = f"the study {study.study_name!r}"
    with readable(url, what):
        # In this order, as others write meanwhile: a trial that is noted has its seal, one that is there a begun study.
        noted = {int(k.removeprefix(NOTED)): v for k, v in study.user_attrs.items() if k.startswith(NOTED)}
        backend = getattr(study._storage, "_backend", study._storage)  # what lies before it hides a doubled number
        trials = sorted(backend.get_all_trials(study._study_id, deepcopy=False), key=lambda trial: trial._trial_id)
        attrs = study.user_attrs
        mark = attrs.get(SEAL)
        if mark is None and noted:
            raise changed(url, what, "its seal is missing")
        if mark is not None and (mark["names"][-1] in attrs or trials):  # else it is being begun at this moment
            known = {name: attrs.get(name) for name in mark["names"]}
            if mark[SEAL] != _study_seal(study, mark, known):
                raise changed(url, what, "its goals or the settings that it began with")
        if gone := sorted(noted.keys() - {trial.number for trial in trials}):
            raise changed(url, f"trial {gone[0]} of {what}", "it is gone")
        for place, trial in enumerate(trials):
            if trial.number != place:
                raise changed(url, what, f"its trial {place} has the number {trial.number}, or is gone")
        followed = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            with readable(url, f"trial {trial.number} of {what}"):
                record = trial.user_attrs.get(SEAL)
                if (why := _misshapen(trial)) is None:
                    if trial.state not in COUNTED:
                        why = _ended(trial, record, retried=trial.number in followed)
                    elif record is None and mark is None:
                        why = _change_of_former(trial, attrs)
                    else:
                        why = _change(trial, record, mark)
                if why is None and trial.number in noted and (record or {}).get(SEAL) != noted[trial.number]:
                    why = "its seal is another"
            if why is not None:
                raise changed(url, f"trial {trial.number} of {what}", why)


def _is_seal(record: object) -> TypeGuard[dict[str, Any]]:
    """Whether an attribute has the form of a trial's seal."""
    return isinstance(record, dict) and all(isinstance(record.get(name), form) for name, form in PARTS.items())


def _misshapen(trial: FrozenTrial) -> str | None:
    """Which attribute of a trial no search wrote; None where all have their form."""
    attrs, system = trial.user_attrs, trial.system_attrs
    if SEAL in attrs and not _is_seal(attrs[SEAL]):
        return "its seal has another form"
    for name, form in FORMS.items():
        if name in attrs and (not isinstance(attrs[name], form) or isinstance(attrs[name], bool)):
            return f"its attribute {name} is {attrs[name]!r}"
    if "owner" in attrs and not (isinstance(attrs["owner"], str) and OWNER.fullmatch(attrs["owner"])):
        return f"its attribute owner is {attrs['owner']!r}"
    fixed = system.get("fixed_params", {})
    if not isinstance(fixed, dict):
        return f"its attribute fixed_params is {fixed!r}"
    if trial.state == TrialState.WAITING and "values" in attrs:
        for name, value in fixed.items():
            if not _equal(value, attrs["values"].get(name)):
                return f"its values were {attrs['values']}"
    for name, value in system.items():
        if name.startswith(RUNG):
            known = trial.state == TrialState.RUNNING or any(
                _equal(score, value) for score in trial.intermediate_values.values()
            )
            if not known or isinstance(value, bool) or not isinstance(value, (int, float)):
                return f"its attribute {name} is {value!r}"
    return None


def _ended(trial: FrozenTrial, record: Mapping[str, Any] | None, *, retried: bool) -> str | None:
    """How a trial ended that is not complete or pruned, but was; None where it was not."""
    if trial.state == TrialState.FAIL:
        if record is None or GIVEN_UP in trial.user_attrs:
            return None
        former = "version" not in record and (retried or "tries" in trial.user_attrs)  # which gave up sealed trials too
        return None if former else f"it was {record['state'].lower()}"
    if trial.datetime_complete is None and (record is None or trial.state == TrialState.RUNNING):
        return None
    return f"it was {record['state'].lower() if record else 'ended'}"


def _misfit(record: Mapping[str, Any], trial: FrozenTrial) -> bool:
    """The digest of a seal is not that of the trial."""
    found = {name: value for name, value in record.items() if name != SEAL}
    return bool(record[SEAL] != seal(_whole(found, trial)))


def _change(trial: FrozenTrial, record: Mapping[str, Any] | None, mark: Mapping[str, Any] | None) -> str | None:
    """What of a finished trial is not as its seal says; None where all is."""
    if record is None:
        return "its seal is missing"
    if "version" in record and record["study"] != _id_of(mark):
        return "it is of another study, or the seal of its study is missing"
    if "version" in record and record["number"] != trial.number:
        return f"its number was {record['number']}"
    if _misfit(record, trial):
        return "its seal does not fit"
    steps = {int(step): value for step, value in record["steps"].items()}
    scores = record["scores"]
    if not scores and steps:  # Optuna gives a pruned trial its last intermediate value
        scores = [steps[max(steps)]] if trial.values else []
    if trial.state.name != record["state"]:
        return f"it was {record['state'].lower()}"
    if not _same(trial.params, record["params"]):
        return f"its values were {record['params']}"
    if not _same(dict(enumerate(trial.values or ())), dict(enumerate(scores))):
        return f"its scores were {scores}"
    return None if _same(trial.intermediate_values, steps) else f"its scores on the way were {steps}"


def _change_of_former(trial: FrozenTrial, study: Mapping[str, Any]) -> str | None:
    """The same of a trial that another version wrote without a seal, as far as its attributes and those of its study tell."""
    attrs = trial.user_attrs
    if "values" in attrs and not _same(trial.params, attrs["values"]):
        return f"its values were {attrs['values']}"
    if trial.state == TrialState.COMPLETE and "val" not in attrs and "identity" in study:
        return "the scores of its seeds are missing"
    if trial.state == TrialState.COMPLETE and "val" in attrs:
        score = sum(attrs["val"]) / len(attrs["val"])
        if not trial.values or abs(trial.values[0] - score) > 1e-9 * max(1.0, abs(score)):
            return f"its score was {score}"
    return None


def _equal(one: Any, other: Any) -> bool:
    """Equal values; a float may come back from a database with 15 digits of its 17."""
    if isinstance(one, bool) != isinstance(other, bool) or isinstance(one, str) != isinstance(other, str):
        return False
    return bool(one == other or (isinstance(other, float) and one == float(f"{other:.15g}")))


def _same(found: Mapping[Any, Any], kept: Mapping[Any, Any]) -> bool:
    return found.keys() == kept.keys() and all(_equal(found[name], kept[name]) for name in found)
