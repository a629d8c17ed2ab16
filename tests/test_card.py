"""The model card: golden files for the four domains, and nothing that can break out of its place.

The golden cards are rendered from the fixed, made-up release below; none of their figures was ever
measured. After a wanted change: `UPDATE_GOLDEN=1 pytest tests/test_card.py`, and read the diff.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from shared.base import paths
from shared.base.errors import UserError
from shared.base.front_matter import read_front_matter
from shared.base.manifest import FileRecord, Manifest, Measurement
from shared.base.tables import cell, fenced, table, words
from shared.domain.domain import domain_names
from shared.domain.settings import Gate
from shared.release.card.card import render_card
from shared.release.card.front_matter import problems
from shared.release.card.usage import module
from shared.release.gates import judge_gates
from shared.release.model import Attempt, Release
from shared.source.training import training_details

GOLDEN = Path(__file__).parent / "golden"
DOMAINS = ["contracts", "financial", "legal", "medical"]
SHARES = {
    "json_validity": 0.975,
    "schema_compliance": 0.95,
    "field_score": 0.81,
    "fenced": 0.0,
    "degenerate": 0.025,
}


def measured() -> dict[str, Measurement]:
    """Made-up figures with every feature a table knows: n, interval ends, reasons, software."""
    m = {
        "source.parameters": Measurement(value=3_075_098_624, unit="parameters"),
        "build.wall_seconds": Measurement(value=281.5, unit="s"),
        "build.peak_rss_bytes": Measurement(value=6_900_000_000, unit="B"),
        "package.q4f16_bytes": Measurement(value=1_746_735_104, unit="B"),
        "package.q4_bytes": Measurement(value=1_990_000_000, unit="B"),
        "check.release.free.decode_tokens_per_second": Measurement(
            value=5.6, unit="tokens/s", how="CPU, greedy"
        ),
        "bench.loads": Measurement(value=True, where="q4 on a made-up adapter", how="loaded"),
        "bench.greedy_agreement": Measurement(value=1.0, unit="share", n=64, how="same file"),
        "bench.load_seconds": Measurement(value=2.25, unit="s", software_adapter=True),
        "bench.decode_tokens_per_second": Measurement.missing("no GPU was at hand", "tokens/s"),
        "bench.peak_gpu_bytes": Measurement(value=2_500_000_000, unit="B"),
    }
    for mode, more in {"free": 0.0, "constrained": 0.011}.items():
        for system, factor in {"base": 0.5, "parent": 1.0, "release": 0.96}.items():
            for name, value in SHARES.items():
                m[f"check.{system}.{mode}.{name}"] = share(value * factor + more)
        m[f"check.release_vs_base.{mode}.field_score"] = share(0.37 + more, "better")
        m[f"check.release_vs_parent.{mode}.field_score"] = share(
            -0.03 - more, "no difference shown"
        )
        m[f"check.parent_vs_base.{mode}.field_score"] = share(0.4, "better")
    m["check.floor.field_score"] = share(0.3)
    m["check.better_than_one_answer"] = Measurement(value=True, how="78.9 % against 30.0 %", n=40)
    m["check.better_than_base"] = Measurement(value=True, how="38.1 % against 0.0 %", n=40)
    for name in ("kl_divergence", "agreement", "perplexity_ratio"):
        m[f"fidelity.{name}"] = Measurement(value=0.9, n=1000, standard_error=0.01)
    return m


def share(value: float, how: str = "") -> Measurement:
    return Measurement(
        value=value,
        unit="points" if how else "share",
        n=40,
        low=value - 0.05,
        high=value + 0.05,
        how=how,
    )


def synthetic(domain: str, **changes: Any) -> Release:
    """A release that never was."""
    folder = paths.REPOSITORY / "domains" / domain
    manifest = Manifest.model_construct(
        measurements={
            n.removeprefix("check."): m for n, m in measured().items() if n.startswith("check.")
        }
    )
    gate = Gate(name="JSON validity", measurement="check.release.free.json_validity", at_least=0.98)
    tried = {"source": "models/x/merged", "base": "acme/Base-3B", "exporter": "olive"}
    values: dict[str, Any] = {
        "key": "0123456789abcdef",
        "domain": domain,
        "rung": "first",
        "exporter": "olive",
        "repository": f"acme/docintel-{domain}-base-3b-webgpu",
        "base": "acme/Base-3B",
        "licence": "apache-2.0",
        "prompt_only": False,
        "publishable": True,
        "not_publishable_because": None,
        "why": "the fine-tuned model of choice",
        "created": "2026-01-01T00:00:00+00:00",
        "git_commit": "c" * 40,
        "git_clean": True,
        "manifests": dict.fromkeys(("source", "build", "package", "check", "bench"), "k" * 16),
        "tools": {"olive-ai": "0.13.0", "onnx": "1.23.2"},
        "source_files": {"config.json": "a" * 64, "model.safetensors": "b" * 64},
        "card_template": (folder / "card.md").read_text(encoding="utf-8"),
        "example": "A question, as a reader of the card would ask it.",
        "measurements": measured(),
        "facts": {
            "source": {"training": {"method": "LORA", "rank (r)": "16"}},
            "check": {
                "origin": "our own held-out records",
                "records": 40,
                "base_label": "base",
                "modes": ["free", "constrained"],
                "advice": "Hold the decoding to the schema.",
                "forcing": "29 model runs an answer, 64 token by token.",
                "exceptions": [{"system": "base", "id": "r7", "cause": "cut off after 160 tokens"}],
            },
            "card": {"language": ["en"], "datasets": []},
            "sample": {
                "fields": ["issue", "conclusion"],
                "input": "A question, as a reader of the card would ask it.",
                "answer": '{"issue": "other", "conclusion": "unclear"}',
                "gold": '{"issue": "other", "conclusion": "void"}',
            },
            "recipe": {
                "words": "CalibratedQuant (bits 4, group_size 32, sym true) → StreamingModelBuilder",
                "others": {
                    "rows": [["rounded", *"abcde"], ["calibrated, this release", *"fghij"]],
                    "why": "_nearest_",
                },
            },
            "fidelity": {
                "tokens": 1000,
                "records": 12,
                "origin": "our own held-out records",
                "hidden_by_the_cut_at_most": 0.0001,
            },
            "bench": {
                "browser": "a made-up browser",
                "dtype": "q4",
                "dtype_reason": "no shader-f16",
            },
        },
        "gates": judge_gates([gate], {"check": manifest}),
        "attempts": [
            Attempt(rung="zeroth", outcome="skipped", stage="source", reason="not there", **tried),
            Attempt(rung="first", outcome="taken", stage="gates", reason="of choice", **tried),
        ],
        "files": {"config.json": FileRecord(sha256="d" * 64, bytes=1234)},
    }
    return Release(**(values | changes))


def card_of(domain: str, **changes: Any) -> str:
    prompt = (paths.REPOSITORY / "domains" / domain / "prompt.md").read_text(encoding="utf-8")
    return render_card(synthetic(domain, **changes), prompt.strip().replace("{domain}", domain))


def html(markdown: str) -> str:
    """As a reader's page shows it: CommonMark with GitHub's tables."""
    return str(MarkdownIt("commonmark").enable("table").render(markdown))


@pytest.mark.parametrize("domain", DOMAINS)
class TestTheCardOf:
    def test_is_as_the_golden_file_has_it(self, domain: str) -> None:
        path, card = GOLDEN / f"{domain}.md", card_of(domain)
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(card, encoding="utf-8")
        assert card == path.read_text(encoding="utf-8"), "UPDATE_GOLDEN=1, and read the diff"

    def test_has_front_matter_that_the_hub_takes(self, domain: str) -> None:
        data = read_front_matter(card_of(domain))
        assert problems(data) == []
        assert data["widget"][0]["messages"][0]["role"] == "user"
        index = ModelCard(card_of(domain)).data.eval_results
        assert {r.metric_type: r.metric_value for r in index}["free_json_validity"] == 0.936

    def test_has_every_part_that_a_reader_looks_for(self, domain: str) -> None:
        card = card_of(domain)
        for heading in (
            *("## Use it", "## The prompt", "## Does it do the work?", "## In the browser"),
            *("### Devices", "## Files", "## Which path worked, and why", "## Gates"),
            *("## Intended use and limits", "## How this was made", "## Verify it"),
        ):
            assert f"\n{heading}\n" in card
        assert "web-xgrammar" in card and "onnxruntime_genai" in card

    def test_says_that_it_is_no_advice(self, domain: str) -> None:
        kind = {"medical": "medical advice", "financial": "investment, tax"}.get(
            domain, "legal adv"
        )
        text = " ".join(card_of(domain).split())
        assert f"is not {kind}" in text and "must" in text


def test_all_domains_have_a_golden_card() -> None:
    assert domain_names() == DOMAINS


def test_without_training_details_says_not_provided() -> None:
    assert "not provided" in card_of("legal", facts={})


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ speed }}", r"legal/card\.md:1: 'speed' is undefined; valid are: "),
        ("a\n{{ summry }}", r"card\.md:2: 'summry' is undefined; did you mean 'summary'\?"),
    ],
)
def test_a_place_that_is_unknown_is_a_sentence(template: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        card_of("legal", card_template=template)


NASTY = "x |\n\n<script>alert(1)</script> [a](javascript:b) ![i](//e/x) # --- `code` {{ 7*7 }}"


class TestAValueStaysInItsPlace:
    def test_in_every_table_and_paragraph(self) -> None:
        attempt = synthetic("legal").attempts[1].model_copy(update={"rung": NASTY, "reason": NASTY})
        changes = {
            "rung": NASTY,
            "why": NASTY,
            "not_publishable_because": NASTY,
            "tools": {NASTY: "1"},
        }
        card = card_of("legal", attempts=[attempt], **changes)
        assert "<script" not in card and "49" not in card.split("## Files")[1]
        ours = ("<details>", "</details>", "<summary>")
        for line in card.splitlines():
            assert not line.startswith("<") or line.startswith(ours)
        rows = [x for x in card.splitlines() if "alert" in x and x.startswith("|")]
        assert rows and all(row.endswith("|") for row in rows)
        assert "[a](java" not in card and "[a](java" not in words(NASTY)

    def test_in_the_front_matter(self) -> None:
        evil = "A\n---\nlicense: mit\n- x: {y"
        card = card_of("legal", example=evil, facts={"check": {"origin": evil, "records": 1}})
        data = read_front_matter(card)
        assert data["license"] == "apache-2.0"
        assert data["widget"][0]["messages"][0]["content"] == evil

    def test_in_a_code_block(self) -> None:
        assert fenced("a\n```\n<b>").splitlines()[0] == "````text"
        prompt = "```\n# Heading\n````"
        card = render_card(synthetic("legal"), prompt)
        assert f"`````text\n{prompt}\n`````" in card

    def test_in_a_cell(self) -> None:
        assert cell("a|b\nc<i>") == "a\\|b c&lt;i&gt;"
        assert len(table(("a",), [("x\n|\ny",)]).splitlines()) == 3

    @pytest.mark.parametrize(
        "text",
        [
            r"\[x\](https://example.com)",
            "`[x](https://example.com)",
            "``a` [x](https://example.com) `b``c`",
            "`` [x](https://example.com) `",
            r"`\` [x](https://example.com) `",
            r"`a` [x](https://example.com)",
        ],
    )
    def test_in_a_cell_or_a_header_leaves_no_link(self, text: str) -> None:
        assert "<a " not in html(table((text, "b"), [(text, "c")]))
        assert "<a " in html(table(("a", "b"), [("c", "d")]) + "\n\n[x](https://example.com)")

    @pytest.mark.parametrize("text", [r"a\|b", r"`a\|b`", r"a\\|b", "`a|b`", "a|b\\"])
    def test_in_a_cell_or_a_header_ends_no_cell(self, text: str) -> None:
        found = html(table((text, "b"), [(text, "c")]))
        assert [found.count(tag) for tag in ("<th>", "<td>", "<tr>")] == [2, 2, 2]
        assert "<td>c</td>" in found and "<th>b</th>" in found

    def test_in_code_stays_as_it_is(self) -> None:
        assert cell("`a_[0]` and [b] `c") == r"`a_[0]` and \[b\] \`c"

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"base": "acme/<b>"}, "base: 'acme/<b>' is no model of the Hub; write org/name"),
            ({"base": "base"}, "base: 'base' is no model of the Hub; write org/name"),
            ({"licence": "My Licence"}, "licence: 'My Licence' is no licence identifier"),
            ({"licence": "other"}, "licence: 'other' needs licence_name and licence_link"),
            (
                {"licence": "other", "licence_name": "x", "licence_link": "javascript:alert(1)"},
                "licence_link: 'javascript:alert(1)' is no https address",
            ),
        ],
    )
    def test_or_is_refused_by_name(self, changes: dict[str, str], sentence: str) -> None:
        with pytest.raises(UserError) as raised:
            card_of("legal", **changes)
        assert str(raised.value).startswith("domains/legal/fallback.toml: rung first: ")
        assert sentence in str(raised.value)


class TestFrontMatterFromAStranger:
    @pytest.mark.parametrize(
        ("card", "words"),
        [
            ("# none", "has no front matter"),
            ("---\na: &x [1]\nb: *x\n---\n", "an alias stands in it"),
            ("---\na: !!python/object/apply:os.system [id]\n---\n", "front matter: "),
            ("---\na: 1\na: 2\n---\n", "front matter: "),
            ("---\n" + "a: 1\n" * 30_000 + "---\n", "the front matter is too large"),
            ("---\n- a\n---\n", "front matter: "),
        ],
    )
    def test_is_refused_in_one_sentence(self, card: str, words: str) -> None:
        with pytest.raises(ValueError, match=words) as raised:
            read_front_matter(card)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("plain", "relation"), [(True, "quantized"), (False, "finetune")])
def test_a_base_in_fewer_bits_is_quantized_and_what_was_trained_is_a_finetune(
    plain: bool, relation: str
) -> None:
    assert f"\nbase_model_relation: {relation}\n" in card_of("legal", prompt_only=plain)


def test_an_adapter_that_was_merged_is_named_by_its_hash() -> None:
    files = {"model.safetensors": "b" * 64, "adapter/adapter_model.safetensors": "e" * 64}
    assert f"adapter, merged | SHA-256 {'e' * 16}…" in " ".join(
        card_of("legal", source_files=files).split()
    )


class TestTrainingDetails:
    def test_are_taken_from_the_adapter_and_the_weights_own_card(self, tmp_path: Path) -> None:
        adapter = {
            "peft_type": "LORA",
            "r": 16,
            "lora_alpha": 32,
            "target_modules": ["q_proj", "v_proj"],
            "base_model_name_or_path": "acme/Base-3B",
        }
        (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
        (tmp_path / "README.md").write_text("---\ndatasets:\n- acme/clauses\n---\n# Mine\n")
        assert training_details(tmp_path) == {
            "method": "LORA",
            "rank (r)": "16",
            "alpha": "32",
            "target modules": "q_proj, v_proj",
            "adapted from": "acme/Base-3B",
            "data sets": "acme/clauses",
        }

    @pytest.mark.parametrize(
        "value",
        ["/home/me/models/base", "../base", "a\nb", "<b>", "x" * 200, {"a": 1}, True, [[1]]],
    )
    def test_never_take_a_path_or_anything_else_that_is_no_plain_name(
        self, tmp_path: Path, value: Any
    ) -> None:
        text = json.dumps({"base_model_name_or_path": value})
        (tmp_path / "adapter_config.json").write_text(text)
        assert training_details(tmp_path) == {}

    def test_are_none_where_nothing_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text("# Just words\n")
        assert training_details(tmp_path) == {}


BENCH = paths.REPOSITORY / "shared" / "webgpu_bench"


class TestTheJavaScript:
    def test_is_one_module_that_parses(self, tmp_path: Path) -> None:
        (tmp_path / "usage.mjs").write_text(module(), encoding="utf-8")
        run = subprocess.run(
            ["node", "--check", str(tmp_path / "usage.mjs")], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
