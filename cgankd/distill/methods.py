"""KD losses by name: the dict of base.py, merged here from the `METHODS` of each module of losses/."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from cgankd.config.distill import DistillerConfig
from cgankd.config.settings import ConfigError
from cgankd.distill import losses
from cgankd.distill.base import METHODS as METHODS
from cgankd.distill.base import Distiller
from cgankd.distill.composite import CompositeDistiller
from cgankd.distill.options import checked_distiller


def _merge() -> dict[str, type[Distiller]]:
    """All families' methods in the order of their names."""
    found: dict[str, type[Distiller]] = {}
    for module in pkgutil.iter_modules(losses.__path__):
        family = importlib.import_module(f"{losses.__name__}.{module.name}")
        for name, method in getattr(family, "METHODS", {}).items():
            assert name not in found and method.name == name, f"{family.__name__}: {name} is there twice or misnamed"
            found[name] = method
    return dict(sorted(found.items()))


METHODS.update(_merge())


def make_distiller(name: str, **options: Any) -> Distiller:
    """The KD loss called `name` with these options.

    Raises ConfigError on an unknown name (with the nearest one) and on an option that is unknown, mistyped or out of
    range.
    """
    return checked_distiller(name, options, "distiller", f"options of {name}")


def distiller_of(parts: Sequence[DistillerConfig], field: str = "student") -> Distiller:
    """The KD loss of a student section: one method, or the weighted sum of several.

    Raises ConfigError naming the setting below `field` that is wrong.
    """
    single = len(parts) == 1 and parts[0].weight == 1.0
    if single:
        return checked_distiller(parts[0].name, parts[0].options, f"{field}.distiller", f"{field}.distiller_options")
    made = []
    for i, part in enumerate(parts):
        where = f"{field}.distillers[{i}]"
        made.append((part.weight, checked_distiller(part.name, part.options, f"{where}.name", f"{where}.options")))
    try:
        return CompositeDistiller(made)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{field}.distillers: {error}") from error
