"""Labels as people write them: what is a number, which names are one, which numbers are too near or far off."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal

import numpy as np

from cgankd.config import ConfigError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
COMMA_NUMBER = re.compile(r"[+-]?(\d+),(\d+)([eE][+-]?\d+)?", re.ASCII)
MAX_LABEL = 3e38
"""Labels are float32 at rest; larger ones would become infinite."""
LEAST_SPAN = 1e-30
"""Labels that lie closer together than this come near the smallest numbers of float32."""
DIGITS_KEPT = 1e-3
"""Rounding to float32 may move a label by this share of the range of all labels."""
MODEST = Decimal("1e-4")
"""Ranges below this are proposed in another unit."""
FAR = 3
"""Interquartile ranges from the middle half within which labels belong together whatever the gaps."""
MOST_WILD, MOST_MARKS = 0.1, 0.3
"""More labels apart from the rest than this share of them are no slips, or where all of them are one number, no marks."""
SHOWN = 3


def tidy(text: str) -> str:
    """A cell without blanks around it, its letters composed (NFC): macOS and Windows write accents in two ways."""
    return unicodedata.normalize("NFC", text.strip(" \t\r\n\v\f\xa0\ufeff\u200b"))


def plain(text: str) -> str:
    """A number with an ordinary minus, whichever dash it was written with."""
    return text.replace("\u2212", "-")


def number(text: str) -> float | None:
    """The value of a number that a person would write: digits, sign, point, exponent. None for all else.

    `1_10`, `nan` and dates are names; so is what float32 cannot hold.
    """
    text = plain(text)
    if not NUMBER.fullmatch(text):
        return None
    value = float(text) + 0.0  # not -0.0
    return value if abs(value) <= MAX_LABEL else None


def label_number(text: str, where: str) -> float:
    """A finite label. Raises ConfigError naming the place."""
    value = number(text)
    if value is not None:
        return value
    if NUMBER.fullmatch(plain(text)) or text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise ConfigError(f"{where}: label {text!r} is not a finite number; correct or remove the line")
    raise ConfigError(f"{where}: label {text!r} is not a number; for class names set data.task to class")


def with_points(texts: Sequence[str], where: str) -> list[str] | None:
    """The labels with decimal points where all are numbers and some have a decimal comma; None where that is not so.

    Raises ConfigError where each comma could as well stand between thousands.
    """
    commas = [match for text in texts if (match := COMMA_NUMBER.fullmatch(plain(text)))]
    if not commas or any("." in text for text in texts):
        return None
    if any(number(text) is None and not COMMA_NUMBER.fullmatch(plain(text)) for text in texts):
        return None
    if all(len(match[2]) == 3 and match[1].lstrip("0") and len(match[1]) <= 3 for match in commas):
        raise ConfigError(
            f"{where}: labels such as {commas[0][0]!r} may have a decimal comma or one between thousands; write decimal"
            " points, and nothing between thousands"
        )
    return [plain(text).replace(",", ".") for text in texts]


def class_names(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of classes, where all are numbers one name for each number; and what is to be said about them."""
    said: list[str] = []
    if all(number(text) is not None for text in labels):
        spellings: dict[Decimal, Counter[str]] = defaultdict(Counter)
        for text in labels:
            spellings[Decimal(plain(text))][text] += 1
        chosen = {value: min(counts, key=lambda text: (len(text), text)) for value, counts in spellings.items()}
        merged = [f"{' and '.join(map(repr, sorted(counts)))}" for counts in spellings.values() if len(counts) > 1]
        if merged:
            more = f" and {len(merged) - SHOWN} more" if len(merged) > SHOWN else ""
            said.append(f"equal numbers in several spellings are one class: {'; '.join(merged[:SHOWN])}{more}")
        return [chosen[Decimal(plain(text))] for text in labels], said
    alike: dict[str, set[str]] = defaultdict(set)
    for text in labels:
        alike[loosely(text)].add(text)
    groups = [" and ".join(map(repr, sorted(names))) for names in alike.values() if len(names) > 1]
    if groups:
        more = f" and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
        said.append(
            f"WARNING: classes that differ only in capitals or blanks stay apart: {'; '.join(groups[:SHOWN])}{more}"
        )
    return list(labels), said


