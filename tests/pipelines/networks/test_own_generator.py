"""`cgan.file` through the real stages cgan -> ratio -> bank, for every kind of generator, and what later stages notice."""

from __future__ import annotations

import importlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from cgankd.bank import build
from cgankd.config import ConfigError, config_from_dict
from cgankd.data.store.banks import read_pool_images
from cgankd.data.store.datasets import read_info, read_split
from cgankd.gan.own_images import ImageDraw
from cgankd.labels.kernel import Kernel
from cgankd.labels.task import CircleTask
from cgankd.labels.vicinity import HardVicinity
from cgankd.rng import generator
from cgankd.types import DatasetInfo, Split
from pipelines.networks import own_generator
from pipelines.networks.generator import load_draw
from pipelines.project.doctor import look_at_generator
from pipelines.runtime.opening import open_context
from pipelines.search.pool import Remembered
from tests.conftest import preset
from tests.gan.test_own_program import torchscript
from tests.gan.toys import class_toy
from tests.tiny import tiny, write_params


class Blob(torch.nn.Module):
    """z [B, 16] and label [B] of any type to images [B, C, 16, 16] in [-1, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.body = channels, torch.nn.Linear(16, 256 * channels)

    def forward(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.body(z + 0.1 * label.float().unsqueeze(1))).view(-1, self.channels, 16, 16)


def settings(name: str) -> dict[str, Any]:
    values = tiny(name)
    values["teacher"] |= {"num_steps": 10, "width": 4}
    values["ratio"] |= {"feature_steps": 4, "num_steps": 4, "pool_refresh_steps": 2, "eval_every_steps": 2}
    values["bank"] |= {"num_fakes": 20, "burn_in": 10, "block_size": 8, "bound_quantile": 0.95}
    values["tracking"]["mlflow"] = False
    if name == "chairs":
        values["cgan"]["label_input"] |= {"image_steps": 3, "label_steps": 3}
        values["bank"] |= {"num_conditions": 10}
    return values


@pytest.fixture(scope="module", params=["digits", "chairs"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A folder with data set and teacher of either task."""
    folder = tmp_path_factory.mktemp(request.param) / "made"
    folder.mkdir()
    write_params(folder, settings(request.param))
    for stage in ("prepare", "teacher"):
        run(folder, stage)
    return request.param, folder


