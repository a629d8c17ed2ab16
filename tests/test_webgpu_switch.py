"""A family at the page: one base, domains switched to by their adapters alone, files kept by hash."""

# ruff: noqa: F401, F811 (pytest finds the fixture `world` by its name)
from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from shared.base.hashing import files_below, sha256_now
from shared.domain.grammar.schema import grammar
from shared.pipeline.family import Family, build_family
from shared.pipeline.site import write_site
from shared.webgpu_bench import driver
from shared.webgpu_bench.model_list import MANIFEST, family_entries, listing, page_manifest
from shared.webgpu_bench.server import serve
from tests.axe import violations_everywhere
from tests.hub_double import HubDouble
from tests.screenshots import tabs
from tests.test_family import IDS, member, world
from tests.test_site import static_server
from tests.test_webgpu_swap import MOST, on_the_cpu

TURNS = ("legal", "medical", "legal")
FIELDS = {"legal": "ok", "medical": "safe"}
ASK = """async ({ models, turns, ids, most }) => {
  const lib = await import("/engine.js");
  const { keptOf, loadBase, switchDomain } = await import("/models.js");
  const gpu = window.docintelGpu;
  const answers = [];
  let engine = null;
  for (const turn of turns) {
    const model = models.find(({ domain }) => domain === turn);
    const kept = keptOf(model, lib.place(model));
    const fetched = [];
    engine ??= await loadBase(lib, model, "q4", kept, (bytes) => fetched.push(bytes));
    await switchDomain(engine, model, kept, (bytes) => fetched.push(bytes));
    const run = lib.newRun("m", ids);
    const more = { min_new_tokens: most };
    await engine.generate({ run, input_ids: ids, max_new_tokens: most, more });
    answers.push({ ids: run.output_ids, last: fetched.at(-1) ?? 0, live: gpu.live_bytes });
  }
  await engine.dispose();
  return { answers, left: gpu.live_bytes, errors: gpu.uncaptured_errors };
}"""

NO_CACHE = "caches.open = () => Promise.reject(new DOMException('no', 'SecurityError'))"
NO_ROOM = "Cache.prototype.put = () => Promise.reject(new DOMException('no', 'QuotaExceededError'))"
KEPT = """async () => {
  const names = await caches.keys();
  const urls = async (words) => {
    const store = await caches.open(names.find((name) => name.startsWith(words)) ?? words);
    return (await store.keys()).map(({ url }) => url);
  };
  return { hashes: await urls("docintel files"), addresses: await urls("docintel models") };
}"""
"""What the page keeps by hash, and its service worker by address."""


@pytest.fixture(scope="module")
def family(world: Path) -> Family:
    return build_family([member("legal"), member("medical")])


def schema(field: str) -> dict[str, Any]:
    answers = {field: {"enum": ["yes", "no"]}}
    return {
        "type": "object",
        "properties": answers,
        "required": [field],
        "additionalProperties": False,
    }


def replaced(path: Path, text: str) -> None:
    """Written anew: the file may be a link to another's."""
    path.unlink()
    path.write_text(text)


@pytest.fixture
def folder(family: Family, tmp_path: Path) -> Path:
    """The family, each of its domains with a schema whose answers are short."""
    copy = Path(shutil.copytree(family.folder, tmp_path / "family", copy_function=os.link))
    for domain, field in FIELDS.items():
        replaced(copy / "domains" / domain / "schema.json", json.dumps(schema(field)))
        replaced(copy / "domains" / domain / "grammar.ebnf", grammar(schema(field)))
    return copy


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    with served_as({"both": folder}) as url:
        yield url


def served_as(models: dict[str, Path]) -> Any:
    mounts = driver.page_mounts() | {f"/models/{name}": path for name, path in models.items()}
    return serve(mounts, {f"/{MANIFEST}": lambda: page_manifest(listing(models))})


