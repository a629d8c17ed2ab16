"""A family: one 4-bit base, calibrated on its domains' text together, and an adapter for each of them.

>>> family = build_family([Member(legal, legal.rung("smollm3")), Member(medical, …)])
>>> family.folder               # the base once, graphs to swap in, adapters by domain
>>> family.packages["legal"]    # a package of its own as any rung's; its base data are the family's
>>> run_member(family, Member(legal, …), Options())  # measured, judged and released as any rung

    family.json   what is shared and of each adapter its files, with their hashes
    config.json … the base's package, which can be loaded as it is
    onnx/         model_<dtype>.onnx with data: the base; swap_<dtype>.onnx: takes an adapter
    adapters/     <domain>.safetensors and .json for a page, .onnx_adapter for onnxruntime-genai

A further domain leaves all that is there as it is: the base stays calibrated on the first ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.files import link_or_copy, write_json
from shared.base.hashing import files_below, sha256_file
from shared.base.manifest import FILE_NAME, FileRecord, Measurement, Strict
from shared.base.parsing import read_json, validate
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.domain import Domain
from shared.domain.olive_json import with_overrides
from shared.domain.settings import Rung
from shared.evaluate.check import Selection
from shared.olive.attach import FILES, SWAP, adapter_on, adapter_stage, attached_stage, swap_stage
from shared.olive.build import DTYPES, build_stage
from shared.olive.graph.adapters import Precision
from shared.olive.package import package_stage
from shared.pipeline.chain import record, select_records
from shared.pipeline.stages import Options, RungRun
from shared.prompt.stage import prompt_stage
from shared.release.model import ChainResult
from shared.source.adapter import CONFIG, WEIGHTS
from shared.source.source import Source, source_stage, weights_hash

RECORD = "family.json"


@dataclass(frozen=True)
class Member:
    """A domain and that rung of it, a base with an adapter, which is to be in the family."""

    domain: Domain
    rung: Rung


class AdapterRecord(Strict):
    """An adapter of a family: its files in adapters/, and the SHA-256 of the two it was made from."""

    files: dict[str, FileRecord]
    trained: dict[str, str]


class FamilyRecord(Strict):
    """family.json. `base_weights`: the weights_hash of what all adapters were trained on; `calibrated`:
    the domains whose text calibrated it; `shared`: the files of onnx/."""

    version: int = 1
    base: str
    base_weights: str
    calibrated: list[str]
    precision: Precision
    shared: dict[str, FileRecord]
    adapters: dict[str, AdapterRecord]


@dataclass(frozen=True)
class Family:
    """A built family: its folder as a stage, the base's build and package, and the packages of its
    domains by name."""

    done: StageResult
    build: StageResult
    base: StageResult
    packages: dict[str, StageResult]
    precision: Precision

    @property
    def folder(self) -> Path:
        return self.done.folder


def read_family(folder: Path) -> FamilyRecord:
    """The record in a family's folder; UserError where it is none."""
    return validate(read_json(folder / RECORD), FamilyRecord, paths.shown(folder / RECORD))


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
    rung = members[0].rung.model_copy(update={"adapter": None})
    base = source_stage(rung)
    for source in sources.values():  # before hours of calibration
        adapter_on(source, weights_hash(base.folder))
    first, *beside = _calibrating(members, grown_from)
    measured = [record for member in members for record in member.domain.records]
    build = build_stage(first, rung, base, measured=measured, beside=beside)
    prompts = {m.domain.name: prompt_stage(m.domain, sources[m.domain.name]) for m in members}
    prompt = prompt_stage(first, base)
    _refuse_other_prompts(prompt, prompts, sources)
    package = package_stage(base, prompt, build)
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
    done = _family_stage(told, package, swap, adapters)
    return Family(done, build, package, packages, precision)


class MemberRun(RungRun):
    """A domain of a family on its way through the stages; its build is the base's with its adapter."""

    def __init__(
        self, family: Family, member: Member, selection: Selection, options: Options
    ) -> None:
        super().__init__(member.domain, member.rung, "olive", selection, options)
        self.family = family

    def _built(self, source: Source) -> StageResult:
        return attached_stage(self.family.build, source, self.family.precision)


def run_member(family: Family, member: Member, options: Options) -> ChainResult:
    """Measure a domain of the family by every stage up to `options.until`, as any rung: its parent is
    the 16-bit base with the adapter merged."""
    result = ChainResult(member.domain)
    run = MemberRun(family, member, select_records(member.domain, options), options)
    run.finish()
    record(result, run)
    return result


