"""optuna-dashboard over the studies of a folder, for this machine only."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path

from rich.console import Console

from cgankd.config import ConfigError
from pipelines.search.config import load_searched
from pipelines.search.storage import check_begun, shown, storage_url
from pipelines.search.study import connect

HOST = "127.0.0.1"


def serve(workdir: Path, storage: str | None, port: int, console: Console) -> None:
    """Serve until Ctrl-C. Raises ConfigError where there is no study or the port is taken."""
    cfg = load_searched(workdir / "params.yaml")
    url = storage_url(workdir, cfg.search, storage)
    check_begun(url)
    database = connect(workdir, url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optuna_dashboard import run_server
    console.print(f"http://{HOST}:{port} shows {shown(url)} (Ctrl-C ends it)", markup=False, soft_wrap=True)
    try:
        run_server(database, host=HOST, port=port)
    except KeyboardInterrupt:
        pass
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ConfigError(f"port {port} is taken on this machine; choose another by --port") from None