class Fetched:
    """What a page asked of /models/ and got, since it was last looked at."""

    def __init__(self, page: Any) -> None:
        self.requests: list[Any] = []
        page.on("request", lambda request: self.requests.append(request))

    def asked(self) -> dict[str, Any]:
        """Requests by name below the model's folder."""
        asked, self.requests[:] = list(self.requests), []
        parts = [(urlsplit(request.url).path.split("/", 3), request) for request in asked]
        return {where[3]: request for where, request in parts if where[1] == "models"}

    def __call__(self) -> dict[str, int]:
        """Bytes by that name, once all are here."""
        return {name: r.sizes()["responseBodySize"] for name, r in self.asked().items()}


def loaded(page: Any, said: str) -> None:
    """What is chosen can be asked, and a screen reader was told so."""
    page.wait_for_selector("body[data-state=ready]:has(#load:text-is('Load again'))")
    assert page.inner_text("#said") == said


def opened(page: Any, url: str) -> None:
    """The page is there, and the first domain, legal, is loaded."""
    page.goto(url)
    page.wait_for_selector("body[data-state=choosing]")
    page.click("#load")
    loaded(page, "legal is loaded")


def switched(page: Any, domain: str) -> None:
    page.select_option("#model", f"both/{domain}")
    page.click("#load")
    loaded(page, f"{domain} is loaded")


def told(page: Any, words: str) -> None:
    page.wait_for_function(
        "words => document.getElementById('about').textContent.includes(words)", arg=words
    )


def answered(page: Any, field: str) -> str:
    """The text in the box is answered, without a prompt; the answer's raw text."""
    turns = page.locator(".turn.theirs small").count()
    page.fill("#system", "")
    page.fill("#text", "Is it?")
    page.click("#send")
    page.locator(".turn.theirs small").nth(turns).wait_for()
    assert page.locator(".mark").nth(turns).inner_text() == "valid: satisfies the schema"
    text = str(page.locator(".raw pre").nth(turns).text_content())
    assert list(json.loads(text)) == [field]
    return text


