"""LiteRT files: the student's answers, whole int8 from its first byte, and what a microcontroller says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("litert_torch", reason="the extra device is not installed")
pytest.importorskip("tflite_micro", reason="the extra device is not installed")

from cgankd.config import ConfigError
from cgankd.measure.conformal import conformal_margin
from cgankd.types import DatasetInfo
from pipelines.device import litert
from pipelines.device.forms import Form, Source, read_record, with_margin
from pipelines.device.making import Held, make_forms, measure_int8
from pipelines.device.running import micro_of, open_form, run_apart
from tests.pipelines.device.samples import INFOS, images_of, source_of, split_of

Made = tuple[DatasetInfo, Source, dict[str, Form]]


@pytest.fixture(scope="module", params=INFOS, ids=list(INFOS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    info = INFOS[request.param]
    source, held = source_of(info), Held(images_of(info, 30), split_of(info), 0.8)
    forms = make_forms(source, ["litert"], held, tmp_path_factory.mktemp("litert"))
    return info, source, {form.name: form for form in forms}


def test_every_form_answers_as_the_student(made: Made) -> None:
    info, source, forms = made
    images = images_of(info, 25)
    own = source.model.run(images)
    bounds = {"litert-float32": 1e-5, "litert-dynamic-int8": 0.1, "litert-int8": 0.1}
    assert list(forms) == list(bounds)
    for name, form in forms.items():
        difference = (form.run(images) - own).double()
        if info.label_period:
            difference = (difference + info.label_period / 2) % info.label_period - info.label_period / 2
        assert float(difference.abs().max()) <= bounds[name] * source.answer.scale, name
        assert form.run(images).shape == (25, source.answer.num_answers)
    assert float(own.std(dim=0).max()) > 0.01 * source.answer.scale, "a constant student would agree with anything"


def schema(form: Form) -> Any:
    from ai_edge_litert import schema_py_generated as generated

    return generated.ModelT.InitFromObj(generated.Model.GetRootAsModel(form.path.read_bytes(), 0))


def test_whole_int8_is_whole(made: Made) -> None:
    """No tensor holds floats; the input is pixel - 128, the weights are the student's rounded a channel."""
    info, source, forms = made
    model = schema(forms["litert-int8"])
    (graph,) = model.subgraphs
    assert {tensor.type for tensor in graph.tensors} <= {9, 2}, "int8, and int32 for biases and shapes"
    taken = graph.tensors[graph.inputs[0]]
    assert tuple(taken.shape) == (1, 16, 16, info.channels) and taken.type == 9
    assert (taken.quantization.scale.tolist(), taken.quantization.zeroPoint.tolist()) == ([1.0], [-128])
    layers = [m for m in source.model.net.modules() if isinstance(m, torch.nn.Linear)]
    weight = layers[-1].weight.detach().numpy()
    scale = np.abs(weight).max(axis=1) / 127
    expected = np.clip(np.round(weight / scale[:, None]), -127, 127)
    sizes = [(t, model.buffers[t.buffer].data) for t in graph.tensors if tuple(t.shape) == weight.shape and t.type == 9]
    ((tensor, data),) = [(t, d) for t, d in sizes if d is not None]
    np.testing.assert_allclose(tensor.quantization.scale, scale, rtol=1e-5)
    assert np.abs(data.view(np.int8).reshape(weight.shape) - expected).max() <= 1


def test_the_record_is_a_metadata_entry(made: Made) -> None:
    info, _, forms = made
    for form in forms.values():
        model = schema(form)
        (entry,) = [entry for entry in model.metadata if entry.name == b"cgankd"]
        record, data = read_record(form.path)
        text = bytes(model.buffers[entry.buffer].data)
        assert text in data and text.startswith(b'{"cgankd_file"') and record.info == info
        assert record.form == form.name and record.weights == "0" * 64


def test_the_margin_is_of_the_files_own_answers(made: Made) -> None:
    info, source, forms = made
    val = split_of(info)
    for form in forms.values():
        own = conformal_margin(source.answer.miss(form.run(val.images[:]), val.labels), 0.8)
        assert form.record.margin == own


