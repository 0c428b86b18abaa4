"""Settings of the making of a bank: M1's features and ratio, then subsampling, filter and replacement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from cgankd.config.data import check_augment
from cgankd.config.probe import ProbeConfig
from cgankd.config.settings import check_milestones, require


@dataclass(frozen=True, kw_only=True)
class RatioConfig:
    """M1, first half: the features and the conditional density ratio r(x given y)."""

    extractor: Literal[
        "compact", "resnet18", "resnet34", "resnet50", "densenet121", "autoencoder", "autoencoder-v1", "teacher"
    ] = "compact"
    """The feature extractor: compact = the project's own, which is also the sparse auto-encoder of scalar labels; resnet34 =
    the published one of class labels; densenet121 = that of the paper's first version; autoencoder = the published one of
    scalar labels; autoencoder-v1 = that of the first version; teacher = the input of the teacher's last layer, frozen, for which
    nothing is trained and none of the other settings of features is read."""
    feature_width: int | None
    """Units of the feature map the ratio sees; null = C*H*W as in the paper."""
    feature_channels: int
    """Channels of the first stage of the feature extractor (64 for the ResNets and densenet121)."""
    feature_steps: int
    """Optimiser steps of the feature extractor."""
    feature_batch_size: int
    """Images in each step of the feature extractor."""
    feature_learning_rate: float
    """Largest learning rate of the feature extractor."""
    feature_augment: str
    """Augmentation while the extractor is trained, names of AUGMENTS joined by "+"."""
    reconstruct_weight: float
    """Weight of the pixel MSE: 1 makes the extractor the sparse auto-encoder used for scalars, 0 a plain classifier."""
    l1_weight: float
    """Weight of mean |features| (1e-3 in the paper's auto-encoder; 0 for the classifier)."""
    label_weight: float
    """Weight of the label loss in the extractor's loss."""
    hidden: tuple[int, ...]
    """Hidden widths of the ratio MLP (2048, 1024, 512, 256, 128 in the paper)."""
    dropout: float
    """Share of the hidden units of the ratio MLP that each training step leaves out, in [0, 1)."""
    num_steps: int
    """Optimiser steps of the ratio MLP."""
    batch_size: int
    """Fakes in each step of the ratio MLP, and as many real images."""
    learning_rate: float
    """Adam's learning rate for the ratio MLP."""
    beta1: float
    """Adam's beta1: decay of the running mean of gradients, in [0, 1)."""
    beta2: float
    """Adam's beta2: decay of the running mean of squared gradients, in [0, 1)."""
    weight_decay: float
    """Adam's weight decay (L2) on the ratio MLP; 0 = none."""
    ratio_penalty: float
    """lambda, weight of (mean ratio on fakes - 1)^2."""
    penalty_per_label: bool
    """Take the penalty's mean within each filter group instead of over the batch."""
    vicinity_drop: float | None
    """zeta in raw units, scalar labels only; null = 6 * largest label gap (and null for classes); 0 = fakes of exactly the
    real's label, whatever label is predicted for them (first version of the paper)."""
    max_redraws: int
    """Rounds in which fakes whose predicted label leaves the vicinity are redrawn."""
    pool_size: int
    """Fakes in the pool that batches are taken from (features computed once)."""
    pool_refresh_steps: int
    """Steps after which the pool is drawn anew; 0 = never."""
    eval_every_steps: int
    """Steps between evaluations of the loss on validation reals and fresh fakes; the best network is kept."""
    precision: Literal["auto", "fp32", "bf16"]
    """Arithmetic of the forward passes: auto = bf16 where the device has units for it."""
    extractor_style: Literal["plain", "published"] = field(default="plain", metadata={"left_out": True})
    """ResNets: plain = a linear head; published = a head of two hidden layers with dropout, and from 128 px on a max pooling
    after each of the first two stages."""
    feature_optimizer: Literal["adam", "sgd"] = field(default="adam", metadata={"left_out": True})
    """Of the extractor: adam, or sgd with a momentum of 0.9 (published)."""
    feature_beta1: float = field(default=0.9, metadata={"left_out": True})
    """Adam's beta1 for the extractor."""
    feature_weight_decay: float = field(default=0.0, metadata={"left_out": True})
    """Weight decay (L2) of the extractor; 1e-4 is the published one."""
    feature_schedule: Literal["onecycle", "cosine", "constant", "multistep"] = field(
        default="onecycle", metadata={"left_out": True}
    )
    """Learning rate of the extractor: up for a quarter of the steps, then down as a cosine; a cosine; constant; or a tenth
    from each of feature_milestones on (published)."""
    feature_milestones: tuple[float, ...] = field(default=(), metadata={"left_out": True})
    """Shares of feature_steps at which a multistep rate falls."""
    redraw: Literal["label", "latent"] = field(default="label", metadata={"left_out": True})
    """What a fake outside the vicinity is drawn anew with: another label and latent, or another latent (published)."""
    targets: Literal["marginal", "distinct"] = field(default="marginal", metadata={"left_out": True})
    """Real images that the extractor and the ratio MLP are trained on: marginal = each equally often; distinct = each label that
    occurs equally often, then any image of it (published for scalars)."""
    scalar_loss: Literal["absolute", "squared"] = field(default="absolute", metadata={"left_out": True})
    """Scalar labels: the label loss of the extractor, on the label normalised to [0, 1] (squared in the paper)."""
    schedule: Literal["constant", "multistep"] = field(default="constant", metadata={"left_out": True})
    """Factor of the ratio MLP's learning rate over the steps: constant; multistep = a tenth from each of the milestones on."""
    milestones: tuple[float, ...] = field(default=(), metadata={"left_out": True})
    """multistep only: shares of the steps after each of which the rate is a tenth (0.4 and 0.75 as published)."""
    flip: bool = field(default=False, metadata={"left_out": True})
    """Mirror each real image that the ratio MLP sees with probability 1/2; only where a mirrored image keeps its label."""

    def __post_init__(self) -> None:
        for name in ("feature_channels", "feature_steps", "num_steps", "eval_every_steps", "pool_size", "max_redraws"):
            require(getattr(self, name) >= 1, f"ratio.{name}", "at least 1", getattr(self, name))
        require(
            len(self.hidden) >= 1 and all(h >= 8 and h % 8 == 0 for h in self.hidden),
            "ratio.hidden",
            "multiples of 8, from 8",
            self.hidden,
        )
        self._check_extractor()
        for name in ("feature_batch_size", "batch_size"):
            require(getattr(self, name) >= 2, f"ratio.{name}", "at least 2", getattr(self, name))
        for name in ("feature_learning_rate", "learning_rate"):
            require(getattr(self, name) > 0, f"ratio.{name}", "positive", getattr(self, name))
        width, drop = self.feature_width, self.vicinity_drop
        require(width is None or width >= 1, "ratio.feature_width", "null or at least 1", width)
        require(drop is None or drop >= 0, "ratio.vicinity_drop", "null, zero or more", drop)
        require(0 <= self.dropout < 1, "ratio.dropout", "in [0, 1)", self.dropout)
        weights = ("reconstruct_weight", "l1_weight", "label_weight", "weight_decay", "ratio_penalty")
        for name in (*weights, "pool_refresh_steps"):
            require(getattr(self, name) >= 0, f"ratio.{name}", "zero or more", getattr(self, name))
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, f"ratio.{name}", "in [0, 1)", getattr(self, name))
        require(self.pool_size >= self.batch_size, "ratio.pool_size", "at least ratio.batch_size", self.pool_size)
        check_augment(self.feature_augment, "ratio.feature_augment")
        check_milestones(self.milestones, self.schedule, "ratio.milestones")

    def _check_extractor(self) -> None:
        name, weight, channels = self.extractor, self.reconstruct_weight, self.feature_channels
        if name == "teacher":
            return
        if name.startswith(("resnet", "densenet")):
            rule = f"0 for ratio.extractor {name}, which has no decoder; the auto-encoder is ratio.extractor compact"
            require(weight == 0, "ratio.reconstruct_weight", rule, weight)
            require(channels == 64, "ratio.feature_channels", f"64 for ratio.extractor {name}", channels)
        elif name != "compact":
            require(weight > 0, "ratio.reconstruct_weight", f"positive for ratio.extractor {name}", weight)
        if name == "autoencoder-v1":
            width = self.feature_width
            rule = "null or a multiple of 16 for ratio.extractor autoencoder-v1, whose features are a 4x4 map"
            require(width is None or width % 16 == 0, "ratio.feature_width", rule, width)
        style = self.extractor_style
        has = style == "plain" or name.startswith("resnet")
        require(has, "ratio.extractor_style", f"plain for ratio.extractor {name}", style)
        require(self.feature_weight_decay >= 0, "ratio.feature_weight_decay", "zero or more", self.feature_weight_decay)
        require(0 <= self.feature_beta1 < 1, "ratio.feature_beta1", "in [0, 1)", self.feature_beta1)
        check_milestones(self.feature_milestones, self.feature_schedule, "ratio.feature_milestones")