def _refuse_other_recipes(members: Sequence[Member]) -> None:
    """One base is built by one recipe, and names one model as its own."""
    wanted: dict[str, tuple[object, str]] = {}
    for domain, rung in ((member.domain, member.rung) for member in members):
        where = f"domains/{domain.name}/fallback.toml: rung {rung.name}"
        if not rung.adapter:
            raise RungFailed(f"{where}: adapter: missing; a family shares the base of its adapters")
        recipe = with_overrides(domain.olive, rung.olive, where)
        for key, value in (("base", rung.base), ("olive", [recipe, list(recipe["passes"])])):
            first, theirs = wanted.setdefault(key, (value, domain.name))
            if value != first:
                raise RungFailed(f"{where}: {key}: not as {theirs}'s; a family has one base")


def _calibrating(members: Sequence[Member], grown_from: Path | None) -> list[Domain]:
    """The domains whose text calibrates the base: all, or those that did when it was built."""
    domains = {member.domain.name: member.domain for member in members}
    if grown_from is None:
        return list(domains.values())
    names = read_family(grown_from).calibrated
    if gone := [name for name in names if name not in domains]:
        raise RungFailed(
            f"{paths.shown(grown_from / RECORD)}: calibrated: {gone[0]} is not among the domains; "
            "build the family anew without it"
        )
    return [domains[name] for name in names]


def _refuse_other_prompts(
    base: StageResult, prompts: Mapping[str, StageResult], sources: Mapping[str, Source]
) -> None:
    """One session has one tokenizer and one chat template."""
    for name, prompt in prompts.items():
        for file, ours in base.manifest.outputs.items():
            other = prompt.manifest.outputs.get(file)
            if other is None or other.sha256 != ours.sha256:
                raise RungFailed(
                    f"{paths.shown(sources[name].folder)}: {file}: {name}'s is not the base's; a "
                    "family has one tokenizer and one chat template"
                )


def _family_stage(
    record: FamilyRecord,
    package: StageResult,
    swap: StageResult,
    adapters: Mapping[str, StageResult],
) -> StageResult:
    """Lay out the family's folder: large files are links, so that a base has its bytes once."""
    keys = {f"adapters/{name}": done.manifest.key for name, done in adapters.items()}
    plan = Plan(
        "family",
        inputs={"package": package.manifest.key, "swap": swap.manifest.key, **keys},
        settings=record.model_dump(exclude={"shared", "adapters"}),
        code=(__name__,),
    )

    def produce(work: Path) -> Produced:
        for name in files_below(package.folder):
            if name != FILE_NAME:
                _link(package.folder / name, work / name)
        for dtype in DTYPES:
            _link(swap.folder / f"{SWAP}_{dtype}.onnx", work / "onnx" / f"{SWAP}_{dtype}.onnx")
        own = {name: _adapter(work, name, done) for name, done in adapters.items()}
        shared = _recorded(work, [f"onnx/{name}" for name in files_below(work / "onnx")])
        told = record.model_copy(update={"shared": shared, "adapters": own})
        write_json(work / RECORD, told.model_dump())
        return Produced(_sizes(shared, own))

    return run_stage(plan, produce)


def _adapter(work: Path, name: str, done: StageResult) -> AdapterRecord:
    files = {file: f"adapters/{name}{Path(file).suffix}" for file in FILES}
    for file, place in files.items():
        _link(done.folder / file, work / place)
    trained = {file: done.manifest.inputs[file] for file in (CONFIG, WEIGHTS)}
    return AdapterRecord(files=_recorded(work, list(files.values())), trained=trained)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(source, target)


def _recorded(folder: Path, names: Sequence[str]) -> dict[str, FileRecord]:
    return {
        name: FileRecord(sha256=sha256_file(folder / name), bytes=(folder / name).stat().st_size)
        for name in names
    }


def _sizes(
    shared: Mapping[str, FileRecord], adapters: Mapping[str, AdapterRecord]
) -> dict[str, Measurement]:
    """What a page fetches, by numeric type: the base with the graph to swap in, and each adapter."""
    found = {
        f"{dtype}_shared_bytes": Measurement(
            value=sum(r.bytes for n, r in shared.items() if f"_{dtype}.onnx" in n),
            unit="B",
            how=f"graphs and external data of {dtype}",
        )
        for dtype in DTYPES
    }
    for name, adapter in adapters.items():
        file = f"adapters/{name}{Path(FILES[0]).suffix}"
        size = adapter.files[file].bytes
        found[f"{name}_bytes"] = Measurement(value=size, unit="B", how=file)
    return found
