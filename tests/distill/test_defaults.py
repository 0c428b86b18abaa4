"""The default weights of the methods are the usual ones for CIFAR, by option where there are several forms."""

from __future__ import annotations

from typing import Any

import pytest

from cgankd.distill import make_distiller

USUAL: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("kd", {}, {"temperature": 4, "soft_weight": 0.9, "task_weight": 0.1}),
    ("kd", {"standardize": True}, {"temperature": 2, "soft_weight": 9, "task_weight": 0.1}),
    ("kd", {"standardize": True, "temperature": 3.0, "soft_weight": 0.5}, {"temperature": 3, "soft_weight": 0.5}),
    ("kd", {"soft_weight": 0.3}, {"temperature": 4, "task_weight": 0.7}),
    ("takd", {}, {"kd.temperature": 10, "kd.soft_weight": 0.5, "task_weight": 0.5}),
    ("fitnet", {}, {"hint_weight": 100, "hint_stage": 1, "task_weight": 1}),
    ("at", {}, {"attention_weight": 1000, "form": "code"}),
    ("sp", {}, {"similarity_weight": 3000}),
    ("vid", {}, {"information_weight": 1, "initial_variance": 5}),
    ("rkd", {}, {"distance_weight": 25, "angle_weight": 50}),
    ("pkt", {}, {"probability_weight": 30000}),
    ("ab", {}, {"boundary_weight": 0.003, "margin": 1, "boundaries_share": 30 / 240, "train_weight": 0}),
    ("ft", {}, {"factor_weight": 200, "code_share": 0.5, "paraphraser_share": 30 / 240}),
    ("ft", {"factor": "flat"}, {"factor_weight": 500}),
    ("ft", {"factor": "flat", "factor_weight": 7.0}, {"factor_weight": 7}),
    ("crd", {}, {"contrast_weight": 0.8, "embed_dim": 128, "num_negatives": 16384, "temperature": 0.07}),
    ("crd", {}, {"momentum": 0.5, "queued": False, "task_weight": 1}),
    ("sskd", {}, {"task_weight": 0.1, "soft_weight": 0.9, "turned_weight": 2.7, "similarity_weight": 10}),
    ("sskd", {}, {"temperature": 4, "turned_temperature": 4, "similarity_temperature": 0.5}),
    ("sskd", {}, {"keep_wrong": 1, "keep_wrong_similar": 0.75, "head_share": 60 / 240, "head_learning_rate": 0.05}),
    ("reviewkd", {}, {"review_weight": 1, "warmup_epochs": 20, "max_channels": 512}),
    ("dkd", {}, {"target_weight": 1, "non_target_weight": 8, "temperature": 4, "warmup_epochs": 20, "task_weight": 1}),
    ("dkd", {"standardize": True}, {"target_weight": 9, "non_target_weight": 72, "temperature": 2, "task_weight": 1}),
    ("dkd", {"standardize": True, "non_target_weight": 2.0}, {"target_weight": 9, "non_target_weight": 2}),
    ("dist", {}, {"loss_weight": 2, "inter_weight": 1, "intra_weight": 1, "temperature": 4, "task_weight": 1}),
    ("ofd", {}, {"overhaul_weight": 0.001, "task_weight": 1}),
    ("nkd", {}, {"temperature": 3, "target_weight": 1, "non_target_weight": 3.5, "task_weight": 1}),
    ("mlkd", {}, {"temperatures": (4, 2, 3, 5, 6), "soft_weight": 0.9, "task_weight": 0.1, "mode": "official"}),
    ("mlkd", {}, {"strong_label_weight": 0.1}),
    ("simkd", {}, {"feature_weight": 1, "bottleneck": 2, "task_weight": 0}),
    ("cat_kd", {}, {"map_weight": 15, "map_size": 2, "unit_maps": False, "task_weight": 1}),
    ("sdd", {}, {"scales": (1, 2, 4), "temperature": 4, "soft_weight": 0.9, "task_weight": 0.1}),
    ("ctkd", {}, {"lowest_temperature": 1, "temperature_range": 20, "first_raw_temperature": 1, "ramp_epochs": 10}),
    ("ctkd", {}, {"soft_weight": 0.9, "task_weight": 0.1}),
    ("wttm", {}, {"exponent": 0.2, "loss_weight": 4, "weighted": True, "task_weight": 1}),
    ("ofa_kd", {}, {"enhancement": 1, "logit_weight": 1, "branch_weight": 1, "stages": (), "task_weight": 1}),
    ("ckd_comparative", {}, {"group_size": 3, "num_positive": 2, "temperature": 4, "relation_weight": 1}),
    ("atkd", {}, {"easy_weight": 0.2, "hard_quantile": 0.5, "temperature": 1}),
    ("ifm", {}, {"pooled_weight": 1, "early_weight": 100, "early_decay": 0.7}),
    ("kdexplainer", {}, {"label_weight": 0.1, "soft_weight": 0.9, "temperature": 4, "first_sharpness": 10}),
    ("vam", {}, {"soft_weight": 0.9, "temperature": 4, "task_weight": 0.1}),
    ("soap_kd", {}, {"feature_weight": 100, "relation_weight": 0, "distance_weight": 25, "angle_weight": 50}),
    ("cc", {}, {"congruence_weight": 0.02, "embed_dim": 128, "task_weight": 1}),
    ("cc", {"form": "paper"}, {"congruence_weight": 0.003, "gamma": 0.4, "order": 2}),
    ("nst", {}, {"selectivity_weight": 50, "degree": 2, "offset": 0}),
    ("fsp", {}, {"flow_weight": 1, "flow_share": 30 / 240, "training_form": "first", "task_weight": 1}),
    ("fsp", {"training": "joint"}, {"flow_weight": 50}),
    ("kdsvd", {}, {"singular_weight": 1, "num_vectors": 1, "bandwidth": 8}),
    ("uda", {}, {"soft_weight": 0.5, "temperature": 5, "task_weight": 0.25, "label_weight": 0.25}),
    ("uda", {"form": "self"}, {"task_weight": 0.5, "consistency_weight": 1, "sharpen": 0.4, "confidence": 0.8}),
    ("kd", {}, {"reduction": "batch"}),
    ("reg_kd", {}, {"soft_weight": 0.5, "bound_weight": 0.5, "bound_margin": 0, "reject_deviations": 3}),
]


@pytest.mark.parametrize(("name", "options", "usual"), USUAL)
def test_defaults_are_the_usual_ones(name: str, options: dict[str, Any], usual: dict[str, Any]) -> None:
    method = make_distiller(name, **options)
    for place, value in usual.items():
        found: Any = method
        for part in place.split("."):
            found = getattr(found, part)
        assert found == (pytest.approx(value) if isinstance(value, float) else value), place
