"""The page's scripts run by Node.js, without a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.conftest import ROOT

NODE = shutil.which("node")
PAGE = ROOT / "pipelines" / "device" / "page"
need_node = pytest.mark.skipif(NODE is None, reason="needs Node.js, which runs the page's scripts without a browser")


def run_node(script: str, given: object) -> Any:
    """What the body of a function of `given` returns, with the page's own scripts loaded."""
    assert NODE is not None
    program = (
        f"require({json.dumps(str(PAGE / 'prepare.js'))}); require({json.dumps(str(PAGE / 'answer.js'))});"
        f" const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        f" const found = (() => {{ {script} }})(); process.stdout.write(JSON.stringify(found));"
    )
    done = subprocess.run([NODE, "-e", program], input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
