"""What is measured of a family, and of the merged releases of its domains; q4f16 on the CPU."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks.family.models import DTYPE, FamilyModel, SwappedDecoder
from benchmarks.family.rows import PRECISIONS, Kept, Row, keep
from shared.base import paths
from shared.base.manifest import Manifest, Measurement
from shared.base.progress import say
from shared.domain.grammar.schema import grammar
from shared.domain.settings import Precision
from shared.evaluate.check import ANSWERS
from shared.evaluate.distribution import divergence
from shared.evaluate.models.chat import Answer, prompt_prefix
from shared.evaluate.models.onnx import OnnxDecoder
from shared.evaluate.reference import passages, predictions
from shared.evaluate.scoring.measurements import Answers
from shared.evaluate.scoring.statistics import clustered_mean
from shared.evaluate.scoring.summary import summarise
from shared.olive.family_record import SWAP, adapter_file, read_family
from shared.pipeline.chain import record, select_records
from shared.pipeline.family import Family, Member, build_family, run_member
from shared.pipeline.stages import Options, RungRun
from shared.release.model import ChainResult
from shared.webgpu_bench.model_list import family_entries

HELD = "release.constrained.field_score"
ROUNDS = 5


@dataclass
class Bench:
    """The family of some members as it grows; `file` has the rows. `records`: how many are answered;
    `tokens`: how many are decoded for speed."""

    kept: Kept
    file: Path
    members: dict[str, Member]
    precision: Precision
    records: int = 8
    tokens: int = 48

    def __post_init__(self) -> None:
        until = {"until": "check", "on_the_way": True, "systems": "release", "constrained": "only"}
        self.options = Options(records=str(self.records), **until)  # type: ignore[arg-type]
        self.inside: list[str] = []
        self._families: dict[tuple[str, ...], Family] = {}
        self._merged: dict[str, ChainResult] = {}

    def family(self, precision: Precision | None = None) -> Family:
        """Of the members that are in it so far; built once, then grown."""
        name = (precision or self.precision, *self.inside)
        if name not in self._families:
            first = self.kept.calibrated or self.inside
            start = [self.members[domain] for domain in first]
            built = build_family(start, precision or self.precision)
            if len(self.inside) > len(first):
                all_of = [self.members[domain] for domain in self.inside]
                built = build_family(all_of, precision or self.precision, grown_from=built.folder)
            self._families[name] = built
        return self._families[name]

    def merged(self, domain: str) -> ChainResult:
        """The merged release of the same weights, calibrated on its own domain, up to check."""
        if domain not in self._merged:
            member = self.members[domain]
            result = ChainResult(member.domain)
            chosen = select_records(member.domain, self.options)
            run = RungRun(member.domain, member.rung, "olive", chosen, self.options)
            run.finish()
            record(result, run)
            self._merged[domain] = result
        return self._merged[domain]

    def keep(self, row: Row, fill: dict[str, Measurement], **counts: int) -> None:
        """Keep a row that is measured already."""

        def made(row: Row) -> None:
            row.found, row.counts = fill, counts

        keep(self.kept, self.file, row, made)


def measure_base(bench: Bench) -> None:
    """The family's own: bytes of what a page fetches once, seconds of the base's build."""

    def make(row: Row) -> None:
        family = bench.family()
        entry = family_entries("family", family.folder)[0]
        row.found = {
            "bytes": _bytes(entry["bytes"][DTYPE], f"{SWAP}_{DTYPE}.onnx and the base's data"),
            "seconds": _seconds(family.build.manifest),
        }

    keep(bench.kept, bench.file, Row(part="base", precision=bench.precision), make)


def measure_form(bench: Bench, domain: str, form: str) -> None:
    """A domain in one form: KL to its 16-bit parent, field score held to the schema, bytes."""

    def make(row: Row) -> None:
        say(f"{domain}: {form}")
        row.found = _merged(bench, domain) if form == "merged" else _of(bench, domain, form)

    precision = "" if form == "merged" else bench.precision
    keep(
        bench.kept,
        bench.file,
        Row(part="form", domain=domain, form=form, precision=precision),
        make,
    )


def _of(bench: Bench, domain: str, form: str) -> dict[str, Measurement]:
    """The family's: initializers by the product's stages, inputs by its folder."""
    family, member = bench.family(), bench.members[domain]
    result = run_member(family, member, bench.options)
    found = _measured(result)
    own = _own_bytes(family, domain)
    if form == "initializers" or result.rung is None:
        return found | {"bytes": own}
    folder = _reference(result.manifests["fidelity"])
    decoder = SwappedDecoder(family.folder, domain, exact=True)
    found["kl_divergence"] = _figure(divergences(decoder, folder), "nats/token")
    del decoder
    records = select_records(member.domain, bench.options).records
    model = FamilyModel(family.folder, domain)
    prompts = [model.chat.prompt_ids(member.domain.prompt, one.input) for one in records]
    limit = member.domain.chain.check.max_new_tokens
    prefix = prompt_prefix(model.chat, member.domain.prompt)
    given = model.held(prompts, limit, grammar(member.domain.schema), prefix)
    answers = Answers(member.domain, records, "our own held-out records")
    score = summarise(answers.verdicts(given), "constrained greedy decoding")["field_score"]
    same = _same(result.stages["check"].folder / ANSWERS, given)
    return found | {"field_score": score, "same_answers": same, "bytes": own}


def _measured(result: ChainResult) -> dict[str, Measurement]:
    """KL and field score of its stages; missing, with the reason, where it did not get there."""
    if result.rung is None:
        missing = Measurement.missing(result.attempts[-1].reason)
        return {"kl_divergence": missing, "field_score": missing}
    made = result.manifests
    return {
        "kl_divergence": made["fidelity"].measurements["kl_divergence"],
        "field_score": made["check"].measurements[HELD],
    }


def _merged(bench: Bench, domain: str) -> dict[str, Measurement]:
    result = bench.merged(domain)
    found = _measured(result)
    if result.rung is None:
        return found | {"bytes": found["kl_divergence"], "seconds": found["kl_divergence"]}
    size = result.manifests["package"].measurements[f"{DTYPE}_bytes"]
    return found | {"bytes": size, "seconds": _seconds(result.manifests["build"])}


def _same(file: Path, given: Sequence[Answer]) -> Measurement:
    """How many answers are those of the other form, as text."""
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    theirs = [one["text"] for one in lines if one["mode"] == "constrained"]
    same = sum(a.text == text for a, text in zip(given, theirs, strict=True))
    return Measurement(value=same, how="the same text as the form initializers", n=len(given))


def divergences(decoder: OnnxDecoder, reference: Path) -> list[np.ndarray]:
    """KL in nats at every scored position, an array a record, of a model from its 16-bit parent."""
    found = []
    for passage in passages(reference):
        assert passage.predicted is not None
        parts, first = list[np.ndarray](), 0
        for logits, following in predictions(decoder, passage):
            parts.append(divergence(passage.predicted, logits, following, first).divergence)
            first += len(following)
        found.append(np.concatenate(parts))
    return found


def measure_precisions(bench: Bench, domain: str) -> None:
    """The domain's adapter as float16, 8 and 4 bits: bytes, KL, and KL less float16's."""
    if all(bench.kept.row("precision", domain, "", precision) for precision in PRECISIONS):
        return
    folder = _reference(
        run_member(bench.family(), bench.members[domain], _until_fidelity(bench)).manifests[
            "fidelity"
        ]
    )
    base: list[np.ndarray] = []
    for precision in PRECISIONS:
        say(f"{domain}: its adapter as {precision}")
        family = bench.family(precision)
        graph = family.packages[domain].folder / "onnx" / f"model_{DTYPE}.onnx"
        kl = divergences(OnnxDecoder(graph, exact=True), folder)
        base = base or kl
        above = [ours - float16 for ours, float16 in zip(kl, base, strict=True)]
        bench.keep(
            Row(part="precision", domain=domain, precision=precision),
            {
                "bytes": _own_bytes(family, domain),
                "kl_divergence": _figure(kl, "nats/token"),
                "kl_above_f16": _figure(above, "nats/token"),
            },
        )


def measure_nodes(bench: Bench, precisions: Sequence[Precision]) -> None:
    """Nodes by operator: the base's graph, which a merged release's is too, and both forms."""
    domain = bench.inside[0]
    for precision in precisions:
        family = bench.family(precision)
        own, whole = family.packages[domain].folder / "onnx", family.folder / "onnx"
        bench.keep(Row(part="nodes", form="merged"), {}, **nodes(whole / f"model_{DTYPE}.onnx"))
        for form, file in (
            ("initializers", own / f"model_{DTYPE}.onnx"),
            ("inputs", whole / f"{SWAP}_{DTYPE}.onnx"),
        ):
            bench.keep(Row(part="nodes", form=form, precision=precision), {}, **nodes(file))


def nodes(graph: Path) -> dict[str, int]:
    """Operator → how many nodes a token passes through."""
    model = onnx.load(str(graph), load_external_data=False)
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def measure_speeds(bench: Bench, domain: str, precisions: Sequence[Precision]) -> None:
    """Decode tokens/s of the domain's forms, loaded in one process and asked in turns."""
    rows = [Row(part="speed", domain=domain, form="merged")]
    rows += [
        Row(part="speed", domain=domain, form=form, precision=precision)
        for precision in precisions
        for form in ("initializers", "inputs")
    ]
    if all(bench.kept.row(*row.key) for row in rows):  # type: ignore[arg-type]
        return
    merged = bench.merged(domain)
    places: list[tuple[Path, str | None]] = [(merged.package, None)] if merged.rung else []
    if merged.rung is None:
        bench.keep(rows.pop(0), {"tokens_per_second": _measured(merged)["kl_divergence"]})
    for precision in precisions:
        family = bench.family(precision)
        places += [(family.packages[domain].folder, None), (family.folder, domain)]
    say(f"{domain}: decode speed of {len(places)} in turns")
    models = [FamilyModel(*place) for place in places]
    one = bench.members[domain].domain
    prompt = models[0].chat.prompt_ids(one.prompt, one.records[0].input)
    found = in_turns(models, prompt, bench.tokens)
    for row, speed in zip(rows, found, strict=True):
        bench.keep(row, {"tokens_per_second": speed})


