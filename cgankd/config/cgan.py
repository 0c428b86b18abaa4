"""Settings of the conditional GAN: its networks, its training, the label input of scalars, and a generator of the user's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cgankd.config.data import check_augment
from cgankd.config.guides import GuidesConfig
from cgankd.config.settings import check_milestones, require


@dataclass(frozen=True, kw_only=True)
class VicinityConfig:
    """CcGAN's vicinity for scalar labels (arXiv 2011.07466); all radii in raw label units."""

    kind: Literal["soft", "hard"]
    """soft = SVDL weights exp(-nu (y_i - y)^2); hard = HVDL interval +-kappa."""
    label_sigma: float | None
    """Sd of the noise on target labels; null = 1.06 sd(y) N^(-1/5)."""
    kappa: float | None
    """Hard radius; null = kappa_multiplier * gap quantile."""
    kappa_multiplier: float
    """m_k of the kernel rule."""
    gap_quantile: float
    """Quantile of the gaps between neighbouring distinct labels used by the rule; 1 = the largest gap."""
    weight_floor: float
    """Soft weights under this are cut (1e-3 in the paper)."""
    draw: Literal["proportional", "uniform"]
    """Partners of a soft vicinity drawn in proportion to their weights, or uniformly and weighted (as published)."""
    ends: Literal["clip", "cut"] = field(default="clip", metadata={"left_out": True})
    """At the ends of the label range: clip = what is drawn beyond an end becomes that end; cut = the interval that labels of
    fakes are drawn from is cut there, and targets may lie beyond it (as published). No effect with data.label_period."""
    least: int | None = field(default=None, metadata={"left_out": True})
    """Real images within kappa of every target: kappa grows to the distance of the least-th nearest one where fewer are, and
    the soft weights with it (adaptive vicinity, arXiv 2508.01725); null = one kappa for all targets."""

    def __post_init__(self) -> None:
        for name in ("label_sigma", "kappa"):
            value = getattr(self, name)
            require(value is None or value > 0, f"cgan.vicinity.{name}", "null or positive", value)
        require(self.kappa_multiplier > 0, "cgan.vicinity.kappa_multiplier", "positive", self.kappa_multiplier)
        require(0 < self.gap_quantile <= 1, "cgan.vicinity.gap_quantile", "in (0, 1]", self.gap_quantile)
        require(0 < self.weight_floor < 1, "cgan.vicinity.weight_floor", "between 0 and 1", self.weight_floor)
        require(self.least is None or self.least >= 1, "cgan.vicinity.least", "null or at least 1", self.least)


@dataclass(frozen=True, kw_only=True)
class LabelInputConfig:
    """The improved label input of CcGAN: net 1 x -> h -> y, net 2 y -> h."""

    width: int
    """Channels of the first stage of net 1."""
    image_steps: int
    """Steps of net 1 on images."""
    label_steps: int
    """Steps of net 2 on labels."""
    batch_size: int
    """Images (net 1) or labels (net 2) in each step."""
    learning_rate: float
    """Learning rate of both nets, the largest one of the schedule."""
    noise: float
    """Sd of the noise on normalised labels while net 2 is trained (0.2 in the paper)."""
    net: Literal["compact", "resnet18", "resnet34", "resnet50"] = field(default="compact", metadata={"left_out": True})
    """Net 1: the project's own, or the authors' ResNet, whose every stage halves the resolution and whose head has two
    normed layers (ResNet-34 in the paper; its channels do not follow `width`)."""
    optimizer: Literal["adam", "sgd"] = field(default="adam", metadata={"left_out": True})
    """adam, or sgd with a momentum of 0.9 (published)."""
    weight_decay: float = field(default=0.0, metadata={"left_out": True})
    """Weight decay (L2) on both nets; 1e-4 is the published one."""
    schedule: Literal["cosine", "multistep"] = field(default="cosine", metadata={"left_out": True})
    """cosine, or a tenth of the rate from each milestone on (published)."""
    image_milestones: tuple[float, ...] = field(default=(), metadata={"left_out": True})
    """Shares of image_steps at which a multistep rate falls; 0.3 and 0.6 are epochs 60 and 120 of 200."""
    label_milestones: tuple[float, ...] = field(default=(), metadata={"left_out": True})
    """Shares of label_steps at which a multistep rate falls; 0.3, 0.5 and 0.7 are epochs 150, 250 and 350 of 500."""
    scalar_loss: Literal["absolute", "squared"] = field(default="absolute", metadata={"left_out": True})
    """What both nets learn by: the absolute or the squared error of the normalised label (published: squared)."""
    augment: str = field(default="none", metadata={"left_out": True})
    """Augmentation of the images of net 1, names of AUGMENTS joined by "+"; flip is published for UTKFace."""
    label_batch_size: int | None = field(default=None, metadata={"left_out": True})
    """Labels in each step of net 2; null = batch_size."""
    spread: bool = field(default=True, metadata={"left_out": True})
    """Scale h so that its live units have an sd of one over the labels; false = as net 1's head fixes it (published)."""

    def __post_init__(self) -> None:
        for name in ("width", "image_steps", "label_steps", "batch_size"):
            require(getattr(self, name) >= 1, f"cgan.label_input.{name}", "at least 1", getattr(self, name))
        require(self.learning_rate > 0, "cgan.label_input.learning_rate", "positive", self.learning_rate)
        for name in ("noise", "weight_decay"):
            require(getattr(self, name) >= 0, f"cgan.label_input.{name}", "zero or more", getattr(self, name))
        check_augment(self.augment, "cgan.label_input.augment")
        for name in ("image_milestones", "label_milestones"):
            check_milestones(getattr(self, name), self.schedule, f"cgan.label_input.{name}")
        labels = self.label_batch_size
        require(labels is None or labels >= 1, "cgan.label_input.label_batch_size", "null or at least 1", labels)


