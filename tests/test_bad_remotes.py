"""Bad inputs from the Hub, with the real client over real HTTP: one sentence, nothing half-made."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from shared.base.errors import UserError
from shared.release.verify.report import verify
from tests.hub_double import Fault, HubDouble, closed_port, use_this_machine
from tests.test_bad_inputs import header, need_nothing_half_made, run

GOOD = {"config.json": b"{}", "tokenizer.json": b"{}", "tokenizer_config.json": b"{}"}
MODEL = "HuggingFaceTB/SmolLM3-3B"
RemoteRow = tuple[str, Callable[[HubDouble], object], str]


def away(hub: HubDouble) -> None:
    huggingface_hub.constants.ENDPOINT = closed_port()


REMOTES: list[RemoteRow] = [
    ("no such repository", lambda hub: None, f"{MODEL} is not on 127.0.0.1"),
    ("nobody there", away, "cannot be reached (connection refused); run it again when it can be"),
    (
        "a gated one",
        lambda hub: hub.add(MODEL, GOOD | {"model.safetensors": b"x"}, gated=True),
        f"{MODEL} is gated: accept its licence at ",
    ),
    (
        "only pickles",
        lambda hub: hub.add(MODEL, GOOD | {"pytorch_model.bin": b"x"}),
        f"{MODEL} has no safetensors weights (found pytorch_model.bin)",
    ),
    (
        "no weights",
        lambda hub: hub.add(MODEL, GOOD),
        "no safetensors weights (found no weights at all)",
    ),
    (
        "a pickle called safetensors",
        lambda hub: hub.add(MODEL, GOOD | {"model.safetensors": pickle.dumps({"a": print})}),
        "model.safetensors: holds a pickle, which can run code when read",
    ),
    (
        "a header bomb",
        lambda hub: hub.add(MODEL, GOOD | {"model.safetensors": header(1 << 40)}),
        "model.safetensors: its header claims 1,099,511,627,776 bytes",
    ),
    (
        "code in its config",
        lambda hub: hub.add(
            MODEL, GOOD | {"config.json": b'{"auto_map": {}}', "model.safetensors": header(2)}
        ),
        "config.json: auto_map: names code to be run",
    ),
    (
        "a server that asks for an hour",
        lambda hub: hub.faults.append(Fault("GET", "/api/models", 429, {"Retry-After": "3600"})),
        "is asked too often (429); run it again in 3600 s",
    ),
    (
        "a token that is not accepted",
        lambda hub: hub.faults.append(Fault("GET", "/api/models", 401)),
        "or is not for this token to see (401",
    ),
]


@pytest.fixture
def hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    use_this_machine(monkeypatch)
    with HubDouble() as double:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", double.url)
        template = double.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root / "hub"))
        yield double


@pytest.mark.parametrize(
    ("spoil", "words"), [row[1:] for row in REMOTES], ids=[row[0] for row in REMOTES]
)
def test_a_remote_with(
    root: Path, hub: HubDouble, spoil: Callable[[HubDouble], object], words: str
) -> None:
    spoil(hub)
    result = run("base-with-prompt")
    assert result.chain is not None
    (attempt,) = result.chain.attempts
    assert words in attempt.reason and "\n" not in attempt.reason
    need_nothing_half_made(root)


RELEASES: list[RemoteRow] = [
    ("no manifest", lambda hub: hub.add("a/b", {"README.md": b"#"}), "release.json: missing"),
    (
        "a manifest that is none",
        lambda hub: hub.add("a/b", {"release.json": b"[]"}),
        "release.json: Input should be an object",
    ),
    (
        "a manifest cut short",
        lambda hub: hub.add("a/b", {"release.json": b'{"version": 2, '}),
        "release.json: not valid JSON: Expecting property name",
    ),
    (
        "a manifest a thousand levels deep",
        lambda hub: hub.add("a/b", {"release.json": b"[" * 5000}),
        "release.json: not valid JSON: nested deeper than 100 levels",
    ),
]


@pytest.mark.parametrize(
    ("spoil", "words"), [row[1:] for row in RELEASES], ids=[row[0] for row in RELEASES]
)
def test_a_release_on_the_hub_with(
    root: Path, hub: HubDouble, spoil: Callable[[HubDouble], object], words: str
) -> None:
    spoil(hub)
    failed = [line.words for line in verify("a/b", endpoint=hub.url) if line.ok is False]
    assert len(failed) == 1 and words in failed[0] and "\n" not in failed[0]


def test_a_name_on_the_hub_that_leads_out_is_refused(root: Path, hub: HubDouble) -> None:
    hub.add("a/b", {"../../../escaped.json": b"{}"})
    with pytest.raises(UserError, match=r"a/b: '\.\./\.\./\.\./escaped\.json' would lead out"):
        list(verify("a/b", endpoint=hub.url))
    assert not list(root.parent.rglob("escaped.json"))