def test_a_process_apart_gives_the_same_and_tells_what_it_took(made: Made) -> None:
    info, _, forms = made
    images, form = images_of(info, 7), forms["litert-float32"]
    ran = run_apart(form.path, images, repeats=3)
    torch.testing.assert_close(ran.outputs, form.run(images))
    assert ran.latency_ms > 0 and (ran.peak_bytes is None or ran.peak_bytes > 2**20)


def test_a_microcontroller_runs_the_int8_file(made: Made) -> None:
    info, _, forms = made
    images, form = images_of(info, 9), forms["litert-int8"]
    micro = micro_of(form.path, images)
    assert micro.runs and micro.missing == () and {"CONV_2D", "FULLY_CONNECTED"} <= set(micro.operators)
    # Its largest maps at once: those between the first two convolutions, and it is far from a megabyte.
    assert micro.arena is not None and 1000 < micro.arena < 100_000
    other = run_apart(form.path, images, repeats=1).outputs
    model = schema(form)
    step = float(model.subgraphs[0].tensors[model.subgraphs[0].outputs[0]].quantization.scale[0])
    assert float((micro.outputs - other).abs().max()) <= 3 * step + 1e-6  # type: ignore[operator]


def test_an_operator_that_a_board_lacks_is_named(tmp_path: Path) -> None:
    info = INFOS["circle"]
    (form, *_) = make_forms(source_of(info), ["litert"], Held(images_of(info, 4), split_of(info), 0.8), tmp_path)
    micro = micro_of(form.path, images_of(info, 2))
    assert not micro.runs and "ATAN2" in micro.missing and "ATAN2" in micro.operators and micro.error


def test_a_student_whose_output_is_always_zero_is_named(tmp_path: Path) -> None:
    """As of a net that ends with a ReLU and whose training failed; the runtime would refuse the file without a reason."""
    info = INFOS["scalar"]
    source = source_of(info)
    last = [module for module in source.model.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.weight.data.zero_()
    last.bias.data.zero_()
    with pytest.raises(ConfigError, match="output is 0 for each of 4 training images"):
        make_forms(source, ["litert"], Held(images_of(info, 4), split_of(info), 0.8), tmp_path)


@pytest.mark.parametrize("name", ["circle", "scalar"])
def test_a_student_of_zeros_is_one_sentence(name: str, tmp_path: Path) -> None:
    info = INFOS[name]
    source = source_of(info)
    for parameter in source.model.parameters():
        parameter.data.zero_()
    with pytest.raises(ConfigError, match="the student has no int8 form.* KeyError.*training") as problem:
        make_forms(source, ["litert"], Held(images_of(info, 4), split_of(info), 0.8), tmp_path)
    assert "\n" not in str(problem.value)


def test_a_file_of_another_format_than_its_name_says_is_named(made: Made, tmp_path: Path) -> None:
    _, _, forms = made
    path = tmp_path / "student.pte"
    path.write_bytes(forms["litert-int8"].path.read_bytes())
    with pytest.raises(ConfigError, match=r"is a file of LiteRT, not of ExecuTorch .* let its name end in \.tflite"):
        open_form(path)


def test_a_file_for_images_of_another_size_is_refused(made: Made, tmp_path: Path) -> None:
    from dataclasses import replace

    info, _, forms = made
    form = forms["litert-int8"]
    other = replace(form.record, info=replace(info, image_size=12))
    data = form.path.read_bytes()
    path = tmp_path / "other.tflite"
    path.write_bytes(with_margin(data, other, form.record.margin))
    with pytest.raises(ConfigError, match="takes an input of 1x16x16x.*, not of 1x12x12x"):
        open_form(path)


def test_sizes_are_measured_in_one_call(tmp_path: Path) -> None:
    info = INFOS["classes"]
    found = measure_int8(source_of(info), images_of(info, 10), split_of(info), tmp_path)
    assert found.bytes == found.path.stat().st_size and found.micro.runs
    assert found.run(images_of(info, 3)).shape == (3, 3)


def test_a_net_with_an_operator_that_the_converter_lacks_is_named() -> None:
    class Odd(torch.nn.Module):
        def forward(self, unit_BCHW: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(unit_BCHW.flatten(2))[:, 0]

    source = source_of(INFOS["classes"])
    source.model.net = Odd()
    with pytest.raises(ConfigError, match=r"LiteRT cannot take the net convnet: it has no form of the operator \S+"):
        litert.convert(source, bare=False, levels=True)
