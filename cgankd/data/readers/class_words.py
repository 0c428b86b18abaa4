"""How classes are told to the user: how many images each has, and which ones a split lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

NAMED = 20
"""Classes that are named one by one."""
LONGEST = 60
"""Letters of a name in a line about all classes."""


def untested(labels: Sequence[int], parts: Sequence[str], class_names: Sequence[str]) -> Iterator[str]:
    """What to say of classes that a split of the user's lacks."""
    for part, word in (("test", "test"), ("val", "validation")):
        there = {label for label, own in zip(labels, parts, strict=True) if own == part}
        lacking = [name for number, name in enumerate(class_names) if number not in there]
        if there and lacking:
            more = f" and {len(lacking) - 10} more" if len(lacking) > 10 else ""
            yield f"WARNING: no {word} images of {', '.join(map(repr, lacking[:10]))}{more}"


def by_class(counts: Counter[str]) -> str:
    """Images of each class, in the order of the names."""
    names = sorted(counts)
    shown = ", ".join(f"{in_a_line(name)} {counts[name]}" for name in names[:NAMED])
    more = len(names) - NAMED
    return shown + (
        f" and {more} classes more, of {min(counts.values())} to {max(counts.values())}" if more > 0 else ""
    )


def in_a_line(name: str) -> str:
    """A name as a line can show it: without line breaks, cut where it is very long."""
    name = name if name.isprintable() else repr(name)[1:-1]
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
