"""ExecuTorch files: the student's answers, the record as a constant method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("executorch", reason="the extra device is not installed")

from cgankd.config import ConfigError
from pipelines.device.making import Held, make_forms
from pipelines.device.running import open_form, run_apart
from tests.pipelines.device.samples import INFOS, images_of, source_of, split_of


@pytest.mark.parametrize("kind", ["classes", "circle"])
def test_both_forms_answer_as_the_student(kind: str, tmp_path: Path) -> None:
    info = INFOS[kind]
    source, images = source_of(info), images_of(info, 12)
    forms = make_forms(source, ["executorch"], Held(images_of(info, 20), split_of(info), 0.8), tmp_path)
    own = source.model.run(images)
    for form, bound in zip(forms, (1e-4, 0.1), strict=True):
        difference = (form.run(images) - own).double()
        if info.label_period:
            difference = (difference + info.label_period / 2) % info.label_period - info.label_period / 2
        assert float(difference.abs().max()) <= bound * source.answer.scale
        assert form.record.info == info and form.record.margin is not None
    apart = run_apart(forms[0].path, images, repeats=1)
    torch.testing.assert_close(apart.outputs, forms[0].run(images))

    other = tmp_path / "student.tflite"
    other.write_bytes(forms[0].path.read_bytes())
    with pytest.raises(ConfigError, match=r"is a file of ExecuTorch, not of LiteRT .* let its name end in \.pte"):
        open_form(other)

    from executorch.runtime import Runtime

    method = Runtime.get().load_program(forms[1].path).load_method("cgankd")
    assert method is not None and method.execute([])[0].startswith('{"cgankd_file": 1')
