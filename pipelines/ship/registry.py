"""MLflow's model registry: one version for each shipped student, and the alias `champion`.

Beside pipelines.tracking the only module that knows MLflow: tracking must not fail a training, this one must fail loudly.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cgankd.config import ConfigError
from cgankd.export import worst_difference
from pipelines.files.artifacts import file_digest
from pipelines.ship.saved import PARITY, Package
from pipelines.ship.trust import FLAG, digests_of, remember
from pipelines.tracking.answers import check_answers, environment, first_patience, reason, sign_in
from pipelines.tracking.masks import masked
from pipelines.tracking.mlflow_sink import PARAMS_A_CALL, MlflowSink, key_text
from pipelines.tracking.names import git_state
from pipelines.tracking.places import is_server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

ALIAS = "champion"
FINGERPRINT = "cgankd.fingerprint"
DESCRIPTION_LETTERS = 5000
"""Room for the description of a version in MLflow's tables."""


@dataclass(frozen=True)
class Release:
    """What to register: a name, the card, tags of the version, a fingerprint that makes a repeat harmless, the settings
    that the student was made with, and exported files to keep beside it, by their path there with strokes between.
    """

    name: str
    card: Path
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    fingerprint: str
    validation: float
    higher_is_better: bool
    settings: Mapping[str, str]
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Registered:
    """A version in the registry: whether it was made now, whether it is champion, and if not, the better one's number.

    `difference` is the largest to the student's own answers on real images, after loading it back.
    """

    version: int
    fresh: bool
    champion: bool
    rival: str
    difference: float


def register(
    workdir: Path, experiment: str, student: Package, release: Release, images: Tensor, *, promote: bool
) -> Registered:
    """Log the student, register it, compare it with itself as loaded from the registry, then move the alias.

    The alias stays where it is when the champion was made from the same data and does better on validation, unless
    `promote`. Raises ConfigError where MLflow does not answer or the loaded model disagrees.
    """
    try:
        sink = MlflowSink(workdir, experiment)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"MLflow does not answer ({reason(error)}); nothing was registered, try again") from error
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it says on its own what is said here below
    # The student it is compared with answers on the processor.
    own = {"MLFLOW_TRACKING_URI": sink.uri, "MLFLOW_DEFAULT_PREDICTION_DEVICE": "cpu"}
    with environment(own | {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}):
        version, fresh, found = _version(sink.client, release.name, release.fingerprint), False, None
        if version is not None:
            kept = digests_of(workdir, _title(release.name, version))
            # One of a server that is not known is somebody else's, or of a copy of this folder: its files are not opened.
            if kept or not is_server(sink.uri):
                with suppress(Broken):  # it is made again
                    found = _compare(release.name, version, student, images, kept)
        if version is None or found is None:
            version, fresh = _log(sink, workdir, student, release, images[:2]), True
            found = _compare(release.name, version, student, images, ())
        difference, digest = found
        remember(workdir, digest, _title(release.name, version))
        champion, rival = _alias(sink.client, release, version, promote)
    return Registered(version, fresh, champion, rival, difference)


def _version(client: MlflowClient, name: str, fingerprint: str) -> int | None:
    """The version registered before from the very same artifacts."""
    for found in client.search_model_versions(f"name = '{name}'"):
        if found.tags.get(FINGERPRINT) == fingerprint and found.status == "READY":
            return int(found.version)
    return None


