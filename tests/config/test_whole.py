"""Settings: every preset loads, and every kind of mistake is named by its dotted path with the nearest valid name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from cgankd.config import Config, ConfigError, config_from_dict, to_dict
from cgankd.config.data import SOURCES
from cgankd.config.settings import from_dict
from cgankd.data.readers.sources import READERS
from tests.conftest import ROOT, preset

PRESETS = sorted(p.stem for p in (ROOT / "pipelines/presets").glob("*.yaml"))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_and_names_itself(name: str) -> None:
    config = config_from_dict(preset(name))
    assert config.tracking.preset == name
    assert config_from_dict(to_dict(config)) == config


def change(values: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    *path, last = dotted.split(".")
    node = values
    for key in path:
        node = node[key]
    node[last] = value
    return values


@pytest.mark.parametrize(
    ("dotted", "value", "words"),
    [
        ("bank.rhoo", 0.5, ["bank.rhoo", "nearest valid", "bank.rho"]),
        ("bank.rho", "high", ["bank.rho", "number", "'high'"]),
        ("bank.rho", 0.0, ["bank.rho", "(0, 1]"]),
        ("bank.rho", float("nan"), ["bank.rho", "NaN"]),
        ("bank.num_fakes", 10.5, ["bank.num_fakes", "whole number"]),
        ("bank.num_fakes", True, ["bank.num_fakes", "whole number"]),
        ("bank.bound_quantile", 0.9, ["bank.bound_quantile", "(0.9, 1]"]),
        ("student.protocol", "scrach", ["student.protocol", "did you mean 'scratch'"]),
        ("student.augment", "shift+cutuot", ["student.augment", "'cutuot'", "did you mean 'cutout'"]),
        ("student.seeds", [1], ["student.seeds", "at least 2"]),
        ("student.arms.raw", {"bnak": True}, ["student.arms.raw.bnak", "student.arms.raw.bank"]),
        ("student.arms.odd", {"filter": True}, ["student.arms.odd.filter", "bank is false"]),
        ("student.arms.real", {"strong": True}, ["student.arms.real", "control"]),
        ("data.image_size", 20, ["data.image_size", "power of two"]),
        ("bank.label_bin", 3.0, ["bank.label_bin", "data.task is class"]),
        ("cgan.vicinity", {"kind": "soft"}, ["cgan.vicinity.label_sigma is missing"]),
        ("ratio.vicinity_drop", 1.0, ["ratio.vicinity_drop", "data.task is class"]),
        ("data.label_min", 1.0, ["data.label_min", "data.task is class"]),
        ("student.net", "convnt", ["student.net", "did you mean 'convnet'"]),
        ("ratio.feature_width", 0, ["ratio.feature_width", "null or at least 1"]),
        ("ratio.extractor", "resnet43", ["ratio.extractor", "did you mean 'resnet34'"]),
        ("ratio.extractor", "resnet34", ["ratio.feature_channels", "64 for ratio.extractor resnet34"]),
        ("cgan.lr_d", 0.0, ["cgan.lr_d", "positive"]),
        ("teacher", 3, ["teacher must be a mapping"]),
        ("cgan.beta1", 1.5, ["cgan.beta1", "in [0, 1)", "1.5"]),
        ("cgan.beta2", -0.1, ["cgan.beta2", "in [0, 1)"]),
        ("cgan.cutout_share", 9, ["cgan.cutout_share", "in [0, 1]"]),
        ("cgan.cutout_share", -2, ["cgan.cutout_share", "in [0, 1]"]),
        ("cgan.ema_start", -5, ["cgan.ema_start", "zero or more"]),
        ("ratio.beta1", -1, ["ratio.beta1", "in [0, 1)"]),
        ("ratio.beta2", 7, ["ratio.beta2", "in [0, 1)"]),
        ("ratio.weight_decay", -1, ["ratio.weight_decay", "zero or more"]),
        ("ratio.hidden", [0], ["ratio.hidden", "multiples of 8, from 8", "[0]"]),
        ("ratio.hidden", [16, -8], ["ratio.hidden", "multiples of 8, from 8", "[16, -8]"]),
        ("ratio.reconstruct_weight", -1, ["ratio.reconstruct_weight", "zero or more"]),
        ("ratio.l1_weight", -3, ["ratio.l1_weight", "zero or more"]),
        ("ratio.label_weight", -3, ["ratio.label_weight", "zero or more"]),
        ("ratio.pool_refresh_steps", -3, ["ratio.pool_refresh_steps", "zero or more"]),
        ("bank.max_draws_factor", float("inf"), ["bank.max_draws_factor", "finite", "inf"]),
        ("teacher.learning_rate", float("inf"), ["teacher.learning_rate", "finite", "inf"]),
        ("teacher.learning_rate", "inf", ["teacher.learning_rate", "finite", "inf"]),
        ("student.weight_decay", float("inf"), ["student.weight_decay", "finite", "inf"]),
        ("student.arms.raw_kd", {"bank": True}, ["student.arms.raw_kd.kd", "true", "False"]),
        ("data.source", "digts", ["data.source", "image-folder", "did you mean 'digits'"]),
        ("data.val_share", 0.2, ["data.val_per_label", "null where data.val_share is set", "10"]),
        ("data.val_share", 1.0, ["data.val_share", "between 0 and 1"]),
        ("data.val_floor", 0, ["data.val_floor", "at least 1"]),
        ("data.imbalance", 0.5, ["data.imbalance", "at least 1"]),
        ("evaluate.headline", "balance", ["evaluate.headline", "did you mean 'balanced'"]),
        ("student.sampling", "even", ["student.sampling", "natural, balanced"]),
        ("student.arms.real", {"balanced": True}, ["student.arms.real", "free of switches"]),
        ("tachyon", 3, ["tachyon is not a known setting", "teacher"]),
    ],
)
def test_mistakes_are_named(digits: dict[str, Any], dotted: str, value: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_dict(change(digits, dotted, value))
    for word in words:
        assert word in str(caught.value)


def test_the_names_of_sources_are_those_of_the_readers() -> None:
    assert tuple(READERS) == SOURCES


def test_missing_key_is_named(digits: dict[str, Any]) -> None:
    del digits["bank"]["rho"]
    with pytest.raises(ConfigError, match=r"bank\.rho is missing"):
        config_from_dict(digits)


@pytest.mark.parametrize("dotted", ["cgan.vicinity", "cgan.label_input", "bank.label_bin", "bank.num_conditions"])
def test_params_of_the_other_task(chairs: dict[str, Any], dotted: str) -> None:
    with pytest.raises(ConfigError, match=dotted.replace(".", r"\.")):
        config_from_dict(change(chairs, dotted, None))


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("bank.num_conditions", 0),
        ("cgan.label_input.batch_size", 0),
        ("ratio.vicinity_drop", -1.0),
        ("cgan.label_input.weight_decay", -1.0),
        ("cgan.label_input.image_milestones", [0.5]),
        ("cgan.label_input.label_batch_size", 0),
        ("cgan.label_input.augment", "flop"),
    ],
)
def test_scalar_settings_have_ranges(chairs: dict[str, Any], dotted: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=dotted.replace(".", r"\.")):
        config_from_dict(change(chairs, dotted, value))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"feature_milestones": [0.5]},
            r"ratio\.feature_milestones must be given where the schedule is multistep",
        ),
        (
            {"feature_schedule": "multistep", "feature_milestones": [0.5, 0.3]},
            r"ratio\.feature_milestones must be rising",
        ),
        ({"feature_schedule": "multistep", "feature_milestones": [1.0]}, r"ratio\.feature_milestones must be between"),
        ({"feature_weight_decay": -1.0}, r"ratio\.feature_weight_decay must be zero or more"),
        ({"feature_beta1": 1.0}, r"ratio\.feature_beta1 must be in \[0, 1\)"),
        ({"extractor_style": "published"}, r"ratio\.extractor_style must be plain for ratio\.extractor compact"),
        ({"extractor": "autoencoder", "reconstruct_weight": 0.0}, r"ratio\.reconstruct_weight must be positive"),
        (
            {"extractor": "autoencoder-v1", "feature_width": 40},
            r"ratio\.feature_width must be null or a multiple of 16",
        ),
        ({"extractor": "densenet121"}, r"ratio\.reconstruct_weight must be 0 for ratio\.extractor densenet121"),
    ],
)
def test_the_training_of_the_extractor_is_checked(chairs: dict[str, Any], settings: dict[str, Any], words: str) -> None:
    chairs["ratio"] |= settings
    with pytest.raises(ConfigError, match=words):
        config_from_dict(chairs)


def test_settings_of_scalars_alone(digits: dict[str, Any], chairs: dict[str, Any]) -> None:
    for dotted, value in (("bank.bound_scope", "label"), ("ratio.scalar_loss", "squared")):
        assert config_from_dict(change(chairs, dotted, value))
        with pytest.raises(ConfigError, match=rf"{dotted} must be .*data\.task is class"):
            config_from_dict(change(digits, dotted, value))
    both = change(change(chairs, "bank.bound_scope", "label"), "cgan.file", "fakes")
    with pytest.raises(ConfigError, match=r"bank\.bound_scope must be group where cgan\.file is set"):
        config_from_dict(both)


def test_later_settings_of_the_label_input_are_written_where_they_are_set(chairs: dict[str, Any]) -> None:
    """In a file of the section; the whole configuration always shows them, so that a search may name them."""
    plain = config_from_dict(chairs)
    assert "net" not in to_dict(plain.cgan)["label_input"] and "loss" not in to_dict(plain.cgan)
    assert to_dict(plain)["cgan"]["label_input"]["net"] == "compact"
    changed = config_from_dict(change(chairs, "cgan.label_input.net", "resnet34"))
    assert to_dict(changed.cgan)["label_input"]["net"] == "resnet34"
    assert from_dict(type(plain.cgan), to_dict(changed.cgan), "cgan.") == changed.cgan


def test_the_published_extractor_of_classes_is_no_auto_encoder(chairs: dict[str, Any]) -> None:
    chairs["ratio"] |= {"extractor": "resnet34", "feature_channels": 64}
    with pytest.raises(
        ConfigError, match=r"ratio\.reconstruct_weight must be 0 .* ratio\.extractor compact, but is 1\.0"
    ):
        config_from_dict(chairs)
    assert config_from_dict(change(chairs, "ratio.reconstruct_weight", 0.0)).ratio.extractor == "resnet34"


def test_a_section_of_the_other_task_is_not_printed_as_an_object(
    digits: dict[str, Any], chairs: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"^cgan\.vicinity must be null .*, but is set$"):
        config_from_dict(change(digits, "cgan.vicinity", chairs["cgan"]["vicinity"]))


def test_small_numbers_written_by_dvc_are_read(digits: dict[str, Any]) -> None:
    """DVC writes 1e-06, which YAML 1.1 readers take for text."""
    assert config_from_dict(change(digits, "teacher.learning_rate", "1e-06")).teacher.learning_rate == 1e-6


def test_whole_numbers_serve_as_numbers(digits: dict[str, Any]) -> None:
    rho = config_from_dict(change(digits, "bank.rho", 1)).bank.rho
    assert rho == 1.0 and isinstance(rho, float)


def test_configs_are_frozen(digits: dict[str, Any]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config_from_dict(digits).bank.rho = 0.1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("dotted", "value", "words"),
    [
        ("cgan.arch", "bigan", "did you mean 'biggan'"),
        ("cgan.attention", 8, r"null with cgan\.arch compact"),
        ("cgan.accumulate", 5, r"so small that cgan\.batch_size"),
        ("cgan.file", " ", "null or a path"),
        ("cgan.augment", "shift+hu", "joined by .*did you mean 'hue'"),
        ("cgan.file_radius", 1.0, r"data\.task is class"),
        ("cgan.d_style", "flat", "pooled with cgan.arch compact"),
        ("cgan.loss", "vanila", "did you mean 'vanilla'"),
    ],
)
def test_settings_of_the_generator_are_checked(digits: dict[str, Any], dotted: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"{dotted} .*{words}".replace("cgan.", r"cgan\.", 1)):
        config_from_dict(change(digits, dotted, value))


@pytest.mark.parametrize(("size", "right"), [(8, True), (16, False), (12, False), (4, False)])
def test_attention_fits_the_image(digits: dict[str, Any], size: int, right: bool) -> None:
    digits["cgan"] |= {"arch": "sagan", "attention": size}
    if right:
        assert config_from_dict(digits).cgan.attention == size
    else:
        with pytest.raises(ConfigError, match=r"cgan\.attention must be null or a power of two from 8"):
            config_from_dict(digits)


def test_a_hierarchical_latent_must_reach_every_block(digits: dict[str, Any]) -> None:
    digits["cgan"] |= {"arch": "biggan", "z_dim": 6}
    with pytest.raises(ConfigError, match=r"cgan\.z_dim must be at least 7"):
        config_from_dict(digits)
    digits["cgan"] |= {"shared_embed": False}
    assert config_from_dict(digits).cgan.z_dim == 6


def test_the_base_student_has_a_schedule_of_its_own(digits: dict[str, Any]) -> None:
    digits["student"] |= {"schedule": "multistep", "milestones": [0.5], "base_steps": 7, "base_learning_rate": 0.2}
    student = config_from_dict(digits).student
    assert (student.base.num_steps, student.base.learning_rate, student.base.milestones) == (7, 0.2, (0.5,))
    digits["student"]["base_milestones"] = [0.25, 0.75]
    student = config_from_dict(digits).student
    assert student.base.milestones == (0.25, 0.75) and student.milestones == (0.5,)
    for wrong in ([], [1.0]):
        with pytest.raises(ConfigError, match=r"student\.base_milestones must be null, or between 0 and 1"):
            config_from_dict(change(digits, "student.base_milestones", wrong))
    digits["student"] |= {"schedule": "cosine", "milestones": []}
    with pytest.raises(ConfigError, match=r"student\.base_milestones .* student\.schedule is multistep"):
        config_from_dict(digits)


def test_an_empty_path_is_no_root(digits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data\.root must be the path of a folder or file"):
        config_from_dict(change(digits, "data.root", " "))


def test_a_long_tail_says_how_many_images_its_first_class_has(digits: dict[str, Any]) -> None:
    digits["data"] |= {"imbalance": 15, "train_per_label": None}
    with pytest.raises(ConfigError, match=r"data.train_per_label must be set where data.imbalance is"):
        config_from_dict(digits)


@pytest.mark.parametrize("name", ["val_share", "imbalance"])
def test_shares_of_classes_are_not_for_scalars(chairs: dict[str, Any], name: str) -> None:
    chairs["data"] |= {name: 0.5 if name == "val_share" else 2.0, "num_val": None, "train_per_label": 3}
    if name == "imbalance":
        chairs["data"]["num_val"] = 30
    with pytest.raises(ConfigError, match=rf"data.{name} must be null for scalar labels"):
        config_from_dict(chairs)


def test_natural_sampling_is_not_written(digits: dict[str, Any]) -> None:
    """Fingerprints of students, runs.json and the bank are as they were before the settings."""
    data, student = config_from_dict(digits).data, config_from_dict(digits).student
    assert not {"val_share", "val_floor", "imbalance"} & set(to_dict(data))
    assert "sampling" not in to_dict(student) and "balanced" not in to_dict(student.arms["real"])
    digits["student"] |= {"sampling": "balanced"}
    even = config_from_dict(digits).student
    assert to_dict(even)["sampling"] == "balanced" and all(even.balances(arm) for arm in even.arms.values())
    assert not any(student.balances(arm) for arm in student.arms.values())


PUBLISHED = {
    "cgan.targets": "distinct",
    "cgan.vicinity.ends": "cut",
    "ratio.targets": "distinct",
    "ratio.scalar_loss": "squared",
    "ratio.schedule": "multistep",
    "ratio.milestones": [0.4, 0.75],
    "ratio.flip": True,
    "teacher.scalar_loss": "squared",
    "student.scalar_loss": "squared",
}


def test_published_settings_are_written_only_where_they_are_not_the_default(chairs: dict[str, Any]) -> None:
    """Files of GAN, ratio and students are as they were before these settings, those of sections within sections too."""

    def found(values: dict[str, Any], dotted: str) -> Any:
        for key in dotted.split("."):
            values = values.get(key, {})
        return values

    cfg = config_from_dict(chairs)
    default = {section: to_dict(getattr(cfg, section)) for section in ("cgan", "ratio", "teacher", "student")}
    assert not any(found(default, name) for name in PUBLISHED)
    assert "ends" not in to_dict(config_from_dict(chairs).cgan)["vicinity"]
    for name, value in PUBLISHED.items():
        change(chairs, name, value)
    written = to_dict(config_from_dict(chairs))
    assert {name: found(written, name) for name in PUBLISHED} == PUBLISHED
    assert config_from_dict(written) == config_from_dict(chairs)


@pytest.mark.parametrize("section", ["teacher", "student", "ratio"])
def test_classes_have_no_scalar_loss(digits: dict[str, Any], section: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.scalar_loss must be absolute, or left out, for class labels"):
        config_from_dict(change(digits, f"{section}.scalar_loss", "squared"))


@pytest.mark.parametrize(("schedule", "shares"), [("multistep", []), ("constant", [0.5]), ("multistep", [0.5, 1.0])])
def test_milestones_of_the_ratio_go_with_its_schedule(
    digits: dict[str, Any], schedule: str, shares: list[float]
) -> None:
    digits["ratio"] |= {"schedule": schedule, "milestones": shares}
    with pytest.raises(ConfigError, match=r"ratio\.milestones must be (given where|between)"):
        config_from_dict(digits)


def numbers(section: Any, prefix: str) -> Iterator[tuple[str, type]]:
    """Dotted name and kind of every number in a section and those in it, entries of lists and mappings as their first."""
    for name, hint in get_type_hints(section).items():
        yield from _numbers(hint, f"{prefix}{name}")


def _numbers(hint: Any, name: str) -> Iterator[tuple[str, type]]:
    inner = [part for part in get_args(hint) if part not in (type(None), ...)]
    if dataclasses.is_dataclass(hint):
        yield from numbers(hint, f"{name}.")
    elif get_origin(hint) is tuple:
        yield from _numbers(inner[0], f"{name}.0")
    elif get_origin(hint) is dict:
        yield from _numbers(inner[1], f"{name}.raw")
    elif get_origin(hint) in (Union, UnionType):
        yield from _numbers(inner[0], name)
    elif hint in (int, float):
        yield name, hint


NUMBERS = sorted(numbers(Config, ""))


def with_number(values: Any, path: list[str], number: float) -> None:
    """Put a number at a place, whatever stood there and above it."""
    first, *rest = path
    if not rest:
        values[0 if first == "0" else first] = number
        return
    if first == "distillers":
        values[first] = [{"name": "kd"}]
        with_number(values[first][0], rest[1:], number)
        return
    if rest[0] == "0":
        values[first] = [number]
        return
    if not isinstance(values.get(first), dict):
        values[first] = dict(LEAST.get(first, {}))
    with_number(values[first], rest, number)


LEAST: dict[str, dict[str, Any]] = {
    "probe": {"net": "convnet", "width": 4, "num_steps": 500},
    "vicinity": {
        **{"kind": "soft", "label_sigma": None, "kappa": None, "kappa_multiplier": 1.0, "gap_quantile": 1.0},
        **{"weight_floor": 0.001, "draw": "uniform"},
    },
    "label_input": {
        **{"width": 8, "image_steps": 1, "label_steps": 1, "batch_size": 4, "learning_rate": 0.1, "noise": 0.1},
    },
}


@pytest.mark.parametrize("dotted, kind", NUMBERS, ids=[name for name, _ in NUMBERS])
def test_no_number_is_larger_than_what_libraries_can_do_with(dotted: str, kind: type) -> None:
    assert len(NUMBERS) > 150
    for number in (2**63 - 1, -(2**63) + 1) if kind is int else (1e308, -1e308, 10**300):
        values = preset("digits")
        with_number(values, dotted.split("."), number)
        if dotted == "seed" or dotted.endswith("seeds.0"):
            try:
                config_from_dict(values)
            except ConfigError as error:
                assert str(error).startswith("student.seeds")
            continue
        with pytest.raises(ConfigError) as raised:
            config_from_dict(values)
        assert str(raised.value).startswith(dotted.replace(".0", "[0]"))


@pytest.mark.parametrize(
    "dotted, value, most",
    [
        ("teacher.width", 4611686018427387904, "262,144"),
        ("bank.max_draws_factor", 1e308, "1,000,000"),
        ("teacher.batch_size", 9 * 10**18, "1,048,576"),
        ("ratio.pool_size", 10**15, "1,000,000,000"),
        ("bank.block_size", 9 * 10**18, "1,048,576"),
        ("teacher.members", 10**12, "1000"),
    ],
)
def test_a_number_beyond_all_machines_is_refused_by_its_name(dotted: str, value: float, most: str) -> None:
    with pytest.raises(ConfigError, match=f"^{dotted} must be .*{re.escape(most)}"):
        config_from_dict(change(preset("digits"), dotted, value))
