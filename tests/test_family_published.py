"""A family and its domains on the Hub and back: the base is sent once, and verified with each of them.

The models are tiny, built by the real stages; the Hub is tests/hub_double.py over real HTTP.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.base.errors import UserError
from shared.domain.domain import load_domain
from shared.pipeline.family_publication import plan_family_publication, publish_family
from shared.pipeline.publication import PublishOptions, publish_release
from shared.pipeline.release_family import Asked, plan_family, release_family
from shared.release.family import write_family
from shared.release.model import family_folder, read_family_release, release_folder
from shared.release.signing import sign_folder
from shared.release.verify.limits import LARGEST_GRAPH
from shared.release.verify.report import before_loading, verify, verify_folder
from tests.hub_double import HubDouble, use_this_machine
from tests.test_publish_and_verify import open_the_gates
from tests.test_release_family import NAME, ONE, copied, first, tuned, typed, world
from tests.test_verify import edit_json, forged, make_key

__all__ = ["copied", "first", "tuned", "world"]
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
ON_THE_HUB = f"docintel/{NAME}"
DOMAINS = ("legal", "medical")
DATA = ("onnx/model_q4.onnx_data", "onnx/model_q4f16.onnx_data")


@pytest.fixture
def folder(copied: Path) -> Path:
    """A family whose domains may be published."""
    for domain in DOMAINS:
        forged(edit_json("release.json", open_the_gates))(release_folder(domain))
    return family_folder(NAME)


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    use_this_machine(monkeypatch)
    with HubDouble() as double:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", double.url)
        template = double.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_ENDPOINT", double.url)
        yield double


def on_the_hub(hub: HubDouble, name: str) -> dict[str, bytes]:
    return {n: content for n, content in hub.files(name).items() if n != ".gitattributes"}


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def model(domain: str) -> str:
    return f"docintel/docintel-{domain}-smollm3-3b-webgpu"


def failing(folder: Path) -> dict[str, str]:
    """The checks that do not hold, and why; without loading."""
    return {x.name: x.words for x in verify_folder(folder) if x.ok is False}


def refused(options: PublishOptions | None = None) -> str:
    with pytest.raises(UserError) as raised:
        publish_family(NAME, options)
    return str(raised.value)


class TestAFamilyAndItsDomainsOnTheHub:
    def test_have_the_bases_bytes_once_whoever_comes_first(
        self, hub: HubDouble, folder: Path
    ) -> None:
        publish_release(load_domain("medical"))
        publish_family(NAME)
        before = hub.keeper.sent
        publish_release(load_domain("legal"))
        for name, where in ((ON_THE_HUB, folder), (model("legal"), release_folder("legal"))):
            assert on_the_hub(hub, name) == contents(where)
        for file in DATA:
            digest = read_family_release(folder).files[file].sha256
            puts = [r for r in hub.requests if r.method == "PUT" and r.path == f"/lfs/{digest}"]
            assert [put.received for put in puts] == [(folder / file).stat().st_size]
        own = sum(
            (release_folder("legal") / name).stat().st_size
            for name in contents(release_folder("legal"))
            if name not in DATA
        )
        assert hub.keeper.resent == 0 and hub.keeper.sent - before <= own

    def test_are_verified_by_their_names_by_whoever_has_nothing_else(
        self, hub: HubDouble, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish_family(NAME)
        publish_release(load_domain("legal"))
        monkeypatch.setenv("DOCINTEL_ROOT", str(tmp_path / "stranger"))
        monkeypatch.setenv("HF_TOKEN", "")
        hub.requests.clear()
        found = {line.name: line for line in verify(f"{ON_THE_HUB}@v1", endpoint=hub.url)}
        assert {name: x.words for name, x in found.items() if x.ok is not True} == {
            "signature": found["signature"].words
        }
        assert {"swap q4f16", "loads q4", "loads swap_q4", "adapters"} <= found.keys()
        monkeypatch.setattr("shared.release.verify.layout.loads", lambda *_, **__: iter(()))
        legal = {line.name: line for line in verify(model("legal"), endpoint=hub.url)}
        assert legal["family"].ok and NAME in legal["family"].words
        assert not any(request.with_token for request in hub.requests)

    def test_are_held_against_every_version_of_the_family(
        self, hub: HubDouble, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish_family(NAME)
        publish_release(load_domain("legal"))
        monkeypatch.setattr("shared.release.verify.layout.loads", lambda *_, **__: iter(()))
        tree = hub.repos[ON_THE_HUB].at("main")[1]
        other = {"onnx/model_q4.onnx_data": tree["onnx/model_q4f16.onnx_data"]}
        hub.repos[ON_THE_HUB].commit(tree | other)
        legal = {line.name: line for line in verify(model("legal"), endpoint=hub.url)}
        assert legal["family"].ok, "the domain's base is that of v1"
        hub.repos[ON_THE_HUB].tags.clear()
        legal = {line.name: line for line in verify(model("legal"), endpoint=hub.url)}
        assert "model_q4.onnx_data: not the base of the family" in legal["family"].words

    def test_are_sent_again_only_where_something_changed(
        self, hub: HubDouble, folder: Path
    ) -> None:
        publish_family(NAME)
        hub.requests.clear()
        assert publish_family(NAME).unchanged and {r.method for r in hub.requests} == {"GET"}

    def test_go_to_another_organisation_under_its_name(self, hub: HubDouble, folder: Path) -> None:
        publish_family(NAME, PublishOptions(org="acme"))
        card = on_the_hub(hub, f"acme/{NAME}")["README.md"].decode()
        assert "docintel/" not in card and f"acme/{model('legal').split('/')[1]}" in card
        publish_release(load_domain("legal"), PublishOptions(org="acme"))
        legal = on_the_hub(hub, model("legal").replace("docintel/", "acme/", 1))["README.md"]
        assert f"acme/{NAME}" in legal.decode() and f"docintel/{NAME}" not in legal.decode()
        hub.requests.clear()
        assert publish_family(NAME, PublishOptions(org="acme")).unchanged

    def test_are_planned_without_a_word_to_the_hub(
        self, hub: HubDouble, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        plan = plan_family_publication(NAME, PublishOptions())
        assert plan.is_new and len(plan.difference.added) == len(contents(folder))
        assert typed("publish", "--family", NAME, "--dry-run") == 0
        assert f"repository  {ON_THE_HUB} (public, new)" in capfd.readouterr().out
        assert {request.method for request in hub.requests} == {"GET"}
        assert typed("publish", "--family", NAME) == 0
        assert f"{hub.url}/{ON_THE_HUB} v1 at" in capfd.readouterr().out
        assert typed("publish", "--family", NAME, "--domain", "legal") == 1
        assert "--domain or --family is wanted" in capfd.readouterr().err


class TestAFamilyIsNotPublished:
    def test_where_a_domain_of_it_may_not_be(self, copied: Path) -> None:
        assert f"{NAME}, legal is not published: gate" in refused()

    def test_where_a_domain_of_it_was_released_anew(self, folder: Path) -> None:
        edit_json("release.json", lambda r: r.update(key="f" * 16))(release_folder("medical"))
        assert "medical was released anew since; run `./inv release-family" in refused()

    def test_where_its_folder_was_changed(self, folder: Path) -> None:
        (folder / "domains" / "legal" / "prompt.md").write_text("Another prompt.")
        assert "domains/legal/prompt.md: not the file that was measured; run `./inv" in refused()

    def test_without_the_signature_that_a_key_asks_for(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("DOCINTEL_SIGNING_KEY", str(make_key(tmp_path, "ours")[0]))
        assert "model.sig: missing, though there is a signing key" in refused()


def test_a_domain_that_calibrated_the_base_and_was_not_released_need_not_come_along(
    copied: Path,
) -> None:
    """Its text is what the base needs; its adapter may be gone."""
    folder = family_folder(NAME)

    def alone(family: Any) -> None:
        for kept in (family.domains, family.adapters):
            kept.pop("medical")

    rewritten(folder, alone)
    shutil.rmtree(copied / "models" / "medical" / "adapter")
    plan = plan_family(Asked(domains=("legal",), rung="tuned"))
    assert [member.domain.name for member in plan.members] == ["legal"]
    made = release_family(plan, ONE).family
    assert made and sorted(made.domains) == ["legal"] and made.calibrated == ["legal", "medical"]


def rewritten(folder: Path, change: Callable[[Any], object]) -> None:
    """What a forger does: the card and all hashes put right, so that only the meaning is wrong."""
    family = read_family_release(folder)
    change(family)
    for record in (family.shared, *(a.files for a in family.adapters.values())):
        for name in record:
            content = (folder / name).read_bytes()
            record[name] = record[name].model_copy(update=hashed(content))
    write_family(folder, family)


def hashed(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def replaced(path: Path, content: bytes) -> None:
    """Another file in its place; whoever has a link to the old one keeps it."""
    path.unlink()
    path.write_bytes(content)


class TestAFamilyIsVerified:
    def test_whole_with_its_signature(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        private, public = make_key(tmp_path, "ours")
        monkeypatch.setenv("DOCINTEL_SIGNING_KEY", str(private))
        sign_folder(folder)
        found = {x.name: x for x in verify_folder(folder, public)}
        assert {x.ok for x in found.values()} == {True}
        assert "2 domains" in found["family.json"].words
        assert "2 adapters" in found["adapters"].words

    @pytest.mark.parametrize(
        ("name", "check", "words"),
        [
            ("adapters/legal.safetensors", "hashes", "not the file that was measured"),
            ("README.md", "figures", "not the card that family.json leads to"),
            ("adapters/else.json", "complete", "not in family.json"),
        ],
    )
    def test_and_a_change_is_found(self, folder: Path, name: str, check: str, words: str) -> None:
        path = folder / name
        content = path.read_bytes() if path.is_file() else b"{}"
        path.unlink(missing_ok=True)
        path.write_bytes(content + b"\n")
        assert words in failing(folder)[check]

    def test_an_adapter_of_another_family_does_not_pass_for_its_own(self, folder: Path) -> None:
        def other(family: Any) -> None:
            told = folder / "adapters" / "legal.json"
            data = json.loads(told.read_text()) | {"base_weights": "0" * 64}
            replaced(told, json.dumps(data).encode())

        rewritten(folder, other)
        assert failing(folder).keys() == {"swap q4", "swap q4f16"}
        assert "adapters/legal.json: base_weights: not that of" in failing(folder)["swap q4"]

    def test_the_adapter_for_onnxruntime_genai_is_the_pages(self, folder: Path) -> None:
        def other(family: Any) -> None:
            medical = (folder / "adapters" / "medical.onnx_adapter").read_bytes()
            replaced(folder / "adapters" / "legal.onnx_adapter", medical)

        rewritten(folder, other)
        found = failing(folder)
        assert found.keys() == {"adapters"}
        assert "legal.onnx_adapter: not the tensors of legal.safetensors" in found["adapters"]

    def test_a_graph_to_swap_in_reads_no_other_data(self, folder: Path) -> None:
        def other(family: Any) -> None:
            swap = folder / "onnx" / "swap_q4.onnx"
            data = b"model_q4.onnx_data", b"model_q5.onnx_data"
            replaced(swap, swap.read_bytes().replace(*data))

        rewritten(folder, other)
        assert "expected model_q4.onnx_data" in failing(folder)["swap q4"]

    def test_a_graph_that_holds_weights_is_not_read(self, folder: Path) -> None:
        def other(family: Any) -> None:
            swap = folder / "onnx" / "swap_q4.onnx"
            replaced(swap, swap.read_bytes() + bytes(LARGEST_GRAPH))

        rewritten(folder, other)
        assert "bytes without its data" in failing(folder)["swap q4"]

    def test_what_is_no_adapter_is_no_file_of_a_family(self, folder: Path) -> None:
        def other(family: Any) -> None:
            replaced(folder / "adapters" / "legal.onnx_adapter", b"\0\0\0\0TORX" + b"\0" * 64)

        rewritten(folder, other)
        assert "legal.onnx_adapter: is neither UTF-8 text" in failing(folder)["kinds"]


class TestADomainOfAFamilyIsVerified:
    def test_against_the_family_beside_it(self, folder: Path) -> None:
        found = {x.name: x for x in before_loading(release_folder("legal"))}
        assert found["family"].ok and "byte for byte" in found["family"].words

    def test_and_not_where_that_is_not_at_hand(self, folder: Path) -> None:
        folder.rename(folder.with_name("elsewhere"))
        found = {x.name: x for x in before_loading(release_folder("legal"))}
        assert found["family"].ok is None and "is not at hand" in found["family"].words

    def test_and_not_against_another_organisations_of_the_same_name(self, folder: Path) -> None:
        def other(data: dict[str, Any]) -> None:
            data["repository"] = f"others/{data['repository'].split('/')[1]}"

        edit_json("release.json", other)(release_folder("legal"))
        found = {x.name: x for x in before_loading(release_folder("legal"))}
        assert found["family"].ok is None and "is not at hand" in found["family"].words

    def test_and_fails_on_another_base(self, folder: Path) -> None:
        rewritten(folder, lambda family: family.shared.update(_other(folder, family)))
        found = {x.name: x for x in before_loading(release_folder("legal"))}
        assert "onnx/model_q4.onnx_data: not the base of the family" in found["family"].words

    def test_and_fails_where_it_names_what_it_does_not_have(self, folder: Path) -> None:
        def other(data: dict[str, Any]) -> None:
            data["facts"]["family"]["shared"]["onnx/model_q4.onnx_data"] = "0" * 64

        edit_json("release.json", other)(release_folder("legal"))
        found = {x.name: x for x in before_loading(release_folder("legal"))}
        assert "model_q4.onnx_data: not what facts.family names" in found["family"].words


def _other(folder: Path, family: Any) -> dict[str, Any]:
    """The base's data of q4 with a bit of it flipped, in the family's folder alone."""
    path = folder / "onnx" / "model_q4.onnx_data"
    content = path.read_bytes()
    replaced(path, bytes([content[0] ^ 1]) + content[1:])
    return {}


def test_a_family_that_grew_sends_the_new_domain_alone(hub: HubDouble, folder: Path) -> None:
    publish_family(NAME)
    before = hub.keeper.sent
    grown = release_family(plan_family(Asked(domains=("financial",))), ONE)
    assert grown.family is not None
    for domain in grown.family.domains:
        forged(edit_json("release.json", open_the_gates))(release_folder(domain))
    publish_family(NAME)
    written = sum(r.bytes for r in grown.written.values())
    manifest = (folder / "family.json").stat().st_size
    assert hub.keeper.sent - before == written + manifest