def signature(student: Package) -> ModelSignature:
    """float32 pixels [-1, C, S, S] to float32 answers [-1, A]."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    info, number = student.info, np.dtype("float32")
    pixels = TensorSpec(number, (-1, info.channels, info.image_size, info.image_size))
    return ModelSignature(Schema([pixels]), Schema([TensorSpec(number, (-1, student.answer.num_answers))]))


def _log(sink: MlflowSink, workdir: Path, student: Package, release: Release, example: Tensor) -> int:
    import mlflow
    import mlflow.pytorch

    info = student.info
    facts: dict[str, Any] = {
        "columns": list(student.answer.names),
        "pixel_levels": [0, 255],
        "label_unit": info.label_unit,
        "source": info.source,
    }
    tags = {"stage": "ship", **git_state(workdir), **release.tags}
    with (
        tempfile.TemporaryDirectory() as beside,
        mlflow.start_run(experiment_id=sink.experiment_id, run_name="ship", tags=tags),
    ):
        mlflow.log_artifact(str(release.card))
        mlflow.log_metrics(dict(release.metrics))
        settings = [(key_text(key), value[:6000]) for key, value in release.settings.items()]
        for i in range(0, len(settings), PARAMS_A_CALL):
            mlflow.log_params(dict(settings[i : i + PARAMS_A_CALL]))
        logged = mlflow.pytorch.log_model(
            student.model,
            name="student",
            signature=signature(student),
            input_example=example.float().numpy(),
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
            registered_model_name=release.name,
            metadata=facts,
            extra_files=_laid(release.files, Path(beside)) or None,
        )
    version = int(logged.registered_model_version)
    text = release.card.read_text(encoding="utf-8")
    client = sink.client
    client.update_registered_model(release.name, f"Students made by cgankd; `{ALIAS}` is the one to use.")
    client.update_model_version(release.name, str(version), text[:DESCRIPTION_LETTERS])
    for key, value in {**release.tags, "validation": repr(release.validation)}.items():
        client.set_model_version_tag(release.name, str(version), key, value[:DESCRIPTION_LETTERS])
    # Last, for it says that all the rest is there.
    client.set_model_version_tag(release.name, str(version), FINGERPRINT, release.fingerprint)
    return version


def _laid(files: Mapping[str, Path], folder: Path) -> list[str]:
    """Copies of files by their path in `folder`, as MLflow takes a folder whole; returns what lies at its top."""
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    return sorted(str(path) for path in folder.iterdir())


class Broken(ConfigError):
    """The files of a version are not those that were shipped, or no model."""


def _opened(title: str, digests: Collection[str], folder: str) -> tuple[Any, str]:
    """A version as MLflow loads it, fetched into a folder, and the digest of its files, one of `digests` where there are any.

    Raises Broken where it is not, or cannot be loaded; ConfigError where a server does not give it.
    """
    import mlflow
    import mlflow.artifacts
    import mlflow.pyfunc

    try:
        # What is checked and what is opened are the same files, whatever the server says next.
        place = mlflow.artifacts.download_artifacts(title, dst_path=folder)
    except Exception as error:  # whatever a store raises
        kind = ConfigError if is_server(mlflow.get_tracking_uri()) else Broken
        raise kind(f"the files of {title} cannot be read ({reason(error)}); run `cgankd ship` again") from error
    digest = file_digest(Path(place))
    if digests and digest not in digests:
        raise Broken(f"the files of {title} are not those that were shipped from this folder; run `cgankd ship` again")
    try:
        return mlflow.pyfunc.load_model(place), digest
    except Exception as error:  # damaged files fail in a dozen ways; each means the same here
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise Broken(f"the files of {title} are damaged ({why}); run `cgankd ship` again") from error


def _title(name: str, version: int) -> str:
    return f"models:/{name}/{version}"


def _compare(name: str, version: int, student: Package, images: Tensor, own: Collection[str]) -> tuple[float, str]:
    """The largest difference to the student, and the digest of the files in the registry. Raises Broken as `_opened`."""
    with tempfile.TemporaryDirectory() as folder:
        loaded, digest = _opened(_title(name, version), own, folder)
    answers = torch.from_numpy(loaded.predict(images.float().numpy()))
    worst = worst_difference(answers, student.model.run(images), student.info.label_period)
    if not worst <= PARITY * student.answer.scale:
        raise ConfigError(
            f"version {version} of {name} differs from the student by {worst:.3g} on real images (allowed:"
            f" {PARITY * student.answer.scale:.3g}); the alias {ALIAS} was not moved"
        )
    return worst, digest


def _alias(client: MlflowClient, release: Release, version: int, promote: bool) -> tuple[bool, str]:
    """Point the alias at the version, or return the version that keeps it."""
    holder = client.get_registered_model(release.name).aliases.get(ALIAS)
    if holder is not None and int(holder) != version and not promote:
        tags = client.get_model_version(release.name, str(holder)).tags
        if tags.get("dataset") == release.tags["dataset"] and "validation" in tags:
            gain = release.validation - float(tags["validation"])
            if gain < 0 if release.higher_is_better else gain > 0:
                return False, str(holder)
    client.set_registered_model_alias(release.name, ALIAS, str(version))
    return True, ""


def serve_command(
    workdir: Path, name: str, port: int, uri: str, *, hosts: Sequence[str] = (), trust: bool = False
) -> tuple[list[str], dict[str, str]]:
    """The command that answers HTTP requests with the champion on 127.0.0.1, and its environment.

    Raises ConfigError where there is none, or a server keeps it and it is not of this folder, unless `trust`.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    sign_in()
    try:
        check_answers(uri)
        with environment(first_patience()):
            version = MlflowClient(tracking_uri=uri).get_model_version_by_alias(name, ALIAS).version
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise ConfigError(f"there is no {ALIAS} of {name} in the registry; run `cgankd ship` first") from error
        raise ConfigError(f"MLflow at {masked(uri)} does not answer ({reason(error)}); try again") from error
    except Exception as error:  # whatever a driver raises
        raise ConfigError(f"MLflow at {masked(uri)} does not answer ({reason(error)}); try again") from error
    title = _title(name, int(version))
    digests = [] if trust else digests_of(workdir, title)
    if is_server(uri) and not trust and not digests:
        raise ConfigError(
            f"version {version} of {name} was not shipped from this folder, and a model is a program that runs with your"
            f" rights; if you know who shipped it, add {FLAG}"
        )
    command = [sys.executable, "-m", "pipelines.ship.serving", str(port), title, ",".join(digests), *hosts]
    quiet = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    return command, quiet | os.environ | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}


@dataclass(frozen=True)
class Served:
    """A model out of the registry: float32 pixels [B, C, S, S] to answers [B, A], the shape (C, S, S), and its version."""

    predict: Callable[[Any], Any]
    shape: tuple[int, ...]
    version: str


def load_served(title: str, digests: str) -> Served:
    """A version of the registry that MLFLOW_TRACKING_URI names, its files being those of one of `digests`, which have commas
    between (empty: whatever they are).

    Raises ConfigError where they are not or cannot be loaded, or the model takes no images.
    """
    with tempfile.TemporaryDirectory() as folder:
        model, _ = _opened(title, [digest for digest in digests.split(",") if digest], folder)
    try:
        shape = tuple(model.metadata.signature.inputs.inputs[0].shape)
    except (AttributeError, IndexError, TypeError):  # MLflow loads a model whose signature is gone or of another make
        shape = ()
    if len(shape) != 4:
        raise ConfigError(f"{title} is no model that takes images; `cgankd ship` makes one")
    return Served(model.predict, shape[1:], title.rpartition("/")[2])