def loosely(name: str) -> str:
    """A name without capitals, blanks, and other forms of one letter (NFKC), for finding names that may be meant to be one."""
    return "".join(unicodedata.normalize("NFKC", name).split()).casefold()


def same_class(name: str, names: Sequence[str]) -> int | None:
    """Which of the class names this is: the same letters however composed, or where all are numbers the same number."""
    name, own = tidy(name), [tidy(other) for other in names]
    if name in own:
        return own.index(name)
    if number(name) is None or any(number(other) is None for other in own):
        return None
    values = [Decimal(plain(other)) for other in own]
    return values.index(Decimal(plain(name))) if Decimal(plain(name)) in values else None


def check_digits(labels: Sequence[str], source: str) -> list[str]:
    """What is to be said of labels that become equal in float32; nothing where none do.

    Raises ConfigError, with the offset and unit that would work, where rounding moves them by DIGITS_KEPT of their range.
    """
    value_N = np.array([float(plain(text)) for text in labels], dtype=np.float64)
    width = float(value_N.max() - value_N.min())
    kept = len(np.unique(value_N.astype(np.float32)))
    if kept == len(np.unique(value_N)) and LEAST_SPAN <= width <= MAX_LABEL:
        return []
    exact = [Decimal(plain(text)) for text in labels]  # float64 keeps 16 digits, and labels may have more
    smallest, span = min(exact), max(exact) - min(exact)
    different = len(set(exact))
    if different == 1:
        return []
    fits = LEAST_SPAN <= span <= MAX_LABEL
    moved = max(abs(Decimal(float(np.float32(value))) - own) for value, own in zip(value_N, exact, strict=True))
    if fits and moved <= Decimal(DIGITS_KEPT) * span:
        return [f"{different} different labels are {kept} in 32 bits, which moves them by {float(moved):.2g} at most"]
    step = Decimal(1).scaleb(span.adjusted())
    offset = (smallest / step).to_integral_value(rounding=ROUND_FLOOR) * step
    unit = Decimal(1) if fits and span > MODEST else step
    ends = [f"{float((end - offset) / unit):.6g}" for end in (smallest, smallest + span)]
    cures = [f"subtract {_short(offset)} from each"] if offset else []
    cures += [f"divide by {_short(unit)}"] if unit != 1 else []
    raise ConfigError(
        f"{source}: labels from {_short(smallest)} to {_short(smallest + span)} lose their digits, for 32 bits keep about"
        f" 7 of them ({different} different labels would become {kept}); {' and '.join(cures)}, so that they run from"
        f" {ends[0]} to {ends[1]}"
    )


def _short(value: Decimal) -> str:
    """All digits of a number, as an exponent where that is shorter."""
    value = value.normalize()
    plainly = f"{value:f}"
    return plainly if len(plainly) <= 24 else f"{value:.6g}"


def wild(values: Sequence[float]) -> tuple[list[int], float, float]:
    """Positions of labels far from all others, and the range of those others.

    The middle of the labels (as far as FAR interquartile ranges) is widened by whatever comes next, up to the first gap
    as wide as all so far; what lies beyond is far off, unless it is more than MOST_WILD of all.
    """
    value_N = np.asarray(values, dtype=np.float64)
    sorted_N = np.sort(value_N)
    for share in (0.25, 0.1, 0.05):  # the outer ones where most labels are one number
        first, last = np.quantile(sorted_N, [share, 1 - share])
        if first < last:
            break
    else:
        return [], float(sorted_N[0]), float(sorted_N[-1])
    reach = FAR * (last - first)
    inside = np.flatnonzero((sorted_N >= first - reach) & (sorted_N <= last + reach))
    low, high = int(inside[0]), int(inside[-1])
    growing = True
    while growing:
        growing, span = False, sorted_N[high] - sorted_N[low]
        if high + 1 < len(sorted_N) and sorted_N[high + 1] - sorted_N[high] < span:
            high, growing = high + 1, True
        if low > 0 and sorted_N[low] - sorted_N[low - 1] < span:
            low, growing = low - 1, True
    ends = float(sorted_N[low]), float(sorted_N[high])
    far = np.flatnonzero((value_N < ends[0]) | (value_N > ends[1])).tolist()
    one_value = len(set(value_N[far])) == 1  # as -999 stands for no value
    most = max(1.0, (MOST_MARKS if one_value else MOST_WILD) * len(value_N))
    return (far if len(far) <= most else []), *ends
