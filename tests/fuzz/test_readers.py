"""Every reader on bytes that are nearly right: hypothesis changes sound files, the same ones each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.readers import READERS, feed, mutated, prepare

EXAMPLES = 60
STEPS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2**20), st.integers(0, 2**16)), max_size=6)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    prepare(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_sound_file_is_taken(name: str, place: Path) -> None:
    """Else nothing that follows would be near to what is read."""
    folder = place / "sound" / f"a-{name}".replace(" ", "-")
    prepare(folder)
    taken = [feed(name, seed, folder) for seed in READERS[name].seeds()]
    assert any(taken)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_changed_files_are_taken_or_refused_in_a_sentence(name: str, place: Path) -> None:
    """No other error, no file outside, no process, no connection, nothing written."""
    folder = place / f"a-{name}".replace(" ", "-")
    prepare(folder)
    seeds = READERS[name].seeds()

    @settings(
        max_examples=EXAMPLES,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # a failure is shown as it was found: making it small may take minutes
    )
    @given(st.sampled_from(seeds), st.sampled_from(seeds), STEPS)
    def tried(seed: bytes, other: bytes, steps: list[tuple[int, int, int]]) -> None:
        feed(name, mutated(seed, steps, other, READERS[name].tokens), folder)

    tried()
