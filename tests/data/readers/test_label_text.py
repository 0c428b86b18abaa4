"""What a number is to a person, which numbers float32 cannot tell apart, and which lie far from all others."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgankd.config import ConfigError
from cgankd.data.readers.label_text import check_digits, class_names, label_number, number, same_class, wild


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0), ("-3.5", -3.5), ("+2", 2.0), (".5", 0.5), ("5.", 5.0), ("1e-3", 1e-3), ("2E+4", 2e4), ("007", 7.0),
        ("\u22124", -4.0), ("1_10", None), ("nan", None), ("inf", None), ("-Infinity", None), ("", None), ("1e300", None),
        ("2024-01-05", None), ("12:30", None), ("1,5", None), ("0x10", None), ("１", None), ("٣", None), ("1 000", None),
        ("True", None), ("5%", None), ("--1", None), ("1e", None), (".", None),
    ],
)  # fmt: skip
def test_a_number_is_what_a_person_writes(text: str, value: float | None) -> None:
    assert number(text) == value
    if value is None:
        with pytest.raises(ConfigError, match="list.csv:3: label .* is not a"):
            label_number(text, "list.csv:3")


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e38, max_value=1e38))
def test_every_way_in_which_python_writes_a_number_is_one(value: float) -> None:
    assert number(repr(value)) == value and number(str(int(value))) == int(value)


def test_equal_numbers_are_one_class() -> None:
    labels, said = class_names(["1", "2", "1.0", "02", "3", "1", "1e0"])
    assert labels == ["1", "2", "1", "2", "3", "1", "1"]
    assert said == ["equal numbers in several spellings are one class: '1' and '1.0' and '1e0'; '02' and '2'"]
    assert class_names(["1", "1.0", "one"])[0] == ["1", "1.0", "one"]
    far = ["12345678901234567890", "12345678901234567891"]
    assert class_names(far) == (far, [])


def test_names_that_differ_in_capitals_or_blanks_stay_and_are_said() -> None:
    labels, said = class_names(["Cat", "cat", "sea lion", "sea  lion", "dog"])
    assert labels == ["Cat", "cat", "sea lion", "sea  lion", "dog"]
    assert said == [
        "WARNING: classes that differ only in capitals or blanks stay apart: 'Cat' and 'cat'; 'sea  lion' and 'sea lion'"
    ]


def test_a_class_is_known_in_another_spelling() -> None:
    assert same_class("e\u0301", ["a", "\u00e9"]) == 1 and same_class("\u00e9", ["e\u0301"]) == 0
    assert same_class("2.0", ["1", "2"]) == 1 and same_class("2.0", ["1", "2", "b"]) is None
    assert same_class("3", ["1", "2"]) is None and same_class("B", ["a", "b"]) is None


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([str(1700000000 + 2 * i) for i in range(60)], "would become 2.*subtract 1700000000 from each.* 0 to 118"),
        ([f"{1700000000 + i / 50}" for i in range(60)], "would become 1.*subtract 1700000000 from each.* 0 to 1.18"),
        ([str(1700000000123456789 + i) for i in range(60)], "subtract 1700000000123456780 from each.* 9 to 68"),
        ([f"{-1e9 - i}" for i in range(9)], "subtract -1000000008 from each.* 0 to 8"),
        ([f"1.0000000{i:02d}" for i in range(60)], "subtract 1 from each and divide by 0.00000001, .* 0 to 5.9"),
        ([f"{i}e-42" for i in range(9)], r"divide by \S+42, so that they run from 0 to 8"),
        ([f"{3 * i - 3}e38" for i in range(3)], "subtract -3e.38 from each and divide by .* 0 to 6"),
        ([f"{i}.5e299" for i in range(3)], None),
    ],
)
def test_labels_that_lose_their_digits_are_refused_with_what_would_work(labels: list[str], words: str | None) -> None:
    if words is None:
        with pytest.raises(ConfigError, match="not a finite number"):
            label_number(labels[0], "list.csv:1")
        return
    with pytest.raises(ConfigError, match=words) as caught:
        check_digits(labels, "list.csv")
    found = re.search(r"subtract (\S+) from", str(caught.value)), re.search(r"divide by (\S+),", str(caught.value))
    if found[0] and not found[1]:  # what is said works
        check_digits([str(round((float(text) - float(found[0][1])), 6)) for text in labels], "list.csv")


@given(st.floats(-1e4, 1e4), st.floats(1.0, 1e4))
def test_ordinary_ranges_keep_their_digits(low: float, span: float) -> None:
    check_digits([repr(low), repr(low + span)], "list.csv")


def test_labels_that_become_equal_without_harm_are_said() -> None:
    said = check_digits([str(1700000000 + 60 * i) for i in range(60 * 24 * 30)], "list.csv")
    assert said == ["43200 different labels are 20251 in 32 bits, which moves them by 64 at most"]
    assert check_digits(["0.1", "0.1000000001", "5"], "list.csv") == [
        "3 different labels are 2 in 32 bits, which moves them by 1.5e-09 at most"
    ]
    assert check_digits(["0.3", "0.7", "1700000"], "list.csv") == []


def test_equal_labels_are_for_others_to_refuse() -> None:
    check_digits(["1700000000"] * 3, "list.csv")


@pytest.mark.parametrize(
    ("slips", "places"),
    [
        ([55000.0], [60]),
        ([-999.0] * 3, [60, 61, 62]),
        ([55000.0, -55000.0], [60, 61]),
        ([700.0, 1e6], [60, 61]),
        ([95.0], []),
    ],
)
def test_labels_far_from_all_others(slips: list[float], places: list[int]) -> None:
    values = [1.5 * i for i in range(60)]
    assert wild([*values, *slips]) == (places, 0.0, 88.5 if places else 95.0)


def test_where_most_labels_are_one_number() -> None:
    assert wild([0.0] * 50 + [1.0, 2.0, 3.0, 4.0, 900.0]) == ([54], 0.0, 4.0)
    assert wild([0.0] * 59 + [9.0])[0] == [] and wild([3.0, 3.0])[0] == []


@pytest.mark.parametrize("seed", range(5))
def test_tails_are_no_slips(seed: int) -> None:
    gen = np.random.default_rng(seed)
    for values in (gen.normal(size=500), gen.exponential(size=500), gen.uniform(size=50)):
        assert wild(values.tolist())[0] == []


def test_two_heaps_are_no_slips() -> None:
    assert wild([*np.linspace(0, 1, 30), *np.linspace(99, 100, 30)])[0] == []
    assert wild([*np.linspace(0, 1, 50), *np.linspace(99, 100, 9)])[0] == [], "more than a tenth"
