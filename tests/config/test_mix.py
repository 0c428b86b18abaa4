"""Settings of mixing: what is refused, what an arm changes, and that defaults are not written."""

from __future__ import annotations

from typing import Any

import pytest

from cgankd.config import ArmConfig, ConfigError, config_from_dict, to_dict

NEW = {"mix", "mix_alpha", "mix_share", "mix_pairs", "views", "views_share", "step_factors"}


def arms(**own: Any) -> dict[str, Any]:
    return {"arms": {"real": {}, "x": own}}


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("student", {"mix": "mixupp"}, ["student.mix", "did you mean 'mixup'"]),
        ("teacher", {"mix_alpha": 0.0}, ["teacher.mix_alpha", "positive"]),
        ("student", {"mix_share": 1.5}, ["student.mix_share", "at most 1"]),
        ("student", {"mix_pairs": "fake"}, ["student.mix_pairs", "any, real, across"]),
        ("student", {"views": -1}, ["student.views", "zero or more"]),
        ("student", {"views_share": 0.0}, ["student.views_share", "above 0"]),
        ("student", {"step_factors": [4, 4]}, ["student.step_factors", "rising"]),
        ("student", {"step_factors": [1, 4]}, ["student.step_factors", "above 1"]),
        ("student", arms(views=-2), ["student.arms.x.views", "zero or more"]),
        ("student", arms(bank=True, mix_pairs="real"), ["student.arms.x.mix_pairs", "mix is none"]),
        ("student", arms(mix="mixup", mix_pairs="across"), ["student.arms.x.mix_pairs", "bank is false"]),
        (
            "student",
            {"teacher_view": "clean", **arms(kd=True, mix="mixup")},
            ["student.teacher_view", "student.arms.x", "'clean'", "student.arms.x.views"],
        ),
        (
            "student",
            {"teacher_view": "clean", **arms(bank=True, mix="mixup")},
            ["student.teacher_view", "student.arms.x"],
        ),
        (
            "student",
            {"teacher_view": "clean", **arms(unlabelled=True, mix="mixup")},
            ["student.teacher_view", "student.arms.x"],
        ),
        ("student", arms(views_share=0.5), ["student.arms.x.views_share", "no views are stored"]),
        ("student", arms(views=9, views_share=1.5), ["student.arms.x.views_share", "at most 1"]),
        ("student", arms(real_share=0.5), ["student.arms.x.real_share", "neither bank nor unlabelled"]),
        ("student", arms(bank=True, real_share=1.0), ["student.arms.x.real_share", "between 0 and 1"]),
        ("student", {"arms": {"real": {"mix": "mixup"}}}, ["student.arms.real", "control"]),
    ],
)
def test_mistakes_are_named(digits: dict[str, Any], section: str, values: dict[str, Any], words: list[str]) -> None:
    digits[section] |= values
    with pytest.raises(ConfigError) as caught:
        config_from_dict(digits)
    for word in words:
        assert word in str(caught.value)


def test_a_teacher_that_sees_clean_images_goes_with_stored_views_and_with_arms_without_it(
    digits: dict[str, Any],
) -> None:
    own = {"a": {"kd": True, "mix": "mixup", "views": 50}, "b": {"mix": "cutmix"}, "c": {"bank": True}}
    digits["student"] |= {
        "teacher_view": "clean",
        "best_with_kd": False,
        "arms": {"real": {}} | own | {"d_kd": {"kd": True}},
    }
    student = config_from_dict(digits).student
    assert [student.for_arm(arm).mix for arm in student.arms.values()] == ["none", "mixup", "cutmix", "none", "none"]


def test_an_arm_changes_what_it_names(digits: dict[str, Any]) -> None:
    digits["student"] |= {"mix": "mixup", "views": 300, "mix_alpha": 0.4}
    student = config_from_dict(digits).student
    assert student.for_arm(ArmConfig()) is student
    own = student.for_arm(ArmConfig(bank=True, mix="cutmix", mix_pairs="across", views=0))
    assert (own.mix, own.mix_pairs, own.num_views, own.mix_alpha) == ("cutmix", "across", 0, 0.4)
    shares = student.for_arm(ArmConfig(bank=True, real_share=0.25, views_share=0.75))
    assert (shares.real_share, shares.views_share, shares.mix) == (0.25, 0.75, "mixup")
    assert student.real_share != 0.25 and student.views_share != 0.75
    both = student.for_arm(ArmConfig(kd=True, distiller="dist", mix="none"))
    assert (both.distiller, both.mixes, both.num_views) == ("dist", False, 300)


def test_defaults_are_not_written(digits: dict[str, Any]) -> None:
    """So that fingerprints, artifacts and tracked settings of runs without them stay as they are."""
    config = config_from_dict(digits)
    assert not any(NEW & set(to_dict(section)) for section in (config.teacher, config.student))
    for name, arm in digits["student"]["arms"].items():
        assert NEW & set(to_dict(config.student.arms[name])) == NEW & set(arm), name
    digits["student"] |= {"mix": "mixup", "step_factors": [4]}
    written = to_dict(config_from_dict(digits).student)
    assert written["mix"] == "mixup" and written["step_factors"] == [4] and "mix_alpha" not in written
