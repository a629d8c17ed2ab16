"""docs/family.md, all of it from docs/measured/family.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.family.rows import FORMS, PRECISIONS, Kept
from shared.base import paths
from shared.base.formatting import number
from shared.base.manifest import Measurement
from shared.base.tables import shown, table

DOCUMENT = paths.REPOSITORY / "docs" / "family.md"
VIEWS = ("Shape", "Concat", "Flatten", "Reshape", "Constant")
"""Operators that copy nothing on a GPU, or are computed on the CPU."""
HEAD = """# A family on one 4-bit base, measured

Written by `python -m benchmarks.family` from [measured/family.json](measured/family.json), by the
functions that `./inv release-family` calls, up to fidelity and check; {machine}; {tools}. The base is
{base}, calibrated on the text of {calibrated}. q4f16 throughout. A domain's parent is
the 16-bit base with its adapter merged; *merged* is the ordinary 4-bit release of that parent,
calibrated on its own domain. *Initializers* and *inputs* are the two forms of one graph that
[olive.md](olive.md) describes. The same at full size: [family-at-size.md](family-at-size.md).

The adapters: {adapters}. A random one has bytes, speed and KL as any other; its field score says
nothing.

"""


def render(kept: Kept) -> str:
    """The document; what was not measured is there as such, with its reason."""
    head = HEAD.format(
        machine=kept.machine,
        tools=", ".join(f"{name} {version}" for name, version in kept.tools.items()),
        base=kept.base,
        calibrated=" and ".join(kept.calibrated),
        adapters="; ".join(f"*{domain}*: {words}" for domain, words in kept.adapters.items()),
    )
    parts = (
        ("Bytes", _bytes(kept)),
        ("A domain in each form", _forms(kept)),
        ("In one page", _browser(kept)),
        ("How an adapter is stored", _precisions(kept)),
        ("Decode speed on the CPU", _speeds(kept)),
        ("A further domain", _further(kept)),
        ("Nodes a token passes through", _nodes(kept)),
    )
    return head + "\n".join(f"## {title}\n\n{text}\n" for title, text in parts)


def totals(kept: Kept, domains: Sequence[str]) -> tuple[Measurement, Measurement]:
    """Bytes of a family of these and of as many merged releases; missing where one of them is."""
    own = [_own(kept, domain) for domain in domains]
    merged = [_form(kept, "bytes", domain, "merged") for domain in domains]
    return _sum([_base(kept, "bytes"), *own]), _sum(merged)


def chosen(kept: Kept) -> tuple[str, str]:
    """The precision by the one-standard-error rule, or "", and why: the fewest bytes whose KL is within
    one standard error of the least KL, in every domain that was measured in all precisions."""
    found = {d: _stored(kept, d) for d in kept.adapters}
    found = {d: rows for d, rows in found.items() if len(rows) == len(PRECISIONS)}
    if not found:
        return "", "no domain's adapter was measured in all of them"
    sizes = {p: sum(int(rows[p][0].value or 0) for rows in found.values()) for p in PRECISIONS}
    for precision in sorted(sizes, key=lambda p: sizes[p]):
        if all(
            _within(rows[precision][1], [kl for _, kl in rows.values()]) for rows in found.values()
        ):
            return precision, f"over {', '.join(found)}"
    return "", "none is within one standard error of the least KL in every domain"


def _within(kl: Measurement, others: Sequence[Measurement]) -> bool:
    least = min(others, key=_value)
    return _value(kl) <= _value(least) + (least.standard_error or 0.0)


def _value(measured: Measurement) -> float:
    return float(measured.value or 0.0)


def _stored(kept: Kept, domain: str) -> dict[str, tuple[Measurement, Measurement]]:
    rows = {p: kept.row("precision", domain, "", p) for p in PRECISIONS}
    return {p: (r.found["bytes"], r.found["kl_divergence"]) for p, r in rows.items() if r}


def _base(kept: Kept, name: str) -> Measurement:
    return kept.measurement(name, "base", precision=kept.precision)


def _form(kept: Kept, name: str, domain: str, form: str) -> Measurement:
    return kept.measurement(name, "form", domain, form, "" if form == "merged" else kept.precision)


def _sum(parts: Sequence[Measurement]) -> Measurement:
    if gone := next((part for part in parts if part.value is None), None):
        return gone
    return Measurement(value=sum(int(part.value or 0) for part in parts), unit="B")


def _own(kept: Kept, domain: str) -> Measurement:
    """Bytes of its adapter; of a domain that was added they are known before its form is measured."""
    found = _form(kept, "bytes", domain, "initializers")
    if found.value is None and kept.row("further", domain, "", kept.precision):
        return kept.measurement("fetched", "further", domain, "", kept.precision)
    return found


def _bytes(kept: Kept) -> str:
    all_of = tuple(domain for domain in kept.adapters if not _is_further_alone(kept, domain))
    both = tuple(d for d in all_of if None not in (m.value for m in totals(kept, [d])))
    base = shown(_base(kept, "bytes"))
    rows: list[tuple[str, ...]] = [("the base, with the graph that takes adapters", base, "")]
    for domain in all_of:
        merged = shown(_form(kept, "bytes", domain, "merged"))
        rows.append(
            (f"*{domain}*: its adapter, or its merged release", shown(_own(kept, domain)), merged)
        )
    shares = []
    for domains in dict.fromkeys((both, all_of)):
        if len(domains) > 1:
            family, merged_all = totals(kept, domains)
            rows.append((f"{', '.join(domains)}: all", shown(family), shown(merged_all)))
            if family.value is not None and merged_all.value is not None:
                share = number(_value(family) / _value(merged_all), "share")
                shares.append(
                    f"Of {len(domains)} domains the family is {share} of the merged releases."
                )
    drawn = table(("fetched by a page", f"family, {kept.precision}", "merged releases"), rows)
    return "\n\n".join([drawn, *([" ".join(shares)] if shares else [])])


def _is_further_alone(kept: Kept, domain: str) -> bool:
    """Whether it was added to the family, and nothing else was measured of it."""
    return {row.part for row in kept.rows if row.domain == domain} == {"further"}


def _forms(kept: Kept) -> str:
    rows = [
        (
            domain,
            form,
            shown(_form(kept, "kl_divergence", domain, form)),
            shown(_form(kept, "field_score", domain, form)),
            _same(kept, domain) if form == "inputs" else "",
        )
        for domain in kept.adapters
        if any(row.part == "form" and row.domain == domain for row in kept.rows)
        for form in FORMS
    ]
    heads = (
        "domain",
        "form",
        "KL to its parent, nats/token",
        "field score",
        "answers as initializers",
    )
    return (
        f"{table(heads, rows)}\n\nKL with its standard error, clustered by record; the field score "
        "held to the schema, with its 95 % interval over n records of eval.jsonl. *Initializers* and "
        "*inputs* are the same weights, computed by other kernels or in another order: where greedy "
        "answers differ, rounding did it; whether each time at a near tie was not looked at."
    )


def _same(kept: Kept, domain: str) -> str:
    row = kept.row("form", domain, "inputs", kept.precision)
    same = row.found.get("same_answers") if row else None
    return f"{same.value} of {same.n}" if same else "not measured"


def _precisions(kept: Kept) -> str:
    rows = [
        (
            domain,
            precision,
            *(
                shown(kept.measurement(name, "precision", domain, "", precision))
                for name in ("bytes", "kl_divergence", "kl_above_f16")
            ),
        )
        for domain in kept.calibrated
        for precision in PRECISIONS
    ]
    if not any(row.part == "precision" for row in kept.rows):
        return "Not measured: its run was not made."
    name, why = chosen(kept)
    verdict = f"**{name}**, {why}" if name else f"not chosen: {why}"
    return (
        f"{table(('domain', 'stored as', 'bytes', 'KL to its parent', 'less f16’s'), rows)}\n\n"
        "KL per byte decides, by the one-standard-error rule: the fewest bytes whose KL is within one "
        f"standard error of the least, in every domain measured: {verdict}."
    )


def _speeds(kept: Kept) -> str:
    found = [row for row in kept.rows if row.part == "speed"]
    if not found:
        return "Not measured: its run was not made."
    rows = []
    for row in found:
        speed = row.found["tokens_per_second"]
        merged = kept.measurement("tokens_per_second", "speed", row.domain, "merged")
        known = speed.value is not None and merged.value is not None
        times = f"{_value(speed) / _value(merged):.2f}" if known else ""
        ends = [number(end(speed.samples), "") for end in (min, max)] if speed.samples else []
        name = f"{row.form}, {row.precision}".removesuffix(", ")
        rows.append((row.domain, name, shown(speed), "–".join(ends), times))
    last = found[-1].found["tokens_per_second"]
    return (
        f"{table(('domain', 'form', 'decode', 'least–most', 'of merged'), rows)}\n\n"
        f"onnxruntime-genai, all loaded in one process and asked in turns; {last.how}; {last.where}. "
        "On WebGPU: not measured, no GPU was at hand."
    )


def _browser(kept: Kept) -> str:
    found = [row for row in kept.rows if row.part == "browser"]
    if not found:
        return "Not measured: its run was not made."
    rows = [
        (row.form, shown(row.found["fetched"]), shown(row.found["held"]), _tokens(row.found))
        for row in found
    ]
    heads = (
        "step",
        "fetched from the server",
        "in GPU buffers after it",
        "tokens that are the CPU's",
    )
    return (
        f"{table(heads, rows)}\n\nChromium, q4, WebGPU by a software adapter, the page's own modules; "
        "the CPU reads the domain's own graph in float32."
    )


def _tokens(found: Mapping[str, Measurement]) -> str:
    same = found.get("same")
    return f"{same.value} of {same.n}" if same else ""


def _further(kept: Kept) -> str:
    found = [row for row in kept.rows if row.part == "further"]
    if not found:
        return "Not measured: its run was not made."
    rows = [
        (
            row.domain,
            *(shown(row.found.get(name)) for name in ("seconds", "written", "fetched")),
            ", ".join(f"{name} ({size:,})" for name, size in row.counts.items()),
        )
        for row in found
    ]
    load = "; ".join(f"*{row.domain}*: {row.found['seconds'].where}" for row in found)
    drawn = table(("added", "took", "written", "of it a page fetches", "files (bytes)"), rows)
    return f"{drawn}\n\nFrom its weights to the family's folder, without measuring it. {load}."


def _nodes(kept: Kept) -> str:
    found = [row for row in kept.rows if row.part == "nodes"]
    if not found:
        return "Not measured: its run was not made."
    names = sorted({name for row in found for name in row.counts})
    columns = [f"{row.form}, {row.precision}".removesuffix(", ") for row in found]
    rows = [(name, *(f"{row.counts.get(name, 0)}" for row in found)) for name in names]
    rows.append(("**all**", *(f"{sum(row.counts.values())}" for row in found)))
    without = [sum(n for op, n in row.counts.items() if op not in VIEWS) for row in found]
    rows.append((f"**without {', '.join(VIEWS)}**", *map(str, without)))
    return (
        f"{table(('operator', *columns), rows)}\n\nCounted in the graphs as they are fetched; what a "
        "runtime fuses as it loads them is not in it. The last line leaves out what copies nothing on "
        "a GPU or is computed on the CPU: about the dispatches of a token."
    )
