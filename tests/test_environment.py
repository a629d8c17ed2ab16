"""Odd environment variables: one sentence that names the variable, and no traceback."""

from __future__ import annotations

import pytest

from shared.base.environment import network_mistake, number_mistake, without_password
from shared.base.errors import RungFailed
from shared.hub.download import fetch_snapshot
from tests.hub_double import HubDouble
from tests.test_commands import invoke

SPEC = "hf:org/model@" + "1" * 40
NETWORK = {
    ("HTTPS_PROXY", "proxy:8080"): "begins with http://",
    ("https_proxy", "http://proxy:port"): "port",
    ("HTTP_PROXY", "http://proxy:99999"): "port",
    ("ALL_PROXY", "socks5://127.0.0.1:9"): "`pip install socksio`",
    ("ALL_PROXY", "http://"): "names a host",
    ("HF_ENDPOINT", "huggingface.co"): "begins with http://",
    ("HF_ENDPOINT", "https://hub:x"): "port",
    ("HF_TOKEN", "hf_schlüssel"): "only ASCII",
    ("SSL_CERT_FILE", "/no/such.pem"): "no such file",
}


@pytest.mark.parametrize(("variable", "says"), NETWORK.items(), ids=map(str, NETWORK))
def test_that_stops_requests_skips_the_rung_and_is_named(
    variable: tuple[str, str], says: str, hub: HubDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*variable)
    with pytest.raises(RungFailed) as caught:
        fetch_snapshot(SPEC, endpoint=hub.url)
    assert str(caught.value).startswith(variable[0]) and says in str(caught.value)
    assert not hub.requests


@pytest.mark.parametrize("name", ["HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"])
def test_that_is_no_number_ends_any_command(name: str) -> None:
    run = invoke("publish", "--domain", "legal", **{name: "soon"})
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == f"error: {name}=soon: must be a whole number of seconds"


def test_a_proxys_password_is_not_shown() -> None:
    said = network_mistake({"HTTPS_PROXY": "http://ada:secret@proxy:x"})
    assert said and said.startswith("HTTPS_PROXY=http://***@proxy:x: ")


def test_ordinary_ones_pass() -> None:
    ordinary = {
        "HTTPS_PROXY": "http://ada:pw@proxy:3128",
        "HF_ENDPOINT": "https://hub",
        "HF_TOKEN": "",
    }
    assert (
        network_mistake(ordinary) is None and number_mistake({"HF_HUB_ETAG_TIMEOUT": "10"}) is None
    )


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://ci:pw@hub.corp/x", "https://***@hub.corp/x"),
        ("user:secret@proxy:8080", "***@proxy:8080"),
        ("https://hub.corp", "https://hub.corp"),
    ],
)
def test_an_address_is_shown_without_who_is_asking(address: str, shown: str) -> None:
    assert without_password(address) == shown