@pytest.fixture()
def work(made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CGANKD_THREADS", "1")
    shutil.copytree(made[1], tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def run(folder: Path, stage: str, *overrides: str) -> str:
    text = io.StringIO()
    with open_context(stage, overrides, folder, console=Console(file=text, width=200)) as ctx:
        importlib.import_module(f"pipelines.stages.{stage}").run(ctx)
    return text.getvalue()


def fakes_of(folder: Path, copies: int) -> Split:
    """Many images of every label of the training split, each a little different."""
    train = read_split(folder / "artifacts/dataset.h5", "train")
    image, label = train.images.repeat(copies, 1, 1, 1), train.labels.repeat(copies)
    noise = torch.randint(0, 40, image.shape, generator=generator("noise"))
    return Split((image.int() // 2 + noise).to(torch.uint8), label)


def write_own(folder: Path, kind: str) -> str:
    """A generator of one kind, and its name for cgan.file."""
    info = read_info(folder / "artifacts/dataset.h5")
    torch.manual_seed(0)
    if kind == "torchscript":
        (folder / "own.pt").write_bytes(torchscript(Blob(info.channels).eval()))
        return "own.pt"
    if kind == "hdf5":
        fakes = fakes_of(folder, 30)
        with h5py.File(folder / "own.h5", "w") as file:
            file["images"], file["labels"] = fakes.images.numpy(), fakes.labels.numpy()
        return "own.h5"
    fakes = fakes_of(folder, 3)
    fakes = fakes.take(torch.arange(min(600, len(fakes))))
    (folder / "own").mkdir()
    lines = ["path,label"]
    for row, (image, label) in enumerate(zip(fakes.images, fakes.labels.tolist(), strict=True)):
        name = info.class_names[label] if info.class_names else str(label)
        Image.fromarray(image[0].numpy()).save(folder / "own" / f"{row}.png")
        lines.append(f"{row}.png,{name}")
    (folder / "own/labels.csv").write_text("\n".join(lines))
    return "own"


@pytest.mark.parametrize("kind", ["torchscript", "hdf5"])
def test_own_generator_through_ratio_and_bank(work: Path, kind: str) -> None:
    own = write_own(work, kind)
    wide = [] if read_info(work / "artifacts/dataset.h5").class_names else ["cgan.file_radius=30.0"]
    said = run(work, "cgan", f"cgan.file={own}", *wide)
    assert f"cgan.file {own}:" in said and "no GAN is trained" in said
    config = json.loads((work / "artifacts/cgan.config.json").read_text())
    assert config["own"]["file"] == own and config["health"]["fake"] > 0
    metrics = json.loads((work / "metrics/cgan.json").read_text())
    assert metrics["diversity.fake"] > 0 and "health.diversity.ok" in metrics and "loss_d" not in metrics
    assert (work / "plots/cgan/gan.csv").read_text() == "step,loss_d,loss_g\n"
    assert (work / "plots/cgan/samples.png").exists()

    # From here on artifacts/ is enough.
    (work / own).rename(work / f"moved-{own}")
    run(work, "ratio")
    run(work, "bank")
    pool = work / "artifacts/pool.h5"
    with h5py.File(pool) as file:
        num, asked = len(file["asked"]), file["asked"][:]
    images = read_pool_images(pool, torch.arange(num))
    assert num >= 20
    if kind == "hdf5":
        kept = load_file(work / "artifacts/cgan.safetensors")
        place = {bytes(image.numpy().tobytes()): row for row, image in enumerate(kept["images"])}
        rows = [place[bytes(image.numpy().tobytes())] for image in images]
        assert len(set(rows)) == num, "no image comes twice"
        off = abs(kept["labels"][rows].double().numpy() - asked)
        assert float(off.max()) <= config["own"]["radius"]


def test_a_changed_file_is_noticed_and_a_folder_is_read(work: Path) -> None:
    own = write_own(work, "folder")
    wide = [] if read_info(work / "artifacts/dataset.h5").class_names else ["cgan.file_radius=30.0"]
    run(work, "cgan", f"cgan.file={own}", *wide)
    assert len(load_file(work / "artifacts/cgan.safetensors")["labels"]) == len(list((work / own).glob("*.png")))
    assert {f.level for f in look_at_generator(work)} == {"ok"}
    (work / own / "0.png").unlink()
    (finding,) = look_at_generator(work)
    assert finding.level == "warning" and "`dvc repro -s -f cgan`, then `dvc repro`" in finding.cure
    with pytest.raises(ConfigError, match=r"cgan.file 'own' has changed since .*run `cgankd cgan` again"):
        run(work, "ratio")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.pt", "does not exist"),
        ("params.yaml", r"must be a folder or end in one of \.pt"),
        ("bad.pt", "save it again"),
    ],
)
def test_what_is_no_generator_ends_the_stage(work: Path, name: str, words: str) -> None:
    (work / "bad.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=rf"cgan\.file '{name}' .*{words}"):
        run(work, "cgan", f"cgan.file={name}")
    assert not (work / "artifacts/cgan.safetensors").exists()


def test_a_program_that_does_not_fit_ends_the_stage(work: Path) -> None:
    (work / "own.pt").write_bytes(torchscript(Blob(1).eval()))
    with pytest.raises(ValueError, match=r"cannot be called with z float32 \[1, 7\].*cgan.z_dim"):
        run(work, "cgan", "cgan.file=own.pt", "cgan.z_dim=7")


def test_exported_programs_are_told_by_their_ending(work: Path) -> None:
    info = read_info(work / "artifacts/dataset.h5")
    (work / "own.pt2").write_bytes(exported_blob(info.channels, torch.int64 if info.class_names else torch.float32))
    run(work, "cgan", "cgan.file=own.pt2")
    with open_context("ratio", (), work, console=Console(file=io.StringIO())) as ctx:
        task = importlib.import_module("cgankd.labels.task").make_task(info, ctx.cfg)
    label = task.conditions(torch.zeros(1))[:4]
    draw = load_draw(work / "artifacts/cgan.safetensors", info, task)
    assert torch.equal(draw(label, generator("z")), draw(label, generator("z")))
    assert draw(label, generator("z")).shape == (len(label), info.channels, 16, 16)


def exported_blob(channels: int, label_dtype: torch.dtype) -> bytes:
    """The program for labels of one type."""
    stream = io.BytesIO()
    batch = {0: torch.export.Dim("batch")}
    label = torch.zeros(3, dtype=label_dtype)
    program = torch.export.export(Blob(channels).eval(), (torch.zeros(3, 16), label), dynamic_shapes=(batch, batch))
    torch.export.save(program, stream)
    return stream.getvalue()


def test_blocks_remembered_by_the_search_are_those_of_the_stage(tmp_path: Path) -> None:
    """Some blocks are there already: the others must be dealt as if they had been drawn in turn."""
    train, task = class_toy(200)
    gen = generator("images")
    images = torch.randint(0, 256, train.images.shape, generator=gen, dtype=torch.uint8)

    def scorer() -> build.Scorer:
        draw = ImageDraw(Split(images, train.labels), task.filter_groups, 0.0, reuse=False, source="own")
        return build.Scorer(
            draw,
            lambda x, y: torch.ones(len(y)),
            lambda x: torch.zeros(len(x), 2),
            task,  # noqa: E731
        )

    def blocks(score: build.ScoreFn, which: list[int]) -> dict[int, torch.Tensor]:
        label = torch.zeros(10, dtype=torch.int64)
        return {shard: score(label, generator("bank", 0, shard), shard).images for shard in which}

    plain = blocks(scorer(), list(range(5)))
    assert len({bytes(x.numpy().tobytes()) for block in plain.values() for x in block}) == 50
    blocks(Remembered(scorer(), tmp_path), [0, 1, 2])
    remembered = Remembered(scorer(), tmp_path)
    again = blocks(remembered, list(range(5)))
    assert remembered.drawn == 20
    for shard, block in plain.items():
        assert torch.equal(again[shard], block)
    assert all(torch.equal(block, plain[shard]) for shard, block in blocks(scorer(), list(range(5))).items())


def test_images_on_a_circle_of_labels_serve_across_its_seam() -> None:
    label_N = torch.linspace(0.0, 350.0, 36)
    kernel = Kernel(5.0, 5.0, 10.0, 10.0)
    cfg = config_from_dict(preset("chairs")).cgan
    assert own_generator._radius(cfg, HardVicinity(label_N, kernel, 0.0, 360.0)) == 5.0
    assert own_generator._radius(cfg, HardVicinity(label_N, kernel, 0.0, 360.0, 360.0)) == 5.0
    info = DatasetInfo("scalar", "toy", "", 1, 4, (0.5,), (0.2,), (), 0.0, 360.0, 360.0, "circle")
    images = torch.arange(36, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    own = own_generator.Own("images", "fakes", "", 6.0)
    assert cfg.vicinity is not None
    task = CircleTask(info, cfg.vicinity, 30.0, 36)
    draw = own_generator._images({"images": images, "labels": label_N}, own, info, task, reuse=True)
    assert draw(torch.tensor([357.0, 2.0, 183.0]), generator("z"))[:, 0, 0, 0].tolist() == [0, 0, 18]
