"""What a cluster is joined with, without Ray."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cgankd.config import ConfigError
from pipelines.engines import cluster, heads
from pipelines.engines.heads import LOOPBACK, MODE, TOKENS, on_loopback, with_token
from pipelines.runtime.malloc import SETTINGS, SWITCH


def test_a_token_that_this_machine_has_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray start` asks for one as soon as there is one; `ray.init` of an address has to be told."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for name in TOKENS:
        monkeypatch.delenv(name, raising=False)
    assert with_token("auto") == {}
    (tmp_path / "token").write_text("x\n")
    for name, value in zip(TOKENS, ("x", str(tmp_path / "token")), strict=True):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert with_token("auto") == {"RAY_AUTH_MODE": "token"} and heads.own_token()[0] == "x"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert with_token("auto") == {"RAY_AUTH_MODE": "token"}


@pytest.mark.parametrize(("data", "words"), [(None, "No such file"), (b"", "is empty"), (b"\xff\xfe", "it is no text")])
def test_a_file_that_is_no_token_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None, words: str
) -> None:
    monkeypatch.delenv(TOKENS[0], raising=False)
    monkeypatch.setenv(TOKENS[1], str(path := tmp_path / "token"))
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(
        ConfigError, match=rf"RAY_AUTH_TOKEN_PATH {path} .*{words}.*; name the file of the cluster's token"
    ):
        with_token("192.0.2.1:6379")


@pytest.mark.parametrize("asks", [True, False])
def test_a_token_is_used_only_where_the_head_asks_for_one(
    asks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one, this program would turn away the nodes of a cluster that has none."""
    grpc = pytest.importorskip("grpc", reason="comes with Ray (pip install 'cgankd[ray]')")

    def answer(data: bytes, context: Any) -> bytes:
        if asks and ("authorization", "Bearer x") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        return b""

    monkeypatch.setenv(TOKENS[0], "x")
    monkeypatch.delenv(MODE, raising=False)
    server = grpc.server(ThreadPoolExecutor(1))
    only = {"CheckAlive": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", only)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        wanted = {"RAY_AUTH_MODE": "token"} if asks else {}
        assert with_token(f"127.0.0.1:{port}") == wanted
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
        with monkeypatch.context() as patch:
            patch.setenv("RAY_TMPDIR", str(tmp_path))
            assert with_token("auto") == wanted
            for mode in ("disabled", "nonsense", ""):
                patch.setenv(MODE, mode)
                if asks:
                    with pytest.raises(ConfigError, match=f"RAY_AUTH_MODE is '{mode}', but .* asks for a token; unset"):
                        with_token(f"127.0.0.1:{port}")
                else:
                    assert with_token(f"127.0.0.1:{port}") == {}
            patch.setenv(MODE, "Token")
            assert with_token(f"127.0.0.1:{port}") == wanted
            patch.delenv(MODE)
            patch.setenv(TOKENS[0], "y")
            if asks:
                with pytest.raises(ConfigError, match="refuses the token of RAY_AUTH_TOKEN; put the head's"):
                    with_token(f"127.0.0.1:{port}")
        monkeypatch.delenv(TOKENS[0])
        monkeypatch.setenv("HOME", "/nowhere")
        if asks:
            with pytest.raises(ConfigError, match="asks for a token, and this machine has none"):
                with_token(f"127.0.0.1:{port}")
        else:
            assert with_token(f"127.0.0.1:{port}") == {}
    finally:
        server.stop(None).wait()
    monkeypatch.setattr(heads, "ASK_S", 0.5)
    with pytest.raises(
        ConfigError, match=rf"no Ray cluster answers at RAY_ADDRESS 127\.0\.0\.1:{port} within 0\.5 s; start"
    ):
        with_token(f"127.0.0.1:{port}")


def test_a_head_on_loopback_alone_is_joined_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of 127.0.0.1 Ray asks at another address of this machine, for minutes where nobody listens there."""
    ((name, off),) = LOOPBACK.items()
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(heads, "_own_address", lambda: "127.0.0.2")
    with socket.create_server(("127.0.0.1", 0)) as alone:
        port = alone.getsockname()[1]
        assert on_loopback(f"127.0.0.1:{port}") == on_loopback(f"localhost:{port}") == {name: off}
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        assert on_loopback("auto") == {name: off}
        assert on_loopback(f"192.0.2.1:{port}") == on_loopback("ray://127.0.0.1:1") == on_loopback("nonsense") == {}
        monkeypatch.setenv(name, off)
        assert on_loopback(f"127.0.0.1:{port}") == {}
        monkeypatch.setenv(name, "1")
        with pytest.raises(
            ConfigError, match=rf"does not answer at 127\.0\.0\.2:{port}, .*{name} is 1; if .* {name}={off}, set"
        ):
            on_loopback(f"127.0.0.1:{port}")
    monkeypatch.delenv(name)
    with socket.create_server(("", 0)) as everywhere:
        assert on_loopback(f"127.0.0.1:{everywhere.getsockname()[1]}") == {}


def test_workers_get_the_allocator_of_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As processes of this machine inherit it; glibc reads it when a process starts."""
    monkeypatch.delenv(SWITCH, raising=False)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert cluster.allocator() == SETTINGS
    monkeypatch.setenv("MALLOC_TOP_PAD_", "0")
    assert cluster.allocator() == SETTINGS | {"MALLOC_TOP_PAD_": "0"}
    for known in ("_of_this_machine", "_joined"):
        words = () if known == "_of_this_machine" else ("127.0.0.1:6379",)
        assert cluster.allocator().items() <= getattr(cluster, known)(*words)["runtime_env"]["env_vars"].items()
    monkeypatch.setenv(SWITCH, "off")
    assert cluster.allocator() == {}
