"""Two small nets with stages, their shapes, and a batch, for tests of the feature losses."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cgankd.distill.base import Batch, DataSpec, Distiller, ModelSpec
from cgankd.distill.losses.feature_terms import probe
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.types import Outputs

SHAPE = (3, 16, 16)


def net(name: str = "convnet", width: int = 4, num_outputs: int = 3) -> nn.Module:
    return make_predictor(name, NetShape(num_outputs, 3, 16), width=width, mean=(0.5,) * 3, std=(0.25,) * 3)


def spec(model: nn.Module) -> ModelSpec:
    """Shapes by a dry run; norms by the order conv, batch norm, ReLU of these nets' bodies."""
    out = probe(model, SHAPE)
    assert out.pooled is not None
    body = list(model.body.body)  # type: ignore[union-attr, arg-type]
    before = [body[i - 1] for i, layer in enumerate(body) if isinstance(layer, nn.ReLU)]
    wide = [n for n in before if isinstance(n, nn.BatchNorm2d)]
    norms = [next(n for n in reversed(wide) if n.num_features == s.shape[1]) for s in out.stages]
    return ModelSpec(
        num_outputs=out.pred.shape[1],
        pooled_dim=out.pooled.shape[1],
        stages=tuple(tuple(s.shape[1:]) for s in out.stages),  # type: ignore[misc]
        net=model,
        make=lambda width: net("convnet", int(4 * width), out.pred.shape[1]),
        norms=tuple(norms),
    )


def data(num_classes: int = 3, num: int = 20, period: float | None = None) -> DataSpec:
    return DataSpec(num, num_classes, SHAPE, period=period, num_steps=40, batch_size=5)


def batch(num: int = 6, classes: int = 3, negatives: int = 4, view: str = "plain", total: int = 20) -> Batch:
    gen = torch.Generator().manual_seed(num)
    y = torch.arange(num) % classes if classes else torch.rand(num, generator=gen)
    turns = 4 if view == "rot4" else 1
    return Batch(
        x={view: torch.rand(num * turns, *SHAPE, generator=gen)},
        y=y,
        index=torch.randperm(total, generator=gen)[:num],
        neg_index=torch.randint(0, total, (num, negatives), generator=gen),
        is_fake=torch.arange(num) % 2 == 1,
    )


def shown(model: nn.Module, b: Batch, view: str = "plain") -> Outputs:
    out: Outputs = model.outputs(b.x[view])  # type: ignore[operator]
    return out


def frozen(model: nn.Module, b: Batch, view: str = "plain") -> Outputs:
    """The teacher's outputs as the engine makes them."""
    model.eval()
    with torch.no_grad():
        return shown(model, b, view)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def constant(out: Outputs, value: float = 0.0) -> Outputs:
    """Outputs whose every entry is one number, still attached to the graph."""

    def flat(x: Tensor) -> Tensor:
        return x * 0 + value

    assert out.pooled is not None
    return replace(
        out,
        pred=flat(out.pred),
        pooled=flat(out.pooled),
        stages=tuple(map(flat, out.stages)),
        preacts=tuple(map(flat, out.preacts)),
    )


def built(method: Distiller, student: nn.Module, teacher: nn.Module, d: DataSpec | None = None) -> Distiller:
    method.build(spec(student), spec(teacher), data() if d is None else d)
    return method


def only(**maps: list[Tensor] | Tensor | nn.Module | None) -> Outputs:
    """Outputs with just these parts."""
    stages, preacts = tuple(maps.get("stages", ())), tuple(maps.get("preacts", ()))  # type: ignore[arg-type]
    pooled, head = maps.get("pooled"), maps.get("head")
    pred = maps.get("pred", torch.zeros(1, 1))
    return Outputs(pred, pooled, stages, preacts, head)  # type: ignore[arg-type]
