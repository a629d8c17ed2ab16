"""A domain folder is read strictly: every mistake is one sentence with file, key and a hint."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli

from shared.base import paths
from shared.base.errors import UserError
from shared.base.hashing import sha256_file
from shared.base.parsing import read_toml
from shared.cli.project import settings_of
from shared.domain.domain import FILES, domain_names, load_domain
from shared.domain.settings import Chain, Defaults, Gate, Rung
from tests.stand_ins import as_shipped

Edit = Callable[[str, str, str], int]
PROMPTS = {
    "contracts": (2, "0fe2fc38fe20"),
    "financial": (2, "9bc4cd1169b0"),
    "legal": (2, "d3b6af2e6be6"),
    "medical": (2, "76d936b7f827"),
}
"""Version and SHA-256 of each domain's prompt.md."""


@pytest.mark.parametrize("name", ["contracts", "financial", "legal", "medical"])
class TestEveryDomainWeShip:
    def test_is_read_without_complaint(self, name: str) -> None:
        assert load_domain(name).name == name

    def test_has_at_least_40_records(self, name: str) -> None:
        assert len(load_domain(name).records) >= 40

    def test_is_balanced_over_its_classes(self, name: str) -> None:
        domain = load_domain(name)
        label = {"contracts": "clause_type", "financial": "scale"}
        field = label.get(name, "issue" if name == "legal" else "section")
        counts = Counter(record.gold[field] for record in domain.records)
        assert set(counts) == set(domain.schema["properties"][field]["enum"])
        assert max(counts.values()) - min(counts.values()) <= 1

    def test_has_a_new_version_with_each_change_of_its_prompt(self, name: str) -> None:
        domain = load_domain(name)
        found = sha256_file(domain.folder / "prompt.md")[:12]
        told = "raise prompt_version in fallback.toml, and put it here with the hash"
        assert (domain.chain.prompt_version, found) == PROMPTS[name], told

    def test_never_names_its_folder(self, name: str) -> None:
        for file in FILES:
            text = (paths.REPOSITORY / "domains" / name / file).read_text(encoding="utf-8")
            assert not re.search(rf"(?<![a-z_]){name}(?![a-z_])", text), file

    def test_shares_no_text_with_the_public_set(self, name: str) -> None:
        public = paths.REPOSITORY.parent / "shared" / "eval" / name / "eval.jsonl"
        if not public.exists():
            pytest.skip("the public sets are not beside this checkout")
        theirs = {json.loads(line)["input"].strip() for line in public.open(encoding="utf-8")}
        assert not theirs & {record.input.strip() for record in load_domain(name).records}


class TestACopiedFolder:
    def test_is_a_new_domain_with_no_edit(self, root: Path) -> None:
        (root / "domains" / "legal").rename(root / "domains" / "tax")
        assert domain_names() == ["tax"]
        assert load_domain("tax").chain.rung[0].source == "models/tax/merged"
        assert "a tax analyst" in load_domain("tax").prompt


class TestTheDefaults:
    """domains/defaults.toml holds for a domain but for what its fallback.toml says."""

    def gate(self, name: str) -> Gate:
        return next(g for g in load_domain("legal").chain.gate if g.name == name)

    def test_are_changed_by_key(self, root: Path) -> None:
        own, shipped = load_domain("legal").chain, shipped_defaults()
        assert own.check.max_new_tokens == 40 and own.check.records == shipped.check.records
        shorter = {"parity_tokens": 64, "time_budget_seconds": 3600}
        assert own.bench == shipped.bench.model_copy(update=shorter)

    def test_a_gate_that_is_named_changes_in_the_keys_given(self, root: Path) -> None:
        before = self.gate("decode speed")
        add(root, '[[gate]]\nname = "decode speed"\nblocks = "publish"\n')
        assert self.gate("decode speed") == before.model_copy(update={"blocks": "publish"})

    def test_a_bound_takes_the_place_of_a_bound(self, root: Path) -> None:
        before = self.gate("decode speed")
        add(root, '[[gate]]\nname = "decode speed"\nat_most = 9\n')
        changed = {"at_least": None, "at_most": 9.0}
        assert self.gate("decode speed") == before.model_copy(update=changed)

    def test_a_gate_of_another_name_is_added(self, root: Path) -> None:
        before = load_domain("legal").chain.gate
        add(root, '[[gate]]\nname = "mine"\nmeasurement = "check.loads"\nequals = true\n')
        added = Gate(name="mine", measurement="check.loads", equals=True)
        assert load_domain("legal").chain.gate == [*before, added]

    def test_are_the_repositorys_own_where_the_root_has_none(self, root: Path) -> None:
        file = shutil.copy(paths.REPOSITORY / "domains" / "defaults.toml", root / "domains")
        before = load_domain("legal").chain
        Path(file).unlink()
        assert load_domain("legal").chain == before

    def test_are_no_domain(self, root: Path) -> None:
        assert domain_names() == ["legal"]

    def test_what_is_in_effect_is_shown_as_toml_with_the_line_of_each_value(
        self, root: Path, edit: Edit
    ) -> None:
        domain = load_domain("legal")
        text = settings_of(domain)
        assert Chain.model_validate(tomli.loads(text)) == domain.chain
        rows = [" ".join(row.split()) for row in text.splitlines()]
        where = dict(row.split(" # ") for row in rows if " # " in row)
        line = edit("../defaults.toml", "records = 32", "records = 32")
        assert where["records = 32"] == f"domains/defaults.toml:{line}"
        line = edit("fallback.toml", "at_least = 64", "at_least = 64")
        assert where["at_least = 64"] == f"domains/legal/fallback.toml:{line}"
        assert where["private = false"] == "built in"