def in_turns(
    models: Sequence[FamilyModel], prompt: Sequence[int], tokens: int, rounds: int = ROUNDS
) -> list[Measurement]:
    """The median of each model's tokens/s; a round asks every model once, the first one warms up."""
    samples, load = [list[float]() for _ in models], _load()
    for turn in range(rounds + 1):
        for model, own in zip(models, samples, strict=True):
            speed = model.speed(prompt, tokens)
            own.extend([speed] * (turn > 0))
    how = f"median of {rounds} turns of {tokens} tokens after {len(prompt)}"
    said = Measurement(unit="tokens/s", how=how, where=load, n=rounds)
    return [
        said.model_copy(update={"value": statistics.median(own), "samples": own}) for own in samples
    ]


def measure_further(bench: Bench, domain: str) -> None:
    """Add a domain to the built family: seconds, and which files are new or others."""
    before = bench.family()
    known = _files(before.folder)
    bench.inside.append(domain)

    def make(row: Row) -> None:
        say(f"{domain}: added to {', '.join(bench.inside[:-1])}")
        members, load = [bench.members[name] for name in bench.inside], _load()
        began = time.monotonic()
        grown = build_family(members, bench.precision, grown_from=before.folder)
        seconds = time.monotonic() - began
        after = _files(grown.folder)
        row.counts = {
            name: size
            for name, (digest, size) in after.items()
            if known.get(name) != (digest, size)
        }
        again = "its stages were there from an earlier run"
        row.found = {
            "seconds": Measurement.missing(again, "s")
            if grown.done.reused
            else Measurement(value=seconds, unit="s", how="all its stages", where=load),
            "written": _bytes(sum(row.counts.values()), "new or other files of the family"),
            "fetched": _own_bytes(grown, domain),
        }

    keep(
        bench.kept, bench.file, Row(part="further", domain=domain, precision=bench.precision), make
    )


