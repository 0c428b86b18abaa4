"""cGAN-KD: knowledge distillation through samples of a conditional GAN (arXiv 2104.03164).

The names below are the public face of the library, with the words of `cgankd.types` (Split, DatasetInfo, ...), the
sections of `cgankd.config` and the KD losses of `cgankd.distill`: these stay where they are, while other modules may move.
They are imported when first asked for, so that `import cgankd` is as fast as an empty module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgankd.bank.build import Source as Source
    from cgankd.bank.build import arrange as arrange
    from cgankd.bank.build import burn_in as burn_in
    from cgankd.bank.build import grow_pool as grow_pool
    from cgankd.bank.scores import Scorer as Scorer
    from cgankd.bank.selections import Columns as Columns
    from cgankd.bank.selections import select as select
    from cgankd.config import config_from_dict as config_from_dict
    from cgankd.distill.base import Distiller as Distiller
    from cgankd.distill.methods import make_distiller as make_distiller
    from cgankd.export import ShippedModel as ShippedModel
    from cgankd.export import write_torch_export as write_torch_export
    from cgankd.fit.loop import Loop as Loop
    from cgankd.fit.predictor import Feed as Feed
    from cgankd.fit.predictor import fit_predictor as fit_predictor
    from cgankd.gan.train import train_cgan as train_cgan
    from cgankd.labels.task import ClassTask as ClassTask
    from cgankd.labels.task import ScalarTask as ScalarTask
    from cgankd.labels.task import make_task as make_task
    from cgankd.nets.predictors.shape import NetShape as NetShape
    from cgankd.nets.predictors.zoo import make_predictor as make_predictor
    from cgankd.ratio.density_ratio import RatioNets as RatioNets
    from cgankd.ratio.density_ratio import make_ratio as make_ratio
    from cgankd.ratio.density_ratio import train_ratio as train_ratio
    from cgankd.ratio.features import Reals as Reals
    from cgankd.ratio.partners import FakeSource as FakeSource

PUBLIC = {
    "Settings and task": {
        "config_from_dict": "config",
        "make_task": "labels.task",
        "ClassTask": "labels.task",
        "ScalarTask": "labels.task",
    },
    "Networks and training": {
        "make_predictor": "nets.predictors.zoo",
        "NetShape": "nets.predictors.shape",
        "fit_predictor": "fit.predictor",
        "Feed": "fit.predictor",
        "train_cgan": "gan.train",
        "Loop": "fit.loop",
    },
    "Density ratio (M1)": {
        "train_ratio": "ratio.density_ratio",
        "make_ratio": "ratio.density_ratio",
        "RatioNets": "ratio.density_ratio",
        "FakeSource": "ratio.partners",
        "Reals": "ratio.features",
    },
    "Bank (M1 and M2)": {
        "Scorer": "bank.scores",
        "arrange": "bank.build",
        "Source": "bank.build",
        "burn_in": "bank.build",
        "grow_pool": "bank.build",
        "select": "bank.selections",
        "Columns": "bank.selections",
    },
    "KD losses (M3)": {"make_distiller": "distill.methods", "Distiller": "distill.base"},
    "Export": {"ShippedModel": "export", "write_torch_export": "export"},
}
"""What for -> public name -> the module below cgankd it lives in today."""
HOMES = {name: f"{__name__}.{home}" for names in PUBLIC.values() for name, home in names.items()}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    """A public name, its module imported now."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(HOMES)}")
    return getattr(importlib.import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return [*HOMES]
