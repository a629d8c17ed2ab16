"""`python -m benchmarks.family`: one 4-bit base with adapters beside merged releases; docs/family.md.

$ python -m benchmarks.family --adapter legal=FOLDER   # trained; also those of examples/adapters
$ python -m benchmarks.family --parts document         # nothing anew: the page from the rows

The domains with a trained adapter build the family; each other one gets a random adapter and is added
to it, and after them a further one, which is a copy of another. Every row stays in
docs/measured/family.json as soon as it is made, and is not made again.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from benchmarks.adapted import write_random_adapter
from benchmarks.family.browser import measure_browser
from benchmarks.family.document import DOCUMENT, render
from benchmarks.family.measure import (
    Bench,
    measure_base,
    measure_form,
    measure_further,
    measure_nodes,
    measure_precisions,
    measure_speeds,
)
from benchmarks.family.rows import FIGURES, FORMS, PRECISIONS, Kept, write
from benchmarks.page_answers import DOMAINS
from shared.base import paths
from shared.base.cpu import set_variables
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.base.hashing import sha256_file
from shared.base.manifest import tool_versions
from shared.domain.domain import Domain, load_domain
from shared.domain.settings import Precision
from shared.pipeline.family import Member
from shared.source.adapter import CONFIG, WEIGHTS
from shared.source.embedded import PACKAGE, embedded_model

EXAMPLE = "contracts"
"""Whose rung `example` is taken for all domains: one base has one recipe."""
EXAMPLES = Path("examples/adapters")
FURTHER = "copied"
"""A domain more than those of the repository: EXAMPLE's folder under another name."""
RANK = 8
PARTS = ("family", "browser", "precision", "further", "merged", "speed", "random", "document")


def adapters(given: list[str]) -> dict[str, tuple[str, str]]:
    """Domain → (folder, what it is), the trained ones first; UserError where one given is not there."""
    named = dict(text.partition("=")[::2] for text in given)
    for domain, folder in named.items():
        if domain not in DOMAINS or not (paths.root() / folder / CONFIG).is_file():
            raise UserError(f"--adapter: {domain}={folder}: a domain and the folder of its adapter")
    found, drawn = dict[str, tuple[str, str]](), dict[str, tuple[str, str]]()
    for seed, domain in enumerate(DOMAINS):
        example = EXAMPLES / domain
        if domain in named:
            words = "trained by examples/finetune, given to the command, not in this repository"
            found[domain] = (named[domain], words)
        elif (paths.root() / example / CONFIG).is_file():
            found[domain] = (str(example), f"trained, {example}")
        else:
            drawn[domain] = _random(domain, seed)
    folder, words = _random(FURTHER, len(DOMAINS))
    drawn[FURTHER] = (folder, f"{words}, for a copy of {EXAMPLE}")
    return dict(sorted(found.items())) | drawn


def _random(domain: str, seed: int) -> tuple[str, str]:
    made = paths.build() / "bench-family" / domain
    if not (made / WEIGHTS).is_file():
        write_random_adapter(embedded_model(PACKAGE), made, rank=RANK, seed=seed)
    return str(made), f"random, N(0, 0.02²), rank {RANK}"


def _domain(name: str) -> Domain:
    return replace(load_domain(EXAMPLE), name=name) if name == FURTHER else load_domain(name)


def bench_of(given: list[str], precision: Precision, file: Path, records: int) -> Bench:
    """The members, with the rows that are there."""
    rung = load_domain(EXAMPLE).rung("example")
    found = adapters(given)
    members = {
        name: Member(_domain(name), rung.model_copy(update={"adapter": folder}))
        for name, (folder, _) in found.items()
    }
    kept = Kept.read(file)
    kept.machine = f"{os.cpu_count()} cores, no GPU"
    kept.tools = tool_versions("onnxruntime", "onnxruntime-genai")
    kept.base, kept.precision = rung.base, precision
    kept.forget_others(
        {name: words for name, (_, words) in found.items()},
        {name: sha256_file(paths.root() / folder / WEIGHTS) for name, (folder, _) in found.items()},
    )
    trained = [name for name, words in kept.adapters.items() if words.startswith("trained")]
    kept.calibrated = kept.calibrated or trained
    bench = Bench(kept, file, members, precision, records=records)
    bench.inside = list(kept.calibrated)
    write(kept, file)
    return bench


def measure(bench: Bench, part: str) -> None:
    """One part; rows that are there are passed over."""
    first = list(bench.kept.calibrated)
    others = [name for name in bench.members if name not in first]
    if part == "family":
        measure_base(bench)
        measure_nodes(bench, [bench.precision])
        for domain in first:
            for form in FORMS[:2]:
                measure_form(bench, domain, form)
    if part == "browser":
        measure_browser(bench)
    if part == "precision":
        for domain in first:
            measure_precisions(bench, domain)
        measure_nodes(bench, PRECISIONS)
    if part in ("further", "random"):
        for domain in (name for name in others if name not in bench.inside):
            measure_further(bench, domain)
    if part == "merged":
        for domain in first:
            measure_form(bench, domain, "merged")
    if part == "speed":
        measure_speeds(bench, first[0], PRECISIONS)
    if part == "random":
        for domain in (name for name in others if name != FURTHER):
            for form in FORMS:
                measure_form(bench, domain, form)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.family",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--adapter", action="append", default=[], metavar="DOMAIN=FOLDER")
    parser.add_argument("--parts", default=",".join(PARTS), help="of these, with commas between")
    parser.add_argument("--precision", choices=PRECISIONS, default="int4")
    parser.add_argument("--records", type=int, default=8, help="answered in each domain and form")
    parser.add_argument("--anew", action="store_true", help="forget the rows that are there")
    asked = parser.parse_args()
    parts = [part for part in asked.parts.split(",") if part]
    if unknown := [part for part in parts if part not in PARTS]:
        raise SystemExit(f"--parts: there is no {unknown[0]!r}; of {', '.join(PARTS)}")
    set_variables()
    if asked.anew:
        FIGURES.unlink(missing_ok=True)
    if parts != ["document"]:
        bench = bench_of(asked.adapter, asked.precision, FIGURES, asked.records)
        for part in (p for p in PARTS if p in parts):
            measure(bench, part)
            write_text(DOCUMENT, render(bench.kept))
    print(paths.shown(write_text(DOCUMENT, render(Kept.read(FIGURES)))))


if __name__ == "__main__":
    main()