@pytest.mark.slow
class TestADomainOfAFamilyAtThePage:
    def test_has_the_tokens_of_the_cpu_each_time_it_is_switched_to(
        self, family: Family, served: str
    ) -> None:
        models = listing({"both": family.folder})
        with tabs() as pages:
            page = pages["desktop-light"]
            page.goto(f"{served}?driven")
            asked = {"models": models, "turns": TURNS, "ids": IDS, "most": MOST}
            found: dict[str, Any] = page.evaluate(ASK, asked)
        assert (found["errors"], found["left"]) == ([], 0)
        for name, answer in zip(TURNS, found["answers"], strict=True):
            assert answer["ids"] == on_the_cpu(family.packages[name].folder)
        sizes = {model["domain"]: model["adapter"]["bytes"] for model in models}
        first, second, third = found["answers"]
        assert [a["last"] for a in (first, second, third)] == [sizes["legal"], sizes["medical"], 0]
        assert first["live"] < second["live"] == third["live"]
        print("GPU buffer bytes by turn:", [answer["live"] for answer in found["answers"]])

    def test_is_switched_to_by_keyboard_with_its_prompt_its_schema_and_its_adapter_alone(
        self, folder: Path, served: str
    ) -> None:
        legal, medical = listing({"both": folder})
        with tabs() as pages:
            page = pages["desktop-light"]
            fetched = Fetched(page)
            page.goto(served)
            page.wait_for_selector("body[data-state=choosing]")
            names = page.locator("#model optgroup option").all_text_contents()
            assert [name.split(" · ")[0] for name in names] == ["legal", "medical"]
            assert all(name.endswith(" MB") for name in names)
            assert "MB to download for the base" in page.inner_text("#about")
            assert "MB for legal, from " in page.inner_text("#about")
            page.click("#load")
            loaded(page, "legal is loaded")
            found = fetched()
            assert found.keys() == {*legal["files"], legal["adapter"]["file"]} - other_type(legal)
            assert page.input_value("#system") == legal["system_prompt"]
            page.click("#example")
            assert page.input_value("#text") == legal["example"]
            first = answered(page, "ok")
            before = page.evaluate("docintelGpu.live_bytes")
            page.focus("#model")
            page.keyboard.press("ArrowDown")
            assert page.inner_text("#load") == "Switch to medical" and page.is_disabled("#send")
            told(page, "MB to download for medical, whose base is here")
            assert violations_everywhere(page) == []
            page.focus("#load")
            page.keyboard.press("Enter")
            loaded(page, "medical is loaded")
            assert fetched() == {medical["adapter"]["file"]: medical["adapter"]["bytes"]}
            assert page.input_value("#system") == medical["system_prompt"]
            assert page.evaluate("document.activeElement.id") == "text"
            answered(page, "safe")
            assert page.locator(".turn.theirs small").last.inner_text().startswith("medical · ")
            after = page.evaluate("docintelGpu.live_bytes")
            assert violations_everywhere(page) == []
            switched(page, "legal")
            assert fetched() == {}
            assert answered(page, "ok") == first
            assert before < after == page.evaluate("docintelGpu.live_bytes")

    def test_is_loaded_again_from_what_the_browser_keeps(self, served: str) -> None:
        with tabs() as pages:
            page = pages["desktop-light"]
            fetched = Fetched(page)
            opened(page, served)
            switched(page, "medical")
            assert fetched()
            page.reload()
            page.wait_for_selector("body[data-state=choosing]")
            told(page, "nothing to download: it is kept in this browser")
            page.click("#load")
            loaded(page, "legal is loaded")
            switched(page, "medical")
            assert fetched() == {}

    def test_on_the_hub_is_fetched_from_its_commit(self, folder: Path, hub: HubDouble) -> None:
        commit = hub.add("acme/both", {n: (folder / n).read_bytes() for n in files_below(folder)})
        entries = family_entries("both", folder, "acme/both", commit)
        index = {f"/{MANIFEST}": lambda: page_manifest(entries, hub=hub.url)}
        with serve(driver.page_mounts(), index) as url, tabs() as pages:
            page = pages["desktop-light"]
            opened(page, url)
            hub.requests.clear()
            switched(page, "medical")
            asked = {r.path.split("/resolve/")[-1] for r in hub.asked("GET", "/resolve/")}
            assert asked == {f"{commit}/adapters/medical.safetensors"}
            answered(page, "safe")

    @pytest.mark.parametrize("what", [NO_CACHE, NO_ROOM])
    def test_is_fetched_each_time_where_the_browser_keeps_nothing(
        self, folder: Path, served: str, what: str
    ) -> None:
        with tabs() as pages:
            page = pages["desktop-light"]
            page.add_init_script(what)
            fetched = Fetched(page)
            opened(page, served)
            switched(page, "medical")
            answered(page, "safe")
            assert "onnx/model_q4.onnx_data" in fetched.asked()

    @pytest.mark.parametrize("what", ["", NO_CACHE], ids=["kept", "not kept"])
    def test_that_is_not_what_was_released_leaves_the_other_in_use(
        self, folder: Path, served: str, what: str
    ) -> None:
        file = folder / "adapters" / "medical.safetensors"
        content = bytearray(file.read_bytes())
        file.unlink()
        file.write_bytes(bytes([*content[:-1], content[-1] ^ 1]))
        with tabs() as pages:
            page = pages["desktop-light"]
            page.add_init_script(what)
            opened(page, served)
            page.select_option("#model", "both/medical")
            page.click("#load")
            page.wait_for_selector("#notice:not([hidden])")
            words = "adapters/medical.safetensors is not the file that was released"
            assert words in page.inner_text("#notice")
            assert page.is_disabled("#send")
            assert violations_everywhere(page) == []
            page.select_option("#model", "both/legal")
            answered(page, "ok")

    def test_that_its_host_refuses_or_drops_is_not_called_missing(self, served: str) -> None:
        file = "**/adapters/medical.safetensors"
        refused = "answered 503 for adapters/medical.safetensors"
        with tabs() as pages:
            page = pages["desktop-light"]
            opened(page, served)
            page.select_option("#model", "both/medical")
            page.route(file, lambda route: route.fulfill(status=503))
            page.click("#load")
            page.wait_for_function("words => notice.innerText.includes(words)", arg=refused)
            page.unroute(file)
            page.route(file, lambda route: route.abort())
            page.click("#load")
            gone = "The server does not answer"
            page.wait_for_function("words => notice.innerText.includes(words)", arg=gone)
            page.unroute(file)
            switched(page, "medical")
            answered(page, "safe")

    def test_whose_buffer_the_gpu_refuses_gives_no_answer(self, served: str) -> None:
        """onnxruntime-web goes on without it, to numbers that the grammar makes a valid answer of."""
        with tabs() as pages:
            page = pages["desktop-light"]
            opened(page, served)
            page.fill("#system", "")
            page.fill("#text", "Is it?")
            page.evaluate("docintelGpu.out_of_memory = 'no room for it'")
            page.click("#send")
            page.wait_for_function("notice.innerText.includes('There is not enough memory')")
            page.locator(".turn.theirs small").wait_for()
            assert page.inner_text(".mark") == "unfinished: it was cut off"


