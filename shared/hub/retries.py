"""Requests to the Hub with retries; what cannot be retried is one sentence.

>>> hub = Hub(HfApi(token=get_token()), "org/name")
>>> hub.call(lambda: hub.api.model_info("org/name"))
"""

import errno
import json
import os
import re
import socket
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars, parse_ratelimit_headers
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from shared.base.environment import network_mistake, without_password
from shared.base.errors import UserError
from shared.base.progress import say
from shared.hub.client import TRANSIENT_STATUS
from shared.hub.token import scrub

ATTEMPTS = 4
LONGEST_WAIT_SECONDS = 300.0
"""A Hub that asks for a longer pause is not waited for: the error says how long it is."""
STILL_GOING_SECONDS = 30.0
SAID_BY_THE_CLIENT = ("Invalid metadata in README.md", "LFS batch API returned errors")
"""ValueErrors whose text tells more than the HTTP error inside them, where there is one."""
COMMIT = re.compile(r"[0-9a-f]{40}")
NO_ROOM_STATUS = frozenset({402, 413, 507})

Sleep = Callable[[float], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Hub:
    """One repository (`repo_type`: a model or a Space) as seen by one client; `failure` is what its
    sentences are raised as."""

    api: HfApi = field(repr=False)
    repo_id: str
    writing: bool = False
    failure: type[UserError] = UserError
    sleep: Sleep = time.sleep
    repo_type: str = "model"

    def call(self, action: Callable[[], T], *, patient: bool = True) -> T:
        """`action()`, up to ATTEMPTS times; it must be safe to do twice.

        Not `patient`: a Hub that cannot be reached at all is not tried again. An error that is not
        the Hub's or the network's is a defect and passes unchanged.
        """
        if mistake := network_mistake():
            raise self.failure(mistake)
        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=_seconds_to_wait,
            retry=retry_if_exception(lambda error: _is_transient(_root(error), patient)),
            before_sleep=self._tell,
            sleep=self.sleep,
            reraise=True,
        )
        try:
            return retrying(action)
        except Exception as error:
            sentence = _sentence(self, _root(error))
            if sentence is None:
                raise
            file = re.match(r"Error while uploading ('.+?') to the Hub", str(error))
            about = f"{file[1]} was not uploaded: " if file else ""
            asked = self._asked(_root(error), retrying.statistics.get("attempt_number", 1))
            raise self.failure(scrub(about + sentence + asked)) from None

    def _asked(self, error: BaseException, times: int) -> str:
        """Which request failed, and how often it was made; a reader needs only the sentence."""
        request = _request(error)
        if not self.writing or request is None:
            return ""
        return f" [{request}, tried {'once' if times == 1 else f'{times} times'}]"

    @property
    def host(self) -> str:
        """`huggingface.co`, or whatever the endpoint names."""
        return urlsplit(without_password(self.api.endpoint)).netloc.removeprefix("***@")

    @property
    def url(self) -> str:
        """The repository's page."""
        kind = "spaces/" if self.repo_type == "space" else ""
        return f"{without_password(self.api.endpoint)}/{kind}{self.repo_id}"

    @property
    def org(self) -> str:
        return self.repo_id.split("/")[0]

    def _tell(self, state: RetryCallState) -> None:
        error = _root(_error(state))
        status = _status(error)
        trouble = f"answers {status}" if status else f"cannot be reached ({_why(error)})"
        request = _request(error)
        say(
            f"      {self.host} {trouble}{f' to {request}' if request else ''}; trying again in "
            f"{_seconds_to_wait(state):.0f} s ({state.attempt_number + 1} of {ATTEMPTS})"
        )


def commit_of(hub: Hub, sha: str | None) -> str:
    """A commit's hash as a server names it, if it is one: `../x` would be a folder of its choice."""
    if not (isinstance(sha, str) and COMMIT.fullmatch(sha)):
        raise hub.failure(f"{hub.host} names {sha!r} as a commit of {hub.repo_id}; that is none")
    return sha