@dataclass(frozen=True, kw_only=True)
class CganConfig(GuidesConfig):
    """The conditional GAN (class labels) or CcGAN (scalar labels): its nets, its training, or the user's own generator."""

    width: int
    """Channels of generator and discriminator at full resolution (ch)."""
    z_dim: int
    """Length of the latent z."""
    embed_dim: int
    """Length of the label embedding h."""
    num_steps: int
    """Generator steps of the whole training."""
    d_steps: int
    """Discriminator steps before each generator step."""
    batch_size: int
    """Images in each step, fakes and as many real ones for the discriminator; an even number."""
    lr_g: float
    """Adam's learning rate for the generator."""
    lr_d: float
    """Adam's learning rate for the discriminator."""
    beta1: float
    """Adam's beta1: decay of the running mean of gradients, in [0, 1)."""
    beta2: float
    """Adam's beta2: decay of the running mean of squared gradients, in [0, 1)."""
    ema: float
    """Decay of the generator's moving average at each step, in [0, 1); the averaged generator draws the fakes."""
    ema_start: int
    """Generator step at which the average starts."""
    diffaugment: str
    """Comma-separated out of color, translation, cutout; empty = off."""
    cutout_share: float
    """Side of DiffAugment's cutout as a share of the image."""
    diversity_weight: float
    """Weight of the diversity floor w * relu(tau - d) / tau in the generator loss; 0 = off."""
    precision: Literal["auto", "fp32", "bf16"]
    """Arithmetic of the forward passes: auto = bf16 where the device has units for it."""
    vicinity: VicinityConfig | None = field(metadata={"shortened": True})
    """Which real labels count as near a label asked for. Scalar labels only; null for classes."""
    label_input: LabelInputConfig | None = field(metadata={"shortened": True})
    """The training of the label embedding h. Scalar labels only; null for classes."""
    arch: Literal["compact", "sngan", "sagan", "biggan", "biggan-deep"] = "compact"
    """Generator and discriminator: small nets for CPUs, or those of arXiv 1802.05957, 1805.08318 and 1809.11096 (biggan-deep:
    its appendix)."""
    init: Literal["ortho", "n02", "xavier"] = "ortho"
    """First weights of both nets: orthogonal, N(0, 0.02^2), or uniform by Glorot and Bengio as in the authors' CcGAN nets."""
    attention: int | None = None
    """Resolution in pixels of the self-attention; null = half the image, at most 32, for sagan, and none for biggan and
    biggan-deep."""
    shared_embed: bool = True
    """biggan: h and a part of z drive each norm (hierarchical latent); false = h alone does, and z enters at 4x4 only."""
    spectral_g: bool = True
    """Spectral norm in the generator too (the discriminator always has it)."""
    accumulate: int = 1
    """Micro-batches that a batch is cut into, each with its own backward pass: less memory, the same step."""
    augment: str = "none"
    """Augmentation of the real images alone, names of AUGMENTS joined by "+": unlike DiffAugment's it is to show in the fakes,
    so only what leaves the label true."""
    file: str | None = None
    """A generator of the user's own, so that no GAN is trained: a TorchScript file (.pt), a torch.export program (.pt2),
    a folder of labelled images, or an HDF5 file with `images` and `labels`; null = train one."""
    file_radius: float | None = None
    """Scalar labels: images of cgan.file serve labels at most this far from their own (raw units); null = the kernel's kappa."""
    targets: Literal["marginal", "distinct"] = field(default="marginal", metadata={"left_out": True})
    """Which labels the GAN is trained for: marginal = those of training images, each image equally often; distinct = each label
    that occurs equally often, however many images it has (published for scalars). Net 2 of the label input learns them too."""

    d_style: Literal["pooled", "flat"] = field(default="pooled", metadata={"left_out": True})
    """Discriminator of sngan and sagan: pooled = blocks that grow in their second convolution, and a sum over places (arXiv
    1802.05637); flat = blocks that grow in their first one, and a head on every unit of the last map (the authors' CcGAN)."""
    spectral_gains: bool = field(default=True, metadata={"left_out": True})
    """Spectral norm in the gain and shift maps of the generator's norms too, where spectral_g has it in the rest."""
    loss: Literal["hinge", "vanilla"] = field(default="hinge", metadata={"left_out": True})
    """The adversarial loss, weighted by the vicinity: hinge (as published), or vanilla = cross-entropy of real and fake."""
    embed_std: float = field(default=1.0, metadata={"left_out": True})
    """Class labels: sd of the generator's first label embeddings. The gains of its norms are a map of them: with `init: n02` and
    no norm on that map they begin with an sd of 0.02 * embed_std * sqrt(embed_dim) (published: 0.02)."""
    ema_ramp: bool = field(default=True, metadata={"left_out": True})
    """Keep the average's decay below (1 + t) / (10 + t), t steps after ema_start; false = `ema` from there on (published)."""
    stop_collapsed: bool = field(default=False, metadata={"left_out": True})
    """End the training, without a result, where the GAN is seen to have collapsed: fakes of a label nearly alike, fakes that do
    not follow the label, or a discriminator that tells all right. false = it is only said and reported, as a GAN may recover."""

    def __post_init__(self) -> None:
        require(self.embed_std > 0, "cgan.embed_std", "positive", self.embed_std)
        for name in ("width", "z_dim", "embed_dim", "num_steps", "d_steps", "accumulate"):
            require(getattr(self, name) >= 1, f"cgan.{name}", "at least 1", getattr(self, name))
        require(self.batch_size >= 4 and self.batch_size % 2 == 0, "cgan.batch_size", "even, from 4", self.batch_size)
        for name in ("lr_g", "lr_d"):
            require(getattr(self, name) > 0, f"cgan.{name}", "positive", getattr(self, name))
        for name in ("beta1", "beta2", "ema"):
            require(0 <= getattr(self, name) < 1, f"cgan.{name}", "in [0, 1)", getattr(self, name))
        for name in ("ema_start", "diversity_weight"):
            require(getattr(self, name) >= 0, f"cgan.{name}", "zero or more", getattr(self, name))
        require(0 <= self.cutout_share <= 1, "cgan.cutout_share", "in [0, 1]", self.cutout_share)
        require(
            self.batch_size % (2 * self.accumulate) == 0,
            "cgan.accumulate",
            f"so small that cgan.batch_size ({self.batch_size}) makes that many micro-batches of an even size",
            self.accumulate,
        )
        self._check_nets()
        self.check_guides()
        radius = self.file_radius
        require(radius is None or radius > 0, "cgan.file_radius", "null or positive", radius)
        require(self.file is None or bool(self.file.strip()), "cgan.file", "null or a path", self.file)
        known = {"color", "translation", "cutout"}
        parts = [p for p in self.diffaugment.split(",") if p]
        require(set(parts) <= known, "cgan.diffaugment", f"made of {sorted(known)}", self.diffaugment)

    def _check_nets(self) -> None:
        size = self.attention
        attends = self.arch in ("sagan", "biggan", "biggan-deep")
        rule = f"null with cgan.arch {self.arch} (sagan, biggan, biggan-deep have it)"
        require(size is None or attends, "cgan.attention", rule, size)
        flat = self.d_style == "flat"
        require(
            not flat or self.arch in ("sngan", "sagan"), "cgan.d_style", f"pooled with cgan.arch {self.arch}", "flat"
        )
        shares = self.arch != "biggan-deep" or self.shared_embed
        require(shares, "cgan.shared_embed", "true with cgan.arch biggan-deep", self.shared_embed)
        power = size is None or (size >= 8 and size & (size - 1) == 0)
        require(power, "cgan.attention", "null or a power of two from 8", size)
        # The latent is cut into at most seven parts, for the start and for each of the blocks of 256-pixel images.
        split = self.arch == "biggan" and self.shared_embed
        require(not split or self.z_dim >= 7, "cgan.z_dim", "at least 7 with cgan.arch biggan", self.z_dim)
