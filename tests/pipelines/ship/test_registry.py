"""The model registry on a real SQLite store, the model card, and a real HTTP request to the served champion."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import mlflow.artifacts
import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from scipy import stats

from cgankd.config import ConfigError
from cgankd.export import worst_difference
from pipelines.files.made import note_made
from pipelines.files.made_with import changed_since
from pipelines.files.params import load_config
from pipelines.ship.predict import ask_server, open_predictor
from pipelines.ship.registry import load_served, serve_command
from pipelines.ship.release import Shipped, ship
from pipelines.ship.saved import Finished, load_package, parity_images
from pipelines.ship.trust import remember
from pipelines.tracking.mlflow_sink import environment
from pipelines.tracking.moved import StoreMoved, repair
from pipelines.tracking.places import store_uri
from tests.conftest import ROOT
from tests.pipelines.finished import COUNTS, POOL, SELECTED, finished

NAME = "digits-student"
SERVER_WAIT_S = 180.0


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, Shipped]:
    """A finished folder whose student is registered."""
    folder = finished(tmp_path_factory.mktemp("shipped"))
    shutil.copyfile(empty_store, folder / "mlflow.db")
    with environment({"MLFLOW_TRACKING_URI": ""}):
        return folder, put(folder)


def put(folder: Path, *, promote: bool = False, licence: str | None = None) -> Shipped:
    return ship(folder, name=None, licence=licence, level=0.9, promote=promote)


def client(folder: Path) -> MlflowClient:
    return MlflowClient(store_uri(folder))


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("CGANKD_STORE_WAIT", "600")  # a busy machine is no store that is away


def test_the_champion_is_the_student(shipped: tuple[Path, Shipped]) -> None:
    folder, done = shipped
    assert done.registered.fresh and done.registered.champion and done.registered.version == 1
    with environment({"MLFLOW_TRACKING_URI": store_uri(folder)}):
        model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    images = torch.randint(256, (5, 1, 16, 16), dtype=torch.uint8)
    want = load_package(folder / "artifacts/student.safetensors").model.run(images)
    assert np.abs(model.predict(images.float().numpy()) - want.numpy()).max() <= 1e-6
    signature = model.metadata.signature
    assert signature.inputs.inputs[0].shape == (-1, 1, 16, 16) and signature.outputs.inputs[0].shape == (-1, 3)
    assert model.metadata.metadata["columns"] == ["ant", "bee", "cat"]
    assert model.input_example.shape == (2, 1, 16, 16)


def test_version_and_run_carry_card_and_lineage(shipped: tuple[Path, Shipped]) -> None:
    folder, done = shipped
    version = client(folder).get_model_version_by_alias(NAME, "champion")
    assert version.description == done.card.read_text()
    assert version.tags["arm"] == "filter" and version.tags["fakes"] == str(SELECTED)
    assert float(version.tags["validation"]) == 60.0 and len(version.tags["dataset"]) == 64
    assert "model_card.md" in [file.path for file in client(folder).list_artifacts(version.run_id)]
    run = client(folder).get_run(version.run_id)
    # The teacher of this folder is half as wide as the preset says.
    assert run.data.params["teacher.width"] == "16" and load_config(folder / "params.yaml").teacher.width == 32
    said = changed_since(folder, "student.safetensors")
    assert said is not None and "teacher.width 16, params.yaml says 32" in said
    assert run.data.metrics["test"] == 52.0 and run.data.tags["stage"] == "ship" and run.info.status == "FINISHED"


def test_card_says_where_the_student_comes_from(shipped: tuple[Path, Shipped]) -> None:
    card = shipped[1].card.read_text()
    assert f"{COUNTS['train']} training, {COUNTS['val']} validation, {COUNTS['test']} test" in card
    assert f"{SELECTED} fakes out of {POOL} scored draws" in card and "subsample, filter; rho = 0.8" in card
    assert "CC BY 4.0" in card and "students [0, 1, 2]; this one is 1" in card
    low, high = stats.t.interval(0.95, 2, np.mean([50, 52, 57]), stats.sem([50, 52, 57]))
    assert f"53.00 [{low:.2f}, {high:.2f}] | +2.00 [+0.50, +3.50]" in card
    assert "split-conformal region at 90 %" in card and "40 validation images" in card


def test_shipping_twice_makes_one_version(shipped: tuple[Path, Shipped]) -> None:
    folder, _ = shipped
    again = put(folder).registered
    assert not again.fresh and again.version == 1 and again.champion
    assert len(client(folder).search_model_versions(f"name = '{NAME}'")) == 1


def test_a_better_champion_of_the_same_data_stays(shipped: tuple[Path, Shipped], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(shipped[0], folder)
    finished(folder, student_seed=8, val=65.0)
    card = (folder / "artifacts/model_card.md").read_text()
    with pytest.raises(StoreMoved, match="cgankd doctor --repair"):
        put(folder, licence="CC0")
    assert (folder / "artifacts/model_card.md").read_text() == card
    mended = repair(folder)
    assert mended is not None and mended.changed["model_versions"] == mended.changed["logged_models"] == 1
    with environment({"MLFLOW_TRACKING_URI": store_uri(folder)}):
        place = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}/1"))
        assert place.is_relative_to(folder) and (place / "MLmodel").exists()
    worse = put(folder, licence="CC0").registered
    assert worse.fresh and worse.version == 2 and not worse.champion and worse.rival == "1"
    assert client(folder).get_model_version_by_alias(NAME, "champion").version == 1
    assert "| CC0 |" in client(folder).get_model_version(NAME, "2").description
    forced = put(folder, licence="CC0", promote=True).registered
    assert not forced.fresh and forced.champion
    assert client(folder).get_model_version_by_alias(NAME, "champion").version == 2


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path / "a")
    result = json.loads((folder / "metrics/evaluate.json").read_text())
    (folder / "metrics/evaluate.json").write_text(json.dumps(result | {"chosen_arm": "real"}))
    with pytest.raises(ConfigError, match=r"arm filter.*arm real.*cgankd evaluate"):
        put(folder)
    (folder / "metrics/evaluate.json").write_text(json.dumps(result))
    other = finished(tmp_path / "b", scalar=True)
    shutil.copyfile(other / "artifacts/pool.h5", folder / "artifacts/pool.h5")
    with pytest.raises(ConfigError, match="another data set or teacher"):
        put(folder)
    shutil.copyfile(other / "artifacts/dataset.h5", folder / "artifacts/dataset.h5")
    with pytest.raises(ConfigError, match="another data set"):
        put(folder)
    assert not (folder / "mlflow.db").exists()


def test_a_registry_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"MLflow does not answer.*nothing was registered"):
        put(finished(tmp_path))


def test_a_student_of_real_images_needs_no_pool(tmp_path: Path) -> None:
    from pipelines.files.params import load_config
    from pipelines.ship.card import lineage, model_card

    folder = finished(tmp_path, arm="real", scalar=True)
    (folder / "artifacts/pool.h5").unlink()
    student = load_package(folder / "artifacts/student.safetensors")
    cfg = load_config(folder / "params.yaml")
    origin = lineage(folder, student, None, root=cfg.data.root, seed=cfg.seed)
    assert origin.fakes == 0 and origin.rho is None and "not stated" in origin.licence
    result = json.loads((folder / "metrics/evaluate.json").read_text())
    teacher = load_package(folder / "artifacts/teacher.safetensors")
    card = model_card("x", Finished(student, teacher, folder / "artifacts/dataset.h5", result, None), origin, None)
    assert "real images alone" in card and "label (years), from 0 to 10" in card and "no margin" in card


def test_what_another_folder_shipped_to_a_server_is_not_opened(
    shipped: tuple[Path, Shipped], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, done = shipped
    uri = store_uri(folder)
    monkeypatch.setattr("pipelines.ship.registry.is_server", lambda uri: True)
    with pytest.raises(ConfigError, match=r"not shipped from this folder.*--trust"):
        serve_command(tmp_path, NAME, 5001, uri)
    assert serve_command(tmp_path, NAME, 5001, uri, trust=True)[0][4:] == [f"models:/{NAME}/1", ""]
    remember(tmp_path, "0" * 64, f"models:/{NAME}/1")
    assert serve_command(tmp_path, NAME, 5001, uri)[0][4:] == [f"models:/{NAME}/1", "0" * 64]
    with environment({"MLFLOW_TRACKING_URI": uri}), pytest.raises(ConfigError, match="not those that were shipped"):
        load_served(f"models:/{NAME}/1", "0" * 64)


def copy_of(folder: Path, tmp_path: Path) -> Path:
    """A project that was copied, with the store in it."""
    shutil.copytree(folder, tmp_path / "copy")
    repair(tmp_path / "copy")
    return tmp_path / "copy"


def test_a_damaged_model_is_not_served_and_is_shipped_again(shipped: tuple[Path, Shipped], tmp_path: Path) -> None:
    """Also in a store of this folder: what was shipped from here is opened only as it was shipped."""
    folder = copy_of(shipped[0], tmp_path)
    title, uri = f"models:/{NAME}/1", store_uri(folder)
    digest = serve_command(folder, NAME, 5001, uri)[0][5]
    assert len(digest) == 64 and serve_command(folder, NAME, 5001, uri, trust=True)[0][5] == ""
    with environment({"MLFLOW_TRACKING_URI": uri}):
        model = MlflowClient(uri).get_model_version(NAME, "1").source
        assert load_served(title, digest).shape == (1, 16, 16)
        (place,) = (folder / "mlruns").rglob("MLmodel")
        rand, tried = random.Random(0), 0
        anew = (
            "registered_model_meta"  # which MLflow writes with each fetch, so that what lies in the store is not used
        )
        for path in sorted(p for p in place.parent.rglob("*") if p.is_file() and p.stat().st_size and p.name != anew):
            good = path.read_bytes()
            at = rand.randrange(len(good))
            for data in (
                good[:at] + bytes([good[at] ^ 1 << rand.randrange(8)]) + good[at + 1 :],
                good[: len(good) // 2],
            ):
                path.write_bytes(data)
                with pytest.raises(ConfigError, match=f"the files of {title} .*run `cgankd ship` again"):
                    load_served(title, digest)
                if path.name in ("MLmodel", "model.pth", "model.pt2", "data.pkl"):
                    with contextlib.suppress(ConfigError):  # of an earlier version: no digest is known
                        load_served(title, "")
                tried += 1
            path.write_bytes(good)
        assert tried > 8 and model
        path = max((p for p in place.parent.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        path.write_bytes(path.read_bytes()[:-100])
    again = put(folder).registered
    assert again.fresh and again.version == 2 and again.champion
    place.unlink()
    (folder / "artifacts/own-programs.json").unlink()
    assert put(folder).registered.champion
    assert serve_command(folder, NAME, 5001, uri)[0][5]


def test_a_version_of_a_server_that_is_not_known_is_not_opened(
    shipped: tuple[Path, Shipped], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(shipped[0], tmp_path)
    (folder / "artifacts/own-programs.json").unlink()
    monkeypatch.setattr("pipelines.ship.registry.is_server", lambda uri: True)
    assert put(folder).registered.fresh


def test_a_damaged_pool_is_not_described(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    note_made(folder, "bank")
    pool = folder / "artifacts/pool.h5"
    data = bytearray(pool.read_bytes())
    data[len(data) // 2] ^= 4
    pool.write_bytes(data)
    with pytest.raises(ConfigError, match=r"pool\.h5 is damaged.*run `cgankd bank` again"):
        put(folder)
    assert not (folder / "artifacts/model_card.md").exists()


@pytest.mark.parametrize(
    ("name", "data", "command"),
    [
        ("artifacts/students/runs.json", b"{}", "cgankd student"),
        ("artifacts/students/runs.json", b"[1]", "cgankd student"),
        ("artifacts/students/runs.json", b'{"arms": {"filter": 3}}', "cgankd student"),
        ("metrics/prepare.json", b"[1]", "cgankd prepare"),
        ("metrics/prepare.json", b'{"num_test": null}', "cgankd prepare"),
        ("metrics/prepare.json", b'"\xff"', "cgankd prepare"),
        ("metrics/prepare.json", b"[" * 5000, "cgankd prepare"),
    ],
)
def test_records_of_another_shape_are_named(tmp_path: Path, name: str, data: bytes, command: str) -> None:
    folder = finished(tmp_path)
    (folder / name).write_bytes(data)
    with pytest.raises(ConfigError, match=f"{Path(name).name} is damaged.*run `{command}` again"):
        put(folder)


def test_nothing_is_served_before_it_is_shipped(tmp_path: Path, empty_store: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    with pytest.raises(ConfigError, match="cgankd ship"):
        serve_command(tmp_path, NAME, 5001, store_uri(tmp_path))


@pytest.fixture(scope="module")
def served(shipped: tuple[Path, Shipped]) -> Iterator[tuple[Path, int, subprocess.Popen[bytes]]]:
    """A real server on 127.0.0.1 with the champion; its start takes about ten seconds."""
    folder, _ = shipped
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with environment({"MLFLOW_TRACKING_URI": ""}):
        command, env = serve_command(folder, NAME, port, store_uri(folder), hosts=["models.example.org"])
    path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=env | {"PYTHONPATH": path}, cwd=folder, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        yield folder, port, server
    finally:
        server.terminate()
        assert server.wait(60) == 0


def test_served_answers_to_a_hundred_images_are_the_students(served: tuple[Path, int, subprocess.Popen[bytes]]) -> None:
    folder, port, _ = served
    images = parity_images(folder / "artifacts/dataset.h5")
    images = torch.cat([images, images, images])[:100]
    student = load_package(folder / "artifacts/student.safetensors").model
    assert worst_difference(ask_server(f"http://127.0.0.1:{port}", images), student.run(images)) <= 1e-6
    predictor = open_predictor(folder, None, 0.9, f"http://127.0.0.1:{port}/invocations")
    assert worst_difference(predictor.run(images[:1]), student.run(images[:1])) <= 1e-6
    with pytest.raises(ConfigError, match="answered 400"):
        ask_server(f"http://127.0.0.1:{port}", torch.zeros(1, 3, 8, 8))
    said = (folder / "server.log").read_text()
    assert f"running on http://127.0.0.1:{port}" in said
    assert "Downloading artifacts" not in said and "INFO mlflow" not in said


def asked(port: int, body: bytes, **headers: str) -> tuple[int, bytes]:
    """Status and body of an answer to a POST; a server that hangs up on a body it will not read counts as its answer."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=900)  # a busy machine takes long to start it again
    try:
        link.putrequest("POST", "/invocations", skip_host="Host" in headers)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | headers).items():
            link.putheader(name.replace("_", "-"), value)
        link.endheaders()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            link.send(body)
        reply = link.getresponse()
        return reply.status, reply.read()
    finally:
        link.close()