class TestABase:
    """What a model's licence and kind are stands once, for every rung that names it as its base."""

    @pytest.fixture(autouse=True)
    def shipped(self, root: Path) -> None:
        as_shipped(root)

    def rung(self) -> Rung:
        return load_domain("legal").chain.rung[0]

    def test_is_what_a_rung_has_that_names_it(self, root: Path) -> None:
        assert (self.rung().licence, self.rung().model_type) == ("apache-2.0", "smollm3")
        assert not load_domain("legal").rung("qwen2.5-3b").commercial_use

    def test_comes_after_what_the_rung_says_itself(self, root: Path, edit: Edit) -> None:
        edit("fallback.toml", 'name = "smollm3"', 'name = "smollm3"\nmodel_type = "llama"')
        assert (self.rung().licence, self.rung().model_type) == ("apache-2.0", "llama")

    def test_lends_no_terms_to_a_rung_with_a_licence_of_its_own(
        self, root: Path, edit: Edit
    ) -> None:
        edit("fallback.toml", 'name = "qwen2.5-3b"', 'name = "qwen2.5-3b"\nlicence = "mit"')
        rung = load_domain("legal").rung("qwen2.5-3b")
        assert rung.commercial_use and rung.licence_link is None and rung.model_type == "qwen2"

    def test_that_is_misspelt_is_told_with_the_nearest(self, edit: Edit) -> None:
        edit("fallback.toml", '"HuggingFaceTB/SmolLM3-3B"', '"HuggingFaceTB/SmolLM-3B"')
        with pytest.raises(UserError, match=r"0.licence: .*SmolLM-3B'; did you mean .*SmolLM3-3B'"):
            self.rung()

    def test_that_no_table_has_leaves_its_licence_to_the_rung(self, root: Path, edit: Edit) -> None:
        line = edit("fallback.toml", 'base = "HuggingFaceTB/SmolLM3-3B"', 'base = "my/own"')
        words = f"domains/legal/fallback.toml:{line - 3}: rung.0.licence: required, but missing"
        with pytest.raises(UserError, match=re.escape(words)):
            load_domain("legal")
        edit("fallback.toml", 'base = "my/own"', 'base = "my/own"\nlicence = "mit"')
        assert self.rung().licence == "mit" and self.rung().model_type is None

    def test_of_a_domains_own_is_added(self, root: Path) -> None:
        add(root, '[base."HuggingFaceTB/SmolLM3-3B"]\nlicence = "mit"\n')
        assert (self.rung().licence, self.rung().model_type) == ("mit", "smollm3")

    def test_is_wanted_of_the_rung_where_no_file_has_a_table(self, root: Path, edit: Edit) -> None:
        file = root / "domains" / "defaults.toml"
        file.write_text(re.sub(r"(?ms)^\[base.*?(?=^\[publish)", "", file.read_text("utf-8")))
        with pytest.raises(UserError, match=r"fallback.toml:\d+: rung.0.licence: required"):
            load_domain("legal")

    def test_that_is_wrong_is_told_with_its_own_line(self, root: Path, edit: Edit) -> None:
        words = 'model_type = "qwen2"'
        line = edit("../defaults.toml", words, words.replace("model_type", "model_typ"))
        with pytest.raises(
            UserError, match=rf"defaults.toml:{line}: base.*did you mean 'model_type'"
        ):
            load_domain("legal")

    def test_is_shown_with_the_line_that_it_stands_in(self, root: Path, edit: Edit) -> None:
        line = edit("../defaults.toml", 'model_type = "qwen2"', 'model_type = "qwen2"')
        text = settings_of(load_domain("legal"))
        row = next(row for row in text.splitlines() if row.startswith('model_type = "qwen2"'))
        assert row.endswith(f"# domains/defaults.toml:{line}")


