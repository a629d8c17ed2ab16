"""A family: one 4-bit base, calibrated on its domains' text together, and an adapter for each of them.

>>> family = build_family([Member(legal, legal.rung("smollm3")), Member(medical, …)])
>>> family.folder               # the base once, graphs to swap in, adapters by domain
>>> family.packages["legal"]    # a package of its own as any rung's; its base data are the family's
>>> run_member(family, Member(legal, …), Options())  # measured, judged and released as any rung

A further domain leaves all that is there as it is: the base stays calibrated on the first ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.parsing import read_json, read_text
from shared.base.progress import say
from shared.base.stage import StageResult
from shared.domain.domain import Domain, domain_names, load_domain
from shared.domain.grammar.schema import grammar
from shared.domain.olive_json import with_overrides
from shared.domain.settings import Gate, Precision, Rung
from shared.evaluate.check import Selection
from shared.olive.attach import adapter_on, adapter_stage, attached_stage, swap_stage
from shared.olive.build import build_stage
from shared.olive.calibration_text import calibration_records
from shared.olive.family import family_stage
from shared.olive.family_record import DOMAIN_FILES, RECORD, FamilyRecord, read_family
from shared.olive.package import package_stage
from shared.pipeline.chain import record, select_records
from shared.pipeline.stages import Options, RungRun, in_room_of_its_own
from shared.prompt.stage import prompt_stage
from shared.release.model import ChainResult, Stage
from shared.source.source import Source, base_stage, source_stage, weights_hash
from shared.source.tokenizer import chat_template
from shared.webgpu_bench.swapped import STAGE, swapped_gates, swapped_stage


@dataclass(frozen=True)
class Member:
    """A domain and that rung of it, a base with an adapter, which is to be in the family."""

    domain: Domain
    rung: Rung


@dataclass(frozen=True)
class Family:
    """A built family: its folder as a stage, the base's build and package, and the packages of its
    domains by name."""

    done: StageResult
    build: StageResult
    base: StageResult
    packages: dict[str, StageResult]
    precision: Precision
    calibrated: tuple[Domain, ...]

    @property
    def folder(self) -> Path:
        return self.done.folder


def build_family(
    members: Sequence[Member], precision: Precision = "int4", *, grown_from: Path | None = None
) -> Family:
    """Build the base once and put each member's adapter beside it.

    `grown_from`: the folder of a family that was built with fewer domains, whose base is kept.
    RungFailed in one sentence where the members cannot share a base.
    """
    members = sorted(members, key=lambda member: member.domain.name)
    _refuse_other_recipes(members)
    sources = {member.domain.name: source_stage(member.rung) for member in members}
    first, *beside = _calibrating(members, grown_from)
    own = next((m.rung for m in members if m.domain.name == first.name), members[0].rung)
    rung, base = own.model_copy(update={"adapter": None}), base_stage(own)
    assert base, "a rung with an adapter names its base"
    _refuse_other_base(base, grown_from)
    for source in sources.values():  # before hours of calibration
        adapter_on(source, weights_hash(base.folder))
    prompts = {m.domain.name: prompt_stage(m.domain, sources[m.domain.name]) for m in members}
    prompt = prompt_stage(first, base)
    _refuse_other_prompts(prompt, prompts, sources)
    measured = [record for member in members for record in member.domain.records]
    say(f"      base, calibrated on {', '.join(domain.name for domain in (first, *beside))}")
    begun = partial(build_stage, first, rung, base, measured=measured, beside=beside)
    build = in_room_of_its_own(base.folder, begun)
    say("      unchanged" if build.reused else "      adapters beside it")
    package = package_stage(base, prompt, build)
    _refuse_other_data(package, grown_from)
    packages = {
        name: package_stage(source, prompts[name], attached_stage(build, source, precision))
        for name, source in sources.items()
    }
    swap = swap_stage(build, list(sources.values()), precision)
    adapters = {name: adapter_stage(build, swap, s, precision) for name, s in sources.items()}
    told = FamilyRecord(
        base=rung.base,
        base_weights=weights_hash(base.folder),
        calibrated=[domain.name for domain in (first, *beside)],
        precision=precision,
        shared={},
        adapters={},
    )
    texts = {member.domain.name: asked_with(member.domain) for member in members}
    done = family_stage(told, package, swap, adapters, texts)
    return Family(done, build, package, packages, precision, (first, *beside))


def asked_with(domain: Domain) -> dict[str, str]:
    """DOMAIN_FILES, with what a domain's release has in them; the example is a text of our own."""
    own = (r.input for r in domain.records if r.source is None and r.licence is None)
    schema = read_text(domain.folder / "schema.json")
    texts = (domain.prompt + "\n", schema, grammar(domain.schema), next(own, ""))
    return dict(zip(DOMAIN_FILES, texts, strict=True))