def one_image(value: str = "7") -> bytes:
    row = f"[{','.join([value] * 16)}]"
    return f'{{"inputs": [[[{",".join([row] * 16)}]]]}}'.encode()


HOSTILE: dict[str, tuple[int, bytes, dict[str, str]]] = {
    "100 MB of zeros": (413, b"\0" * 100_000_000, {}),
    "100 MB of JSON": (413, b'{"inputs": [' + b"0," * 50_000_000 + b"0]}", {}),
    "zeros": (400, b"\0" * 1_000_000, {}),
    "a length of a thousand digits": (400, b"{}", {"Content-Length": "9" * 1000}),
    "NaN": (400, one_image("NaN"), {}),
    "infinity": (400, one_image("1e999"), {}),
    "levels beyond 255": (400, one_image("256"), {}),
    "levels below 0": (400, one_image("-1"), {}),
    "texts": (400, one_image('"7"'), {}),
    "null": (400, one_image("null"), {}),
    "true": (400, one_image("true"), {}),
    "16 MiB of empty lists": (400, b'{"inputs": [' + b"[]," * 5_500_000 + b"[]]}", {}),
    "a whole number of 5000 digits": (400, one_image("9" * 5000), {}),
    "deep JSON": (400, b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}),
    "a row too short": (400, one_image().replace(b"7,", b"", 1), {}),
    "no image": (400, b'{"inputs": []}', {}),
    "another key": (400, b'{"dataframe_split": {}}', {}),
    "no JSON": (400, b"{", {}),
    "no UTF-8": (400, b'{"inputs": "\xff"}', {}),
    "CSV": (415, b"a,b\n1,2\n", {"Content-Type": "text/csv"}),
    "an unknown type": (415, one_image(), {"Content-Type": "application/x-unknown"}),
    "another alphabet": (415, one_image(), {"Content-Type": "application/json; charset=utf-16"}),
    "packed": (415, one_image(), {"Content-Encoding": "gzip"}),
    "another host": (403, one_image(), {"Host": "evil.example"}),
    "another origin": (403, one_image(), {"Origin": "http://evil.example"}),
    "an origin that hides": (403, one_image(), {"Origin": "null"}),
    "a page of another site": (403, one_image(), {"Sec-Fetch-Site": "cross-site"}),
    "a page of another site in capitals": (403, one_image(), {"Sec-Fetch-Site": "CROSS-SITE"}),
    "another host behind a mark": (403, one_image(), {"Host": "localhost#evil.example"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_malformed_request_is_answered_with_4xx(name: str, served: tuple[Path, int, subprocess.Popen[bytes]]) -> None:
    folder, port, _ = served
    want, body, headers = HOSTILE[name]
    status, said = asked(port, body, **headers)
    assert status == want, said
    assert len(said) < 400 and str(folder).encode() not in said and b"Traceback" not in said and b".py" not in said
    assert asked(port, one_image(), Host="models.example.org")[0] == 200


def test_two_hundred_requests_at_once_and_a_kill_in_between(
    served: tuple[Path, int, subprocess.Popen[bytes]],
) -> None:
    """What the killed process had is computed once more, what waits is answered then, and nobody sends anything again."""
    folder, port, server = served
    threads = Path(f"/proc/{server.pid}/task")
    images = parity_images(folder / "artifacts/dataset.h5")[:1]
    want = load_package(folder / "artifacts/student.safetensors").model.run(images)
    with ThreadPoolExecutor(200) as pool:
        body = json.dumps({"inputs": images.tolist()}).encode()
        waiting = [pool.submit(asked, port, body) for _ in range(200)]
        next(as_completed(waiting))
        (child,) = [int(pid) for one in threads.glob("*/children") for pid in one.read_text().split()]
        os.kill(child, signal.SIGKILL)
        answers = [future.result() for future in waiting]
    assert [status for status, _ in answers] == [200] * 200
    for _, said in answers:
        assert worst_difference(torch.tensor(json.loads(said)["predictions"]), want) <= 1e-6
    assert "ended by signal 9" in (folder / "server.log").read_text() and server.poll() is None


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as bound, pytest.raises(ConfigError, match=r"does not answer.*cgankd serve"):
        bound.bind(("127.0.0.1", 0))  # Held, but nobody listens: the answer is a refusal.
        ask_server(f"http://127.0.0.1:{bound.getsockname()[1]}", torch.zeros(1, 3, 8, 8))


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + SERVER_WAIT_S
    while time.monotonic() < end:
        assert server.poll() is None, f"the server ended with {server.returncode}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the server did not start")
