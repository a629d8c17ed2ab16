"""`python -m benchmarks.family_at_size`: a full-size SmolLM3 as a family's base, with four adapters.

Random base, random adapters of rank 32 over all linear layers. The family is built by the functions
that `./inv release-family` calls; the recipe is the builder alone: calibration costs what it costs any
build (docs/recipes.md), and changes no byte count. Then onnxruntime-genai answers with each adapter in
one session. Writes docs/family-at-size.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.adapted import RANK, write_random_adapter
from benchmarks.family.models import FamilyModel
from benchmarks.full_size import full_size_model
from benchmarks.page_answers import DOMAINS
from shared.base import paths
from shared.base.cpu import set_variables
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.base.formatting import number
from shared.base.processes import peak_memory
from shared.base.progress import say
from shared.base.tables import table
from shared.domain.domain import load_domain
from shared.domain.olive_json import builder_pass
from shared.olive.family_record import SWAP, adapter_file
from shared.pipeline.family import Family, Member, build_family
from shared.webgpu_bench.model_list import family_entries

ARCHITECTURE, RUNG, DTYPE, TOKENS = "smollm3", "smollm3", "q4f16", 16
DOCUMENT = paths.REPOSITORY / "docs" / "family-at-size.md"

HEAD = """# A family on a full-size SmolLM3

Written by `python -m benchmarks.family_at_size` on {date}: random weights in SmolLM3-3B's shape, random
LoRAs of rank {rank} over its linear layers, stored in int4. The builder alone, without calibration;
{cores} cores, no GPU, a load of {load} before.

"""


@dataclass(frozen=True)
class Built:
    """A family with the seconds and the most bytes of memory that building it took."""

    family: Family
    seconds: float
    memory: int


def members(base: Path, work: Path) -> list[Member]:
    """The domains of this repository, each with an adapter of its own."""
    found = []
    for seed, name in enumerate(DOMAINS):
        adapter = write_random_adapter(base, work / name, seed=seed)
        domain = load_domain(name)
        alone = dict([builder_pass(domain.olive)])
        changes = {"source": str(base), "adapter": str(adapter), "olive": {"passes": alone}}
        found.append(Member(domain, domain.rung(RUNG).model_copy(update=changes)))
    return found


def timed(some: list[Member], grown_from: Path | None = None) -> Built:
    """Build the family of these; UserError where it was built before."""
    began = time.monotonic()
    with peak_memory(psutil.Process()) as peak:
        family = build_family(some, grown_from=grown_from)
    if family.done.reused:
        raise UserError("build/ has this family already: its time says nothing; ./inv clean first")
    return Built(family, time.monotonic() - began, peak[0])


def answers(family: Family) -> list[tuple[str, ...]]:
    """One session of onnxruntime-genai, each domain's adapter in turn: a row a domain."""
    rows, model = list[tuple[str, ...]](), None
    for name in DOMAINS:
        began = time.monotonic()
        if model is None:
            model = FamilyModel(family.folder, name)
        else:
            model.take_in(family.folder, name)
        loaded = time.monotonic() - began
        domain = load_domain(name)
        prompt = model.chat.prompt_ids(domain.prompt, domain.records[0].input)
        answer = model.free(prompt, TOKENS)
        count, took = len(answer.output_ids), answer.decode_seconds
        size = (family.folder / adapter_file(name)).stat().st_size
        speed = number((count - 1) / took, "tokens/s") if count > 1 else "not measured"
        written = f"{count} tokens after {len(prompt)}"
        rows.append((name, number(size, "B"), number(round(loaded, 2), "s"), written, speed))
    return rows


def render(first: Built, grown: Built, rows: list[tuple[str, ...]], load: float) -> str:
    """The document."""
    folder, entries = grown.family.folder, family_entries("family", grown.family.folder)
    base = entries[0]["bytes"][DTYPE]
    own = sum((folder / adapter_file(name)).stat().st_size for name in DOMAINS)
    alone = grown.family.packages[DOMAINS[0]].manifest.measurements[f"{DTYPE}_bytes"].value
    fetched = table(
        ("fetched by a page", DTYPE),
        [
            (
                f"the base, with the graph that takes adapters ({SWAP}_{DTYPE}.onnx)",
                number(base, "B"),
            ),
            (f"{len(DOMAINS)} adapters", number(own, "B")),
            ("all domains", number(base + own, "B")),
            (
                f"{len(DOMAINS)} repositories, each with its own base",
                number(len(DOMAINS) * int(alone or 0), "B"),
            ),
        ],
    )
    told = [
        (", ".join(names), number(round(built.seconds, 1), "s"), number(built.memory, "B"))
        for names, built in ((DOMAINS[:-1], first), (DOMAINS[-1:], grown))
    ]
    asked = table(("domain", "its adapter", "loaded in", "answered", "decode"), rows)
    head = HEAD.format(
        date=datetime.now(UTC).date(), rank=RANK, cores=os.cpu_count(), load=f"{load:.1f}"
    )
    took = table(("built, from weights to the folder", "took", "peak memory"), told)
    return (
        f"{head}{fetched}\n\n{took}\n\nThe last one is added to the family that is there.\n\n"
        f"{asked}\n\n"
        "onnxruntime-genai on the CPU, one session: the first row's load is the base's too.\n"
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    set_variables()
    work, load = paths.build() / "bench-family-at-size", os.getloadavg()[0]
    base = full_size_model(ARCHITECTURE)
    shutil.rmtree(work, ignore_errors=True)
    try:
        some = members(base, work)
        first = timed(some[:-1])
        grown = timed(some, grown_from=first.family.folder)
        say("answering with each adapter in onnxruntime-genai")
        print(paths.shown(write_text(DOCUMENT, render(first, grown, answers(grown.family), load))))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
