"""The probe: a student trained on real images and the fakes so far, with KD from the teacher's outputs on the clean images."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from cgankd.config import ProbeConfig
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.fit.loop import Loop
from cgankd.fit.predictor import Feed, fit_predictor, make_predict
from cgankd.fit.taught import Taught
from cgankd.fit.watch import sound
from cgankd.labels.task import make_task
from cgankd.rng import seed_all
from cgankd.types import DatasetInfo, PredictFn, Split
from pipelines.networks.weights import find_weights, start
from pipelines.runtime.context import Context

SEEN = 64
"""Fakes on which a probe's outputs are looked at while it is trained."""


@dataclass(frozen=True)
class Lesson:
    """Real images and fakes, with the teacher's outputs on them [N + M, O]."""

    train: Split
    fakes: Split
    teacher_NO: Tensor


class Probes:
    """Trains a fresh probe for each lesson, by `bank.probe`."""

    def __init__(self, ctx: Context, cfg: ProbeConfig, info: DatasetInfo) -> None:
        self.cfg, self.info, self.plan, self.say = cfg, info, ctx.plan, ctx.say
        self.task = make_task(info, ctx.cfg, cfg.scalar_loss)
        self.weights = find_weights("bank.probe", cfg, ctx.workdir)
        if self.weights is not None:
            ctx.digests["probe.weights"] = self.weights.digest

    def train(self, lesson: Lesson, loop: Loop) -> PredictFn:
        """A probe that has seen the lesson, as a function of images; the finished training is kept in `loop.checkpoint`."""
        cfg = self.cfg
        seed_all(loop.seed, "init")
        net, _ = start("bank.probe", cfg, self.info, self.task.num_outputs, self.weights, self.say)
        share, size = cfg.real_share, cfg.batch_size
        mixture = Mixture(lesson.train, lesson.fakes, real_share=share, batch_size=size, seed=loop.seed)
        objective = Taught(self.task, lesson.teacher_NO, cfg.temperature, cfg.soft_weight)
        feed = Feed(mixture.batch, lambda unit, gen: augment(unit, cfg.augment, gen))
        loop = replace(loop, who="probe", section="bank.probe")
        some = lesson.fakes.images[:SEEN]

        def check(net: nn.Module) -> None:
            sound(make_predict(net, cfg.precision))(some)

        fit_predictor(net, objective, feed, cfg, loop, validate=check, keep_last=True)
        return make_predict(net, cfg.precision, plan=self.plan, expected=len(lesson.fakes))