@dataclass(frozen=True, kw_only=True)
class BankConfig:
    """M1, second half, and M2: how many fakes are drawn, and which of them are kept."""

    num_fakes: int
    """M^g, processed fakes in the bank, shared evenly among the conditions."""
    subsample: bool
    """M1: rejection by the density ratio."""
    filter: bool
    """M2: drop the fakes with the largest teacher error."""
    replace: bool
    """M2: label := the teacher's prediction."""
    rho: float
    """Share of the fakes with the smallest teacher error that stays."""
    filter_scope: Literal["label", "global"]
    """Where the rho-quantile is taken: in each class or label bin, or once over all."""
    label_bin: float | None
    """Scalar labels only: width of a label bin in raw units; null for classes."""
    num_conditions: int | None
    """Scalar labels only: evenly spaced labels asked of the generator; null for classes."""
    bound_quantile: float
    """The rejection bound M is this quantile of the burn-in ratios (1 = their maximum)."""
    burn_in: int
    """Draws in each class or label bin that estimate the bound and the cutoff."""
    max_draws_factor: float
    """Cap on draws: this many times num_fakes for each selection."""
    batch_size: int
    """Fakes generated and scored at a time in the burn-in."""
    refuse_worthless: bool
    """Stop with an error when a health check says the bank is worthless."""
    block_size: int = 100
    """Fakes generated and scored at a time after it; whatever num_fakes is, the draws of a label begin with the same."""
    refill: bool = True
    """Draw on until num_fakes are kept; false = draw num_fakes once and keep what passes (published for scalars)."""
    bound: Literal["frozen", "running"] = "frozen"
    """frozen = M stays as the burn-in left it; running = each larger ratio raises it (published; quantile 1)."""
    bound_scope: Literal["group", "label"] = field(default="group", metadata={"left_out": True})
    """Where burn-in and bound are taken: in each class or label bin; label = for each of the num_conditions labels (scalars,
    published), which takes burn_in draws for each of them."""
    filter_strict: bool = field(default=False, metadata={"left_out": True})
    """Keep what is below the cutoff and not what is equal to it, and take the quantile between two errors (published)."""
    label_shares: Literal["even", "training"] = field(default="even", metadata={"left_out": True})
    """Which labels are asked of the generator: even = each class, or num_conditions evenly spaced labels, equally often; training
    = labels as often as among the training images (of numbers num_conditions quantiles), for errors that count images alike."""
    filter_by: Literal["error", "spread", "both"] = field(default="error", metadata={"left_out": True})
    """What M2's filter looks at: error = the teacher error; spread = how far the members of the teacher disagree
    (teacher.members); both = a fake must lie below the rho-quantile of each, so that fewer than the share rho stay."""
    rounds: int = field(default=1, metadata={"left_out": True})
    """Parts in which the fakes of arms with `hard` are drawn: the first plainly, each further one near those of the fakes so far
    on which a probe student and the teacher differ most. 1 = no such arms (docs/howto/hard-fakes.md)."""
    near: float = field(default=0.5, metadata={"left_out": True})
    """s of the latents z' = sqrt(1 - s^2) z + s e, e from N(0, I), that these are drawn with; a small s draws nearly the same
    image again, 1 another one of the label."""
    probe: ProbeConfig | None = field(default=None, metadata={"left_out": True, "shortened": True})
    """The probe student, a fresh one for each round; set where bank.rounds is above 1."""
    rows_per_file: int | None = field(default=None, metadata={"left_out": True})
    """Most fakes in one file of pool and bank, which are folders of such files then; null = one file each."""

    def __post_init__(self) -> None:
        require(0 < self.rho <= 1, "bank.rho", "in (0, 1]", self.rho)
        require(0.9 < self.bound_quantile <= 1, "bank.bound_quantile", "in (0.9, 1]", self.bound_quantile)
        fits = self.bound == "frozen" or self.bound_quantile == 1
        require(fits, "bank.bound_quantile", "1 where bank.bound is running", self.bound_quantile)
        for name in ("num_fakes", "burn_in", "batch_size", "block_size"):
            require(getattr(self, name) >= 1, f"bank.{name}", "at least 1", getattr(self, name))
        conditions = self.num_conditions
        require(conditions is None or conditions >= 1, "bank.num_conditions", "null or at least 1", conditions)
        require(self.max_draws_factor >= 1, "bank.max_draws_factor", "at least 1", self.max_draws_factor)
        require(self.label_bin is None or self.label_bin > 0, "bank.label_bin", "null or positive", self.label_bin)
        rows = self.rows_per_file
        require(rows is None or rows >= 1, "bank.rows_per_file", "null or at least 1", rows)
        require(self.rounds >= 1, "bank.rounds", "at least 1", self.rounds)
        require(0 < self.near <= 1, "bank.near", "above 0 and at most 1", self.near)
        rule = "set where bank.rounds is above 1, such as {net: convnet, width: 4, num_steps: 500}"
        require(self.rounds == 1 or self.probe is not None, "bank.probe", rule, self.probe)


BANK_UNSAID: dict[str, Any] = {"refill": True, "bound": "frozen", "bound_scope": "group", "filter_strict": False}
BANK_UNSAID |= {"filter_by": "error", "label_shares": "even"}
BANK_UNSAID |= {"rounds": 1, "near": 0.5, "probe": None}
"""Settings of `bank` that came later: its files leave them out at these values, and so are the same as before."""
