"""What is known of the head of a Ray cluster before it is joined, and whether it answers later."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from pipelines.tracking.masks import masked

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's own switch, named after where it is the default, for servers that listen on 127.0.0.1 alone."""
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Hosts in whose place Ray asks at the address of this machine among others, unless that switch is set."""
MODE, MODES = "RAY_AUTH_MODE", ("token", "k8s")
"""Ray's own switch for tokens, and its values by which one is shown."""
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Where Ray looks for the token of a cluster, before the file in the home folder."""
ASK_S = 20.0
"""How long a head may take to say whether it asks for a token."""
ASKS, OPEN, SILENT, UNKNOWN = "asks for a token", "open", "silent", "unknown"
"""What is known of a head before it is joined."""
LOOK_S, LOST_S = 5.0, 30.0
"""How often a run looks whether the head still answers, and after how long without an answer it is lost; Ray itself ends the
program after 60 seconds, without a word that a user understands."""


def with_token(address: str) -> dict[str, str]:
    """What `ray start` does by itself, and `ray.init` of a given address does not: use the token that this machine has.

    Only where the cluster asks for one: a program with a token turns away nodes without, and each file it sends is then
    lost. Ray leaves a token in the home folder of whoever once started a cluster, so that having one says nothing.
    Raises ConfigError where nobody answers at the address, or a token is asked for and there is none or another, or one that
    the environment says not to show.
    """
    token, source = own_token()
    found = head_says(address)
    if found == SILENT:
        raise ConfigError(
            f"no Ray cluster answers at RAY_ADDRESS {masked(address)} within {ASK_S:g} s; start it, or unset CGANKD_ENGINE"
        )
    mode = os.environ.get(MODE)
    if found == ASKS and mode is not None and mode.lower() not in MODES:
        raise ConfigError(
            f"the environment variable {MODE} is {mode!r}, but the Ray cluster at RAY_ADDRESS {masked(address)} asks for a token;"
            f" unset {MODE}, or set it to token"
        )
    if found == ASKS and not token:
        raise ConfigError(
            f"the Ray cluster at RAY_ADDRESS {masked(address)} asks for a token, and this machine has none; copy the head's"
            " ~/.ray/auth_token here, or name it in RAY_AUTH_TOKEN_PATH"
        )
    if found == ASKS and head_says(address, token) == ASKS:
        raise ConfigError(
            f"the Ray cluster at RAY_ADDRESS {masked(address)} refuses the token of {source}; put the head's ~/.ray/auth_token"
            " in its place"
        )
    return {MODE: "token"} if token and found != OPEN else {}


def on_loopback(address: str) -> dict[str, str]:
    """The switch with which a head that listens on 127.0.0.1 alone is joined; empty where it is not needed.

    Without it Ray asks at the address of this machine among others, where nobody answers, and goes on asking for minutes.
    Raises ConfigError where the environment says otherwise.
    """
    ((name, off),) = LOOPBACK.items()
    given = os.environ.get(name)
    host, _, port = (_last_started() if address == "auto" else address).rpartition(":")
    if host.strip("[]") not in LOOPBACK_HOSTS or not port.isdecimal():
        return {}
    if given is not None and given.lower() not in ("1", "true"):  # as Ray reads it
        return {}
    other = _own_address()
    try:
        socket.create_connection((other, int(port)), LOOK_S).close()
    except (OSError, OverflowError):
        if given is None:
            return {name: off}
        raise ConfigError(
            f"the Ray cluster at RAY_ADDRESS {masked(address)} does not answer at {other}:{port}, where Ray looks for it as"
            f" {name} is {given}; if it was started with {name}={off}, set that here too, else name its address in RAY_ADDRESS"
        ) from None
    return {}


def _own_address() -> str:
    """The address of this machine among others, found as Ray finds it; nothing is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect(("8.8.8.8", 53))
        return str(asked.getsockname()[0])
    with suppress(OSError):
        return socket.gethostbyname(socket.gethostname())
    return "127.0.0.1"


def own_token() -> tuple[str, str]:
    """The token of this machine, empty where it has none, and where it is from. Raises ConfigError on a file that is no token."""
    value, path = (os.environ.get(name, "") for name in TOKENS)
    if value:
        return value.strip(), TOKENS[0]
    home = Path.home() / ".ray" / "auth_token"
    if not path and not home.is_file():
        return "", ""
    source = f"{TOKENS[1]} {path}" if path else str(home)
    try:
        token = Path(path or home).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{source} cannot be read ({why}); name the file of the cluster's token") from error
    if not token:
        raise ConfigError(f"{source} is empty; name the file of the cluster's token")
    return token, source


def head_says(address: str, token: str = "", wait_s: float | None = None) -> str:
    """Whether the head at `host:port` asks for a token, is open, or is silent; UNKNOWN for an address of another form.

    With a token: OPEN where it is the right one. `auto` is the cluster that was last started on this machine.
    """
    if address == "auto":
        address = _last_started()
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return UNKNOWN
    import grpc  # comes with Ray

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        alive = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        known = (("authorization", f"Bearer {token}"),) if token else None
        try:
            alive(b"", timeout=ASK_S if wait_s is None else wait_s, wait_for_ready=True, metadata=known)
        except grpc.RpcError as error:
            silent = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if error.code() in silent:
                return SILENT
            return ASKS if error.code() == grpc.StatusCode.UNAUTHENTICATED else OPEN
    return OPEN


def _last_started() -> str:
    """The address that `ray start` leaves on a machine, empty without one."""
    try:
        top = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
        return (top / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


class HeadLost(ConfigError):
    """The head of the cluster no longer answers; nothing more can be asked of it."""


class Watch:
    """Looks now and then whether the head of this process's cluster still answers."""

    def __init__(self, ray: Any) -> None:
        client = os.environ.get("RAY_ADDRESS", "").startswith("ray://")  # behind it the head itself is not reached
        self.address = "" if client else str(ray.get_runtime_context().gcs_address)
        self.looked_s = self.answered_s = time.monotonic()

    def look(self) -> None:
        """Raise HeadLost where it has been silent for LOST_S; most calls do nothing."""
        if not self.address or time.monotonic() - self.looked_s < LOOK_S:
            return
        begun_s = time.monotonic()
        if head_says(self.address, wait_s=LOOK_S) != SILENT:
            self.answered_s = time.monotonic()
        elif begun_s - self.answered_s >= LOST_S:
            raise HeadLost(
                f"the head of the Ray cluster at {self.address} has not answered for {LOST_S:g} s; what is finished is kept:"
                " start the cluster again and give the same command"
            )
        self.looked_s = time.monotonic()
