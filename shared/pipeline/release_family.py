"""`release-family`: one base for several domains, an adapter for each, and each of them released.

A family that is there grows: its base stays calibrated on the domains that it was built with, and the
files of its other adapters stay as they are, unless a larger rank comes or layers that they do not
change. What cannot be built together
is refused; a domain that then fails does not stop the others, and is left out of the family's folder.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from shared.base import paths
from shared.base.errors import NoWeights, UserError
from shared.base.hashing import NotDone, only_what_is_done
from shared.base.manifest import FileRecord
from shared.base.parsing import validate
from shared.base.progress import say
from shared.domain.defaults import DEFAULTS_FILE, read_defaults
from shared.domain.domain import Domain, domain_names, load_domain
from shared.domain.settings import Defaults, FamilySettings, PublishSettings
from shared.hub.names import organisation
from shared.olive.family_record import RECORD
from shared.pipeline.family import Family, Member, build_family, need_adapter, run_member
from shared.pipeline.inputs import need_inputs
from shared.pipeline.one_domain import Result, record_failure, release_domain
from shared.pipeline.stages import Options
from shared.release.family import make_family
from shared.release.model import ChainResult, FamilyRelease, family_folder, read_family_release
from shared.source.place import NoFolder
from shared.source.source import inspected


@dataclass(frozen=True)
class Asked:
    """What the command line says; None leaves what the family has, or else [family] of defaults.toml.

    `domains`: None is every domain that has such an adapter. `anew`: calibrate on these domains and no
    others, whatever is there.
    """

    name: str | None = None
    domains: tuple[str, ...] | None = None
    rung: str | None = None
    precision: str | None = None
    anew: bool = False


@dataclass(frozen=True)
class FamilyPlan:
    """Who will be in the family. `there`: the family that grows; `left_out`: domain → why."""

    settings: FamilySettings
    members: tuple[Member, ...]
    left_out: dict[str, str]
    there: FamilyRelease | None
    publishing: PublishSettings
    anew: bool = False


@dataclass(frozen=True)
class FamilyResult:
    """`results`: one a domain; `family` is None where none was released. `written`: the files that the
    folder did not have before, or had otherwise; `seconds`: what base and adapters took; `error`: why
    the family's folder was not written, though each domain was released."""

    results: list[Result]
    family: FamilyRelease | None
    written: dict[str, FileRecord] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None


def release_family(plan: FamilyPlan, options: Options) -> FamilyResult:
    """Build or grow the family, take each domain through the stages, and write the family's folder."""
    for member in plan.members:
        need_inputs(member.domain.name, rung=member.rung.name, force=options.force)
    name, before = plan.settings.name, _files_there(plan.settings.name)
    names = ", ".join(member.domain.name for member in plan.members)
    say(f"family {name}: {names} on {plan.members[0].rung.base}")
    began = time.monotonic()
    grown_from = family_folder(name) if plan.there else None
    family = build_family(plan.members, plan.settings.precision, grown_from=grown_from)
    seconds = time.monotonic() - began
    results = [_released(name, family, member, options) for member in plan.members]
    releases = {result.domain: result.release for result in results if result.release}
    lost = sorted(plan.there.domains.keys() - releases.keys()) if plan.there else []
    if lost:
        say(f"family {name}: left as it was, since {lost[0]} is in it and was not released again")
    if lost or not releases:
        return FamilyResult(results, None, seconds=seconds)
    rung = next(m.rung for m in plan.members if m.domain.name in releases)
    try:
        told = make_family(name, family.done, rung, releases, plan.publishing, anew=plan.anew)
    except UserError as error:
        say(f"family {name}: left as it was: {error}")
        return FamilyResult(results, None, seconds=seconds, error=str(error))
    written = {name: r for name, r in told.files.items() if before.get(name) != r}
    return FamilyResult(results, told, written, seconds)


def _files_there(name: str) -> dict[str, FileRecord]:
    with suppress(UserError):
        return read_family_release(family_folder(name)).files
    return {}


