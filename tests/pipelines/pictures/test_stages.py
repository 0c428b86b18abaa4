from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pipelines.pictures import stages as pictures
from pipelines.pictures import style
from pipelines.pictures.style import label_texts

INF = float("inf")


def images(n: int, channels: int = 3, size: int = 8) -> torch.Tensor:
    gen = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, channels, size, size), generator=gen, dtype=torch.uint8)


def numbers(n: int) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(n)) * 3


def result(higher: bool = False, best: str = "real_kd") -> dict[str, Any]:
    arms: dict[str, Any] = {}
    for i, name in enumerate(["real", "real_kd", "raw", "raw_kd"]):
        arms[name] = {"values": [9.0 - i, 8.0 - i, 8.5 - i], "uses_bank": i > 1, "mean": 8.5 - i, "sd": 0.5}
        if name != "real":
            arms[name] |= {"gain": 1.0 * i, "gain_low": 1.0 * i - 2, "gain_high": 1.0 * i + 2}
        if name not in ("real", best):
            arms[name] |= {"rival_gain": 0.5, "rival_gain_low": -0.5, "rival_gain_high": 1.5}
    return {
        "headline": {"name": "test error", "unit": "%", "higher_is_better": higher},
        "confidence": 0.95,
        "teacher": 5.0,
        "arms": arms,
        "chosen_arm": "raw_kd",
        "best_real_arm": best,
        "verdict": "The bank helps: raw_kd gains +3.00 % and costs $1_000$ in a sentence so long that it must be broken "
        * 2,
    }


def every() -> dict[str, Figure]:
    curves = {f"arm{i}": ([1, 2, 3], [3.0 + i, 2.0, float("nan")]) for i in range(11)}
    return {
        "contact": pictures.contact_sheet(images(13, 1), [str(i) for i in range(13)], "Training images"),
        "one": pictures.contact_sheet(images(1), ["7"], "One"),
        "grid": pictures.sample_grid(images(30), ["1", "2", "3"], "Fakes", columns=10),
        "kept": pictures.accepted_rejected([("kept: 9 %", images(13), ["y 1\nr 2"] * 13), ("dropped", images(0), [])]),
        "ratio": pictures.ratio_histogram({"fakes": numbers(50), "reals": numbers(5)}, torch.tensor([1.0, 2.0, INF])),
        "dead": pictures.ratio_histogram({"fakes": torch.zeros(9), "reals": torch.empty(0)}, [1.5]),
        "error": pictures.error_histogram(
            {"fakes": numbers(50), "reals": numbers(5)}, torch.tensor([INF]), unit="degree"
        ),
        "classes": pictures.label_marginal(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 3])),
        "scalars": pictures.label_marginal(numbers(9), torch.full((4,), 1.5), unit="years"),
        "curves": pictures.learning_curves(curves, "validation error (%)"),
        "arms": pictures.arms_with_intervals(result()),
        "gains": pictures.gains_with_intervals(result()),
    }


def test_every_picture_draws_without_a_warning_to_equal_bytes() -> None:
    first, second = every(), every()
    for name, figure in first.items():
        written = []
        for drawn in (figure, second[name]):
            stream = io.BytesIO()
            drawn.savefig(stream, format="png", metadata={"Software": None})
            written.append(stream.getvalue())
        assert written[0] == written[1] and len(written[0]) > 1000, name


def test_a_mosaic_places_every_image() -> None:
    pixels = images(5, 3, 4)
    canvas = style.mosaic(pixels, 3)
    assert canvas.shape == (2 * 5 - 1, 3 * 5 - 1, 3)
    for i in range(5):
        top, left = 5 * (i // 3), 5 * (i % 3)
        assert np.array_equal(canvas[top : top + 4, left : left + 4], pixels[i].permute(1, 2, 0).numpy())
    assert (canvas[5:, 10:] == 255).all() and (canvas[4] == 255).all()


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.9], [0.5, 7.0, 99.0]])
def test_a_histogram_loses_nobody(values: list[float]) -> None:
    figure = pictures.ratio_histogram({"fakes": torch.tensor(values)}, [0.95])
    heights = [patch.get_data().values for patch in figure.axes[0].patches if hasattr(patch, "get_data")]
    assert heights and all(np.sum(h) == pytest.approx(100.0) for h in heights)


def test_arms_show_means_intervals_and_the_teacher() -> None:
    from scipy import stats

    axes = pictures.arms_with_intervals(result()).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["real", "real_kd", "raw", "raw_kd (ship)"]
    bars = [c for c in axes.containers if hasattr(c, "has_xerr") and c.has_xerr]
    low, high = stats.t.interval(0.95, 2, loc=8.5, scale=stats.sem([9.0, 8.0, 8.5]))
    segment = bars[0].lines[2][0].get_segments()[0]
    assert segment[:, 0] == pytest.approx([low, high])
    assert any(line.get_linestyle() == "--" and line.get_xdata()[0] == 5.0 for line in axes.lines)
    assert "better to the left" in axes.get_xlabel()
    assert "better to the right" in pictures.arms_with_intervals(result(higher=True)).axes[0].get_xlabel()


def test_gains_are_hollow_where_zero_lies_inside() -> None:
    def markers(outcome: dict[str, Any]) -> list[Any]:
        axes = pictures.gains_with_intervals(outcome).axes[0]
        return [c.lines[0].get_markerfacecolor() for c in axes.containers]

    both = markers(result())
    assert len(both) == 5 and both[0] == "white" and both[3] == pictures.BLUE and both[4] == "white"
    assert len(markers(result(best="real"))) == 3


def test_bars_and_rows_have_the_names_of_classes() -> None:
    figure = pictures.label_marginal(
        torch.tensor([0, 1, 1]), torch.tensor([0, 0, 2]), class_names=("ant", "bee", "x" * 40)
    )
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["ant", "bee", "x" * 12 + "…"]
    assert label_texts(torch.tensor([2, 0]), ("ant", "bee", "a\nb")) == ["a b", "ant"]
    assert label_texts(torch.tensor([1.23456]), digits=3) == ["1.23"]