class TestTheKeyOfADomain:
    """What decides that a release is made again."""

    def test_changes_with_a_default_that_holds(self, root: Path, edit: Edit) -> None:
        before = load_domain("legal")
        edit("../defaults.toml", "records = 32", "records = 33")
        assert load_domain("legal").key != before.key

    def test_stays_with_a_default_that_the_domain_overrides(self, root: Path, edit: Edit) -> None:
        before = load_domain("legal")
        edit("../defaults.toml", "max_new_tokens = 160", "max_new_tokens = 170")
        assert load_domain("legal").key == before.key
        assert load_domain("legal").hashes["defaults.toml"] != before.hashes["defaults.toml"]

    def test_stays_with_a_comment(self, root: Path, edit: Edit) -> None:
        before = load_domain("legal").key
        edit("../defaults.toml", "[check]", "# a word\n[check]")
        edit("fallback.toml", "[check]", "# a word\n[check]")
        assert load_domain("legal").key == before

    def test_changes_with_any_other_file(self, root: Path, edit: Edit) -> None:
        before = load_domain("legal").key
        edit("prompt.md", "You", "you")
        assert load_domain("legal").key != before


def add(root: Path, toml: str) -> None:
    with (root / "domains" / "legal" / "fallback.toml").open("a") as file:
        file.write(toml)


def shipped_defaults() -> Defaults:
    return read_toml(paths.REPOSITORY / "domains" / "defaults.toml", Defaults)