def within(seconds: float, action: Callable[[], T]) -> T:
    """`action()`, or TimeoutError after `seconds` in all.

    The client's own timeout begins anew with each of a host's addresses and does not cover looking
    up its name, so that behind a silent firewall it would last a minute.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(action())
        except BaseException as error:  # handed to the caller, whatever it is
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result(timeout=seconds)


@contextmanager
def transferring(label: str) -> Iterator[None]:
    """The client's own bars on a terminal; elsewhere a line now and then.

    A CI job that says nothing while gigabytes go over the wire is taken for dead and ended.
    """
    if sys.stderr.isatty():
        yield
        return
    done, started = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(STILL_GOING_SECONDS):
            say(f"      {label}: {time.monotonic() - started:.0f} s so far")

    with disable_progress_bars():
        threading.Thread(target=tell, daemon=True).start()
        try:
            yield
        finally:
            done.set()


def _root(error: BaseException) -> BaseException:
    """The HTTP or network error inside: the client wraps what its worker threads raise."""
    known = (httpx2.HTTPError, ConnectionError, TimeoutError, FileMetadataError)
    inner: BaseException | None = None if _is_said(error) else error
    while inner is not None and not isinstance(inner, known):
        inner = inner.__cause__ or inner.__context__
    return inner or error


def _is_said(error: BaseException) -> bool:
    return isinstance(error, ValueError) and str(error).startswith(SAID_BY_THE_CLIENT)


def _error(state: RetryCallState) -> BaseException:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error


def _is_transient(error: BaseException, patient: bool) -> bool:
    if isinstance(error, HfHubHTTPError):
        asked = _retry_after(error)
        return _status(error) in TRANSIENT_STATUS and (asked or 0) <= LONGEST_WAIT_SECONDS
    if isinstance(error, httpx2.NetworkError | httpx2.TimeoutException | TimeoutError):
        return patient
    # hf_xet's ConnectionError is not here: it has tried for three minutes already.
    return isinstance(error, httpx2.RemoteProtocolError | json.JSONDecodeError)


def _seconds_to_wait(state: RetryCallState) -> float:
    """What the Hub asked for, else 1, 2, 4 s."""
    asked = _retry_after(_root(_error(state)))
    return 2.0 ** (state.attempt_number - 1) if asked is None else asked


def _retry_after(error: BaseException) -> float | None:
    """Seconds from `Retry-After`, or from the `RateLimit` header that the Hub itself sends."""
    if not isinstance(error, HfHubHTTPError):
        return None
    said = error.response.headers.get("Retry-After", "").strip()
    if said.isdigit():
        return float(said)
    if said and (date := _date(said)):
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    limit = parse_ratelimit_headers(error.response.headers)
    return float(limit.reset_in_seconds) if limit and _status(error) == 429 else None


def _date(text: str) -> datetime | None:
    """An HTTP date (RFC 9110, section 5.6.7), which is always in GMT."""
    try:
        return parsedate_to_datetime(text).replace(tzinfo=UTC)
    except ValueError:
        return None


def _request(error: BaseException) -> str | None:
    """`PUT /path`: never the query, in which a storage's URL carries its signature."""
    if isinstance(error, HfHubHTTPError):
        request = error.response.request
    elif isinstance(error, httpx2.RequestError):
        try:
            request = error.request
        except RuntimeError:  # raised outside of a request
            return None
    else:
        return None
    return f"{request.method} {unquote(request.url.path)}"[:160]


def _status(error: BaseException) -> int | None:
    """The HTTP status; hf_xet gives it only inside its text."""
    if isinstance(error, HfHubHTTPError):
        return int(error.response.status_code)
    found = (
        re.search(r"\((\d{3}) [A-Z]", str(error)) if isinstance(error, ConnectionError) else None
    )
    return int(found[1]) if found else None