def plan_family(asked: Asked) -> FamilyPlan:
    """Who is to be in the family, found out by reading alone; UserError where nobody can."""
    toml, defaults = read_defaults()
    family = _settings(defaults.family, name=asked.name)
    folder = family_folder(family.name)
    if folder.is_dir() and not (folder / RECORD).is_file():
        raise UserError(f"{paths.shown(folder)}: holds no family; take another --name")
    there = read_family_release(folder) if folder.is_dir() and not asked.anew else None
    family = _settings(family, precision=asked.precision or (there.precision if there else None))
    ours = set(there.domains) if there else set()
    members, left_out = [], {}
    for name in sorted({*(asked.domains or domain_names()), *ours}):
        joins = asked.domains is None or name in asked.domains
        named = name in ours or asked.domains is not None
        try:
            domain = load_domain(name)
        except UserError as error:
            if named:
                raise
            left_out[name] = str(error)
            continue
        rung = (asked.rung if joins else None) or _rung_name(domain, defaults, there)
        found = _member(domain, rung, named=named)
        if isinstance(found, Member):
            _need_common(domain, defaults)
            members.append(found)
        else:
            left_out[name] = found
    if not members:
        raise UserError(
            f"{toml.place(('family', 'rung'))}: no domain has an adapter there: "
            f"{next(iter(left_out.values()))}"
        )
    return FamilyPlan(family, tuple(members), left_out, there, defaults.publish, asked.anew)


def _rung_name(domain: Domain, defaults: Defaults, there: FamilyRelease | None) -> str:
    """The rung that it has in the family; of a further domain its own, or that of all others."""
    if there and domain.name in there.domains:
        return there.domains[domain.name].rung
    own = domain.chain.family.rung
    usual = {member.rung for member in there.domains.values()} if there else set()
    return usual.pop() if own == defaults.family.rung and len(usual) == 1 else own


def _settings(under: FamilySettings, **given: str | None) -> FamilySettings:
    """The settings with what was given in their place."""
    over = {key: value for key, value in given.items() if value}
    return validate(under.model_dump() | over, FamilySettings, "release-family")


def _member(domain: Domain, name: str, *, named: bool) -> Member | str:
    """The domain with its rung; or why it has no adapter, where nobody asked for it by name."""
    if not named and name not in [rung.name for rung in domain.chain.rung]:
        return f"domains/{domain.name}/fallback.toml: no rung is named {name!r}"
    rung = domain.rung(name)
    if not named and not rung.adapter:
        return f"domains/{domain.name}/fallback.toml: rung {name} has no adapter"
    need_adapter(domain, rung)
    try:
        with only_what_is_done():
            inspected(rung)
    except NotDone:  # fetched when it is built
        pass
    except (NoWeights, NoFolder) as error:
        if named:
            raise
        return str(error)
    return Member(domain, rung)


def _need_common(domain: Domain, defaults: Defaults) -> None:
    """UserError where a domain's fallback.toml sets for itself what all domains of a family share."""
    own, common = domain.chain, defaults
    for key in ("name", "precision"):
        if getattr(own.family, key) != getattr(common.family, key):
            where = domain.config.place(("family", key))
            raise UserError(f"{where}: holds for all domains; it belongs into {DEFAULTS_FILE}")
    if organisation(own.publish) != organisation(common.publish):
        where = domain.config.place(("publish", "org"))
        raise UserError(f"{where}: not {DEFAULTS_FILE}'s; a family and its domains go to one")


def _released(name: str, family: Family, member: Member, options: Options) -> Result:
    """One domain of the family: whatever goes wrong becomes its error, so that the others go on."""

    def run(domain: Domain, options: Options) -> ChainResult:
        chain = run_member(family, member, options)
        chain.family = facts_of(name, family)
        return chain

    try:
        return release_domain(member.domain.name, options, run=run)
    except Exception as error:
        return record_failure(member.domain.name, "release-family", error)


def facts_of(name: str, family: Family) -> dict[str, Any]:
    """For release.json: the family's name, and the SHA-256 of each data file that its domains share."""
    outputs: Mapping[str, FileRecord] = family.base.manifest.outputs
    shared = {file: record.sha256 for file, record in outputs.items() if "_data" in file}
    return {"name": name, "precision": family.precision, "shared": shared}