MISTAKES = {
    "an unknown key in defaults.toml": (
        ("../defaults.toml", "at_most = 2_000_000_000", "at_mots = 2_000_000_000"),
        "domains/defaults.toml:{line}: gate.0.at_mots: unknown key; did you mean 'at_most'?",
    ),
    "an unknown key in fallback.toml": (
        ("fallback.toml", "at_least = 64", "at_leats = 64"),
        "domains/legal/fallback.toml:{line}: gate.0.at_leats: unknown key; did you mean 'at_least'?",
    ),
    "an unknown table in defaults.toml": (
        ("../defaults.toml", "[check]", "[chek]"),
        "domains/defaults.toml:{line}: chek: unknown key; did you mean 'check'?",
    ),
    "an unknown table in fallback.toml": (
        ("fallback.toml", "[check]", "[chek]"),
        "domains/legal/fallback.toml:{line}: chek: unknown key; did you mean 'check'?",
    ),
    "rungs in defaults.toml": (
        ("../defaults.toml", "[check]", "[[rung]]\n[check]"),
        "domains/defaults.toml:{line}: rung: unknown key",
    ),
    "a key missing from defaults.toml": (
        ("../defaults.toml", "max_new_tokens = 160", ""),
        ": check.max_new_tokens: required, but missing",
    ),
    "a wrong type in fallback.toml": (
        ("fallback.toml", "max_new_tokens = 40", 'max_new_tokens = "many"'),
        "domains/legal/fallback.toml:{line}: check.max_new_tokens: Input should be a valid integer",
    ),
    "a wrong type within a value of several lines": (
        ("../defaults.toml", "prefill = [128, 512", "prefill = [\n128,\n-512"),
        "domains/defaults.toml:{line}: bench.prefill.1: Input should be greater than 0 (found -512)",
    ),
    "a duplicate rung": (
        ("fallback.toml", 'name = "phi3-mini"', 'name = "smollm3"'),
        ": rung: the name 'smollm3' stands twice",
    ),
    "a gate changed twice": (
        (
            "fallback.toml",
            "[fidelity]",
            '[[gate]]\nname = "decode speed"\n[[gate]]\nname = "decode speed"\n[fidelity]',
        ),
        "domains/legal/fallback.toml:{line}: gate: the name 'decode speed' stands twice",
    ),
    "a gate without a bound": (
        ("../defaults.toml", "at_most = 2_000_000_000", ""),
        "gate 'q4f16 model size' needs exactly one of at_least, at_most, equals",
    ),
    "a changed gate with two bounds": (
        ("fallback.toml", "at_least = 64", "at_least = 64\nat_most = 99"),
        ": gate.0: gate 'positions compared, WebGPU with the CPU' needs exactly one of",
    ),
    "a syntax error in fallback.toml": (
        ("fallback.toml", "version = 1", "version = = 1"),
        "domains/legal/fallback.toml: not valid TOML:",
    ),
    "a syntax error in olive.json": (
        ("olive.json", '"passes": {', '"passes": {,'),
        "domains/legal/olive.json: not valid JSON:",
    ),
    "an unknown key of an Olive pass": (
        ("olive.json", "int4_block_size", "int4_blocksize"),
        "olive.json: passes.int4.int4_blocksize: unknown key; did you mean 'int4_block_size'?",
    ),
    "a value Olive's pass does not have": (
        ("olive.json", '"int4_block_size": 32', '"int4_block_size": 33'),
        "olive.json: passes.int4.int4_block_size: 33 is not one of 16, 32, 64, 128, 256",
    ),
    "an unknown Olive pass": (
        ("olive.json", '"StreamingModelBuilder"', '"StreamingModelBilder"'),
        "passes.int4.type: Olive has no pass 'StreamingModelBilder'; did you mean "
        "'streamingmodelbuilder'?",
    ),
    "Olive's own builder, which ours had the name of": (
        ("olive.json", '"StreamingModelBuilder"', '"ModelBuilder"'),
        "domains/legal/olive.json: passes.int4.type: ModelBuilder is Olive's own, which holds the "
        "whole model in memory; the one that streams it is 'StreamingModelBuilder'",
    ),
    "an unknown key at the top of olive.json": (
        ("olive.json", '"cache_dir"', '"cachedir"'),
        "olive.json: cachedir: unknown key; did you mean 'cache_dir'?",
    ),
    "a workflow that says what Olive empties": (
        (
            "olive.json",
            '"cache_dir"',
            '"clean_cache": true, "workflow_id": "/home/you", "cache_dir"',
        ),
        "domains/legal/olive.json: clean_cache: not taken here, only input_model, systems,",
    ),
    "a rung whose name leads out": (
        ("fallback.toml", 'name = "smollm3"', 'name = "x/../../evil"'),
        "domains/legal/fallback.toml:{line}: rung.0.name: String should match",
    ),
    "trust_remote_code": (
        ("olive.json", '"trust_remote_code": false', '"trust_remote_code": true'),
        "trust_remote_code: cannot be switched on",
    ),
    "trust_remote_code in a pass": (
        ("olive.json", '"precision": "int4",', '"extra_options": {"trust_remote_code": true},'),
        "passes.int4.extra_options.trust_remote_code: cannot be switched on",
    ),
    "a schema that is none": (
        ("schema.json", '"type": "object"', '"type": "objekt"'),
        "domains/legal/schema.json: type:",
    ),
    "a schema without fields": (
        ("schema.json", '"properties"', '"$defs"'),
        "domains/legal/schema.json: properties: names no field",
    ),
    "a pass whose config is a list": (
        ("olive.json", '"precision": "int4",', '"config": [],'),
        "domains/legal/olive.json: passes.int4.config: must be one JSON object",
    ),
    "a base that is a list": (
        (
            "fallback.toml",
            'base = "HuggingFaceTB/SmolLM3-3B"',
            'base = ["HuggingFaceTB/SmolLM3-3B"]',
        ),
        "domains/legal/fallback.toml:{line}: rung.0.base:",
    ),
    "gold that breaks the schema": (
        ("eval.jsonl", '"conclusion": "yes"', '"conclusion": "perhaps"'),
        "gold.conclusion: 'perhaps' is not one of ['yes', 'no', 'unclear']",
    ),
    "an id that stands twice": (
        ("eval.jsonl", '"id": "r0002"', '"id": "r0001"'),
        "domains/legal/eval.jsonl: the id 'r0001' stands twice",
    ),
    "a record that is not JSON": (
        ("eval.jsonl", '{"id"', "{id"),
        "domains/legal/eval.jsonl:1: not valid JSON:",
    ),
    "an unknown key in a record": (
        ("eval.jsonl", '"gold"', '"golden"'),
        "domains/legal/eval.jsonl:1:",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_clear_sentence(
    edit: Edit, change: tuple[str, str, str], sentence: str
) -> None:
    line = edit(*change)
    with pytest.raises(UserError) as caught:
        load_domain("legal")
    assert sentence.replace("{line}", str(line)) in str(caught.value)
    assert "\n" not in str(caught.value)
