"""huggingface_hub's HTTP client, kept from hanging and from retrying behind our back.

Its own client waits for ever on a silent server, and asks some requests again by itself, up to six
times, for as long as a `Retry-After` says and without a word. Repeating is done in one place,
shared/hub/retries.py, which tells about it and has a bound; so here each request is made once.

>>> with single_tries():
...     HfApi().create_commit(...)
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from huggingface_hub import get_session, set_client_factory
from huggingface_hub.utils import hf_raise_for_status

from shared.base.errors import UserError

TIMEOUT_VARIABLE = "DOCINTEL_HUB_TIMEOUT_SECONDS"
TIMEOUT_SECONDS = 120.0
"""Silence that ends a request: a commit over many files takes the Hub a while to answer."""
CONNECT_SECONDS = 15.0
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class NoAnswerError(Exception):
    """A request that got no answer; the network's own error is its cause.

    The client repeats a request that ends in one of httpx2's errors, and this is none of them.
    """


class _Client(httpx2.Client):
    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        request.extensions = {**request.extensions, "timeout": self._bounded(request)}
        try:
            response = super().send(request, **options)
        except httpx2.TransportError as error:
            raise NoAnswerError(str(error)) from error
        if response.status_code in TRANSIENT_STATUS:
            response.read()
            hf_raise_for_status(response)
        return response

    def _bounded(self, request: httpx2.Request) -> dict[str, float | None]:
        """The request's own times, none longer than ours: HfApi asks for `timeout=None`, for ever."""
        asked = request.extensions.get("timeout", {})
        return {
            kind: most if asked.get(kind) is None or most is None else min(asked[kind], most)
            for kind, most in self.timeout.as_dict().items()
        }


def timeout_seconds() -> float:
    """DOCINTEL_HUB_TIMEOUT_SECONDS, else TIMEOUT_SECONDS; UserError where it is no such number."""
    said = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(said or TIMEOUT_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise UserError(f"{TIMEOUT_VARIABLE}={said}: must be a number of seconds above 0")
    return seconds


@contextmanager
def single_tries() -> Iterator[None]:
    """While it lasts every request of huggingface_hub is made once, and silence ends it."""
    seconds = timeout_seconds()
    ours = httpx2.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
    as_before: dict[str, Any] = {"event_hooks": get_session().event_hooks, "follow_redirects": True}
    set_client_factory(lambda: _Client(**as_before, timeout=ours))
    try:
        yield
    finally:
        set_client_factory(lambda: httpx2.Client(**as_before, timeout=None))
