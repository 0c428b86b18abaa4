"""The report on draws tells of settings that changed, and of no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.files.artifacts import write_json
from pipelines.files.params import load_config, set_value
from tests.pipelines.repeat.test_families import summed
from tests.pipelines.report.test_html import write

STALE = r"Made under other settings than params.yaml has now: (.*?)\. Run"


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [(None, None, []), ("search.num_trials", 7, []), ("student.num_steps", 7, ["student.num_steps"])],
)
def test_a_repeat_is_stale_where_a_setting_that_it_read_changed(
    workdir: Path, setting: str | None, value: int | None, told: list[str]
) -> None:
    (workdir / "metrics").mkdir()
    found = summed(load_config(workdir / "params.yaml"), real=20.0, raw=19.0)
    write_json(workdir / "metrics/repeat.json", found, sort_keys=False)
    if setting is not None:
        set_value(workdir / "params.yaml", setting, value)
    page = write(workdir)
    assert "The bank helps over draws" in page
    assert re.findall(STALE, page) == told