class MemberRun(RungRun):
    """A domain of a family on its way through the stages; its build is the base's with its adapter."""

    def __init__(
        self, family: Family, member: Member, selection: Selection, options: Options
    ) -> None:
        super().__init__(member.domain, member.rung, "olive", selection, options)
        self.family = family

    def _made(self, stage: Stage) -> StageResult:
        made = super()._made(stage)
        loads = stage == "bench" and made.manifest.measurements["loads"].value
        if loads is not False and stage == "bench":  # and as a page has it, with the family's base
            say("      the family's graph, with its adapter swapped in")
            folder, package = self.family.folder, self.stages["package"]
            self.stages[STAGE] = swapped_stage(
                self.domain, folder, package, self.switches, force=self.options.force
            )
        return made

    def _gates(self) -> list[Gate]:
        own = super()._gates()  # which say why, where it does not load: then nothing is swapped in
        return [*own, *swapped_gates(own)] if STAGE in self.stages else own

    def _built(self, source: Source) -> StageResult:
        for domain in self.family.calibrated:  # nothing of what this run measures
            calibration_records(domain, self.text)
        return attached_stage(self.family.build, source, self.family.precision)


def run_member(family: Family, member: Member, options: Options) -> ChainResult:
    """Measure a domain of the family by every stage up to `options.until`, as any rung: its parent is
    the 16-bit base with the adapter merged."""
    result = ChainResult(member.domain)
    run = MemberRun(family, member, select_records(member.domain, options), options)
    run.finish()
    record(result, run)
    return result


def need_adapter(domain: Domain, rung: Rung) -> str:
    """Where the rung stands; RungFailed where it names no adapter."""
    where = f"domains/{domain.name}/fallback.toml: rung {rung.name}"
    if not rung.adapter:
        raise RungFailed(f"{where}: adapter: missing; a family shares the base of its adapters")
    return where


def _refuse_other_recipes(members: Sequence[Member]) -> None:
    """One base is built by one recipe, and names one model as its own."""
    wanted: dict[str, tuple[object, str]] = {}
    for domain, rung in ((member.domain, member.rung) for member in members):
        where = need_adapter(domain, rung)
        recipe = with_overrides(domain.olive, rung.olive, where)
        for key, value in (
            ("base", rung.base),
            ("licence", [rung.licence, rung.licence_name, rung.licence_link]),
            ("olive", [recipe, list(recipe["passes"])]),
        ):
            first, theirs = wanted.setdefault(key, (value, domain.name))
            if value != first:
                raise RungFailed(f"{where}: {key}: not as {theirs}'s; a family has one base")


def _refuse_other_base(base: Source, grown_from: Path | None) -> None:
    """RungFailed where the family that is to grow has another base."""
    if grown_from and read_family(grown_from).base_weights != weights_hash(base.folder):
        raise RungFailed(
            f"{paths.shown(grown_from / RECORD)}: base_weights: not those of "
            f"{paths.shown(base.folder)}; take another --name, or --anew"
        )


def _refuse_other_data(package: StageResult, grown_from: Path | None) -> None:
    """RungFailed where the base of the family that is to grow comes out with other bytes now."""
    if not grown_from:
        return
    there = read_family(grown_from).shared
    for name, ours in package.manifest.outputs.items():
        if "_data" in name and name in there and there[name].sha256 != ours.sha256:
            raise RungFailed(
                f"{paths.shown(grown_from / RECORD)}: {name}: the base comes out otherwise now: its "
                "calibration text, recipe, tools or code changed; take another --name, or --anew"
            )


def _calibrating(members: Sequence[Member], grown_from: Path | None) -> list[Domain]:
    """The domains whose text calibrates the base: all, or those that did when it was built, whether or
    not they were released then."""
    domains = {member.domain.name: member.domain for member in members}
    if grown_from is None:
        return list(domains.values())
    names = read_family(grown_from).calibrated
    if gone := sorted({*names} - {*domains, *domain_names()}):
        raise RungFailed(
            f"{paths.shown(grown_from / RECORD)}: calibrated: {gone[0]} is not among the domains; "
            "build the family anew without it"
        )
    return [domains.get(name) or load_domain(name) for name in names]


def _refuse_other_prompts(
    base: StageResult, prompts: Mapping[str, StageResult], sources: Mapping[str, Source]
) -> None:
    """One session has one tokenizer and one chat template, however a trainer's version wrote them."""
    ours = _asked_by(base)
    for name, prompt in prompts.items():
        other = _asked_by(prompt)
        for file, value in ours.items():
            if other[file] != value:
                raise RungFailed(
                    f"{paths.shown(sources[name].folder)}: {file}: {name}'s is not the base's; a "
                    "family has one tokenizer and one chat template"
                )


def _asked_by(prompt: StageResult) -> dict[str, Any]:
    """What a prompt stage's files make of a question: file → what counts in it."""
    tokenizer = read_json(prompt.folder / "tokenizer.json")
    told = read_json(prompt.folder / "tokenizer_config.json")
    return {
        "tokenizer.json": tokenizer | {"truncation": None, "padding": None},
        "tokenizer_config.json: eos_token": told.get("eos_token"),
        "chat_template": chat_template(prompt.folder),
    }
