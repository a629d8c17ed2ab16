"""A process that publishes to the Hub double: one that kill -9 can end, its imports paid for once."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import threading
from multiprocessing.connection import wait
from pathlib import Path

from shared.base.errors import UserError
from shared.hub import publish as _publish  # noqa: F401 (for the fork server)
from tests.events import CEILING_SECONDS
from tests.hub_double import HubDouble
from tests.hub_routes import WRITE_TOKEN

REPO = "acme/docintel-legal-tiny-webgpu"
KEY = "1" * 16
TIMEOUT_SECONDS = 0.6
ONE_AT_A_TIME = threading.Lock()
"""`start()` reads every process's exit status, another thread's too, and it can be read only once."""


def publish_once(hub: HubDouble, world: Path, overwrite: bool = False, batch: int = 1) -> str:
    """A process that publishes; the last thing it said, or that it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    hub.victim = 0
    silent = any(fault.how == "silence" for fault in hub.faults)
    patience = TIMEOUT_SECONDS if silent else CEILING_SECONDS
    given = (hub.url, str(world), overwrite, batch, patience)
    process = context.Process(target=publisher, args=given)
    with ONE_AT_A_TIME:
        process.start()
    hub.victim = process.pid or 0
    assert wait([process.sentinel], CEILING_SECONDS), "the publisher hangs"
    with ONE_AT_A_TIME:
        process.join()
        code = process.exitcode
    if code == -9:
        return "(killed)"
    lines = (world / "said.log").read_text(encoding="utf-8").splitlines()
    assert lines, f"exit {code}: {(world / 'progress.log').read_text(errors='replace')[-4000:]}"
    said = lines[-1].replace(hub.url, "the Hub").replace(hub.url.removeprefix("http://"), "the Hub")
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{32,56}\b", r"\1…", said)


def publisher(url: str, world: str, overwrite: bool, batch: int, patience: float) -> None:
    """The process: what `./inv publish` does from the release folder on."""
    import huggingface_hub.constants

    from shared.hub import staging
    from shared.hub.files import Order
    from shared.hub.publish import publish

    os.chdir(world)
    for stream, name in ((1, "said.log"), (2, "progress.log")):
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if stream == 1 else os.O_APPEND)
        os.dup2(os.open(name, flags), stream)
    Path("process-list.log").write_bytes(Path("/proc/self/cmdline").read_bytes())
    os.environ |= {
        "HF_TOKEN": WRITE_TOKEN,
        "DOCINTEL_ROOT": world,
        "DOCINTEL_HUB_TIMEOUT_SECONDS": str(patience),
    }
    huggingface_hub.constants.HF_HUB_DISABLE_XET = True
    huggingface_hub.constants.HF_HUB_OFFLINE = False
    staging.BATCH_FILES = batch
    order = Order(Path("release"), KEY, "DocIntel", overwrite=overwrite)
    try:
        done = publish(order, REPO, endpoint=url, sleep=lambda seconds: None)
    except UserError as error:
        print(f"refused: {error}", flush=True)
        sys.exit(1)
    again = "only tagged" if done.tagged else "nothing to do"
    print(again if done.unchanged else "published", done.version, flush=True)