def other_type(model: dict[str, Any]) -> set[str]:
    """Files of the numeric type that a software adapter does not run."""
    return {name for name in model["files"] if "_q4f16.onnx" in name}


@pytest.mark.slow
class TestAFileThatIsKept:
    def test_is_not_fetched_under_another_address(
        self, family: Family, folder: Path, tmp_path: Path
    ) -> None:
        alone = tmp_path / "legal"
        shutil.copytree(family.packages["legal"].folder, alone, copy_function=os.link)
        files = {
            name: {"sha256": sha256_now(alone / name), "bytes": (alone / name).stat().st_size}
            for name in files_below(alone)
        }
        (alone / "release.json").write_text(json.dumps({"base": "acme/b", "files": files}))
        same = Path(shutil.copytree(folder, tmp_path / "same", copy_function=os.link))
        with served_as({"both": folder, "same": same, "legal": alone}) as url, tabs() as pages:
            page = pages["desktop-light"]
            fetched = Fetched(page)
            opened(page, url)
            assert "onnx/model_q4.onnx_data" in fetched()
            page.select_option("#model", "same/legal")
            told(page, "nothing to download: it is kept in this browser")
            page.click("#load")
            loaded(page, "legal is loaded")
            assert fetched() == {}
            page.select_option("#model", "legal")
            page.click("#load")
            loaded(page, "The model is loaded")
            own = {"onnx/model_q4.onnx", "onnx/model_q4.onnx_data_1"}
            assert own <= fetched().keys() <= own | {"config.json", "genai_config.json"}


@pytest.mark.slow
def test_a_site_gives_a_family_away_under_a_sub_path_and_then_works_without_its_host(
    folder: Path, tmp_path: Path
) -> None:
    write_site(tmp_path / "host" / "some" / "where", [], families=[str(folder)])

    def answers_by_both(page: Any) -> None:
        page.wait_for_selector("body[data-state=choosing]")
        page.click("#load")
        loaded(page, "legal is loaded")
        answered(page, "ok")
        page.select_option("#model", "family/medical")
        page.click("#load")
        loaded(page, "medical is loaded")
        answered(page, "safe")

    with static_server(tmp_path / "host") as (url, stop), tabs() as pages:
        page = pages["desktop-dark"]
        page.goto(f"{url}some/where/")
        answers_by_both(page)
        page.wait_for_selector("#offline")
        kept = page.evaluate(KEPT)
        assert len(kept["hashes"]) == len(set(kept["hashes"])) > 5
        assert [url for url in kept["addresses"] if url.endswith(("_data", ".safetensors"))] == []
        stop()
        second = page.context.new_page()
        second.goto(f"{url}some/where/")
        answers_by_both(second)