def _sentence(hub: Hub, error: BaseException) -> str | None:
    """What happened and what helps; None for an error that says nothing about the Hub."""
    if isinstance(error, OfflineModeIsEnabled):
        return f"{hub.host} cannot be reached (HF_HUB_OFFLINE is set); unset it to use the Hub"
    status = _status(error)
    if status is not None:
        return _refusal(hub, status, error)
    if isinstance(error, httpx2.TransportError | ConnectionError | TimeoutError):
        return f"{hub.host} cannot be reached ({_why(error)}); run it again when it can be"
    # What is left of RequestError: redirects without an end, and bytes that cannot be unpacked.
    odd = json.JSONDecodeError | FileMetadataError | httpx2.RequestError
    if isinstance(error, odd) or _is_misunderstood(error):
        return f"{hub.host} does not answer as a Hub does; check HF_ENDPOINT and any proxy"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{hub.repo_id}: the disk is full; free some space and run it again"
    if _is_said(error):
        return f"{hub.host} refuses {hub.repo_id}: {_one_line(str(error))}"
    return None


def _is_misunderstood(error: BaseException) -> bool:
    """Whether the client stumbled over an answer: JSON, but not what a Hub says (a key is missing).

    The same error raised in our own lines is a defect of ours and keeps its traceback.
    """
    if not isinstance(error, KeyError | TypeError | AttributeError | AssertionError | ValueError):
        return False
    at = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    parsed = not isinstance(error, ValueError) or any(f.endswith("_datetime.py") for f in at)
    return parsed and any(f"{os.sep}huggingface_hub{os.sep}" in f for f in at[-2:])


def _refusal(hub: Hub, status: int, error: BaseException) -> str:
    said = _one_line(getattr(error, "server_message", None) or "")
    code = f"{status}: {said}" if said else f"{status}"
    if isinstance(error, GatedRepoError):
        page = hub.url
        return f"{hub.repo_id} is gated: accept its licence at {page}, then `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"{hub.repo_id} has no such revision; give a commit or tag that its page lists"
    if status in NO_ROOM_STATUS or (status == 403 and re.search("storage|quota", said, re.I)):
        return (
            f"{hub.host} has no room for {hub.repo_id} ({code}); free or buy storage for {hub.org}"
        )
    if status == 429:
        asked = _retry_after(error)
        pause = f"in {asked:.0f} s" if asked is not None else "later"
        return f"{hub.host} is asked too often (429); run it again {pause}"
    if status >= 500:
        return f"{hub.host} is in trouble ({code}); see status.huggingface.co and run it again"
    if status in (409, 412):
        return f"{hub.repo_id} was changed by someone else meanwhile ({status}); run it again"
    request = _request(error) or ""
    return _denial(hub, status, code, writing=hub.writing and not request.startswith("GET"))


def _denial(hub: Hub, status: int, code: str, writing: bool) -> str:
    """401, 403, 404: what a token must be able to do, which differs for reading and writing."""
    if status == 401 and hub.writing:
        return (
            f"{hub.host} does not accept the token ({code}); make one with the role 'write' at "
            f"{without_password(hub.api.endpoint)}/settings/tokens and run `hf auth login`"
        )
    if status == 403 and writing:
        return (
            f"the token may not write to {hub.repo_id} ({code}); it needs the role 'write', or "
            f"fine-grained write access to the repositories of {hub.org}"
        )
    if status in (401, 403, 404):
        return (
            f"{hub.repo_id} is not on {hub.host}, or is not for this token to see ({code}); "
            "check the name, and log in with `hf auth login` if it is private"
        )
    return f"{hub.host} refuses {hub.repo_id} ({code})"


def _why(error: BaseException) -> str:
    """The network's trouble in a few words, dug out of the chain of wrapped errors."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, socket.gaierror):
            return "its name is not found: no network, or no DNS"
        if isinstance(inner, ConnectionRefusedError):
            return "connection refused"
        if isinstance(inner, ssl.SSLError):
            return f"its certificate is not accepted: {_one_line(str(inner))}"
        if isinstance(inner, httpx2.TimeoutException | TimeoutError):
            return "no answer in time"
        inner = inner.__cause__ or inner.__context__
    return _one_line(scrub(str(error))) or type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200].rstrip(".")