def _load() -> str:
    return f"the machine's load before was {os.getloadavg()[0]:.1f}"


def _files(folder: Path) -> dict[str, tuple[str, int]]:
    told = read_family(folder)
    every = (told.shared, *(adapter.files for adapter in told.adapters.values()))
    return {name: (one.sha256, one.bytes) for files in every for name, one in files.items()}


def _reference(fidelity: Manifest) -> Path:
    return paths.build() / "reference" / str(fidelity.facts["reference"])


def _until_fidelity(bench: Bench) -> Options:
    return Options(until="fidelity", on_the_way=True, records=bench.options.records)


def _own_bytes(family: Family, domain: str) -> Measurement:
    file = adapter_file(domain)
    return _bytes((family.folder / file).stat().st_size, file)


def _bytes(size: int, how: str) -> Measurement:
    return Measurement(value=size, unit="B", how=how)


def _seconds(made: Manifest) -> Measurement:
    return Measurement(value=made.wall_seconds, unit="s", how="its build, calibration included")


def _figure(records: Sequence[np.ndarray], unit: str) -> Measurement:
    """Mean over tokens, its standard error clustered by record."""
    value, error = clustered_mean(records)
    count = sum(map(len, records))
    return Measurement(value=value, unit=unit, n=count, standard_error=error)
