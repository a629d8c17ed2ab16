"""Every mistake that can be found before stage 1, together: a person mends them all at once.

>>> mistakes("legal")
['domains/legal/prompt.md: holds no prompt', 'no Chrome or Chromium on this machine; run …']
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from shared.base import paths
from shared.base.errors import UserError
from shared.base.formatting import number
from shared.base.hashing import NotDone, only_what_is_done
from shared.base.manifest import FILE_NAME
from shared.base.parsing import nearest, read_json, read_text
from shared.base.text import trimmed
from shared.domain.defaults import Config
from shared.domain.domain import GENERAL_FILE, load_domain
from shared.domain.grammar.schema import grammar
from shared.domain.olive_json import builder_pass, place_of, with_overrides
from shared.domain.records import read_records
from shared.domain.settings import Chain, Rung
from shared.evaluate.fidelity import MEASURED
from shared.evaluate.scoring.measurements import COMPARISONS, NOT_PAIRED, SPEED, WORKS
from shared.evaluate.scoring.summary import missing
from shared.evaluate.systems import MODES, NAMES
from shared.hub.names import repository_name
from shared.olive.build import DTYPES
from shared.olive.calibration_text import (
    general_instructions,
    refuse_common,
    wants_calibration,
)
from shared.prompt.renderers import require_node
from shared.release.card.sandbox import check_template
from shared.setup.browser import require_browser
from shared.source.source import located, weights_hash
from shared.source.weights import parts
from shared.webgpu_bench import measurements

BUILT, HELD = 0.75, 0.6
"""What a build takes on the disk, and a calibrating one in memory, as shares of the 16-bit weights
(docs/full-size.md)."""
LEAST_DISK, LEAST_MEMORY = 2_000_000_000, 1_000_000_000
PACKAGES = (
    *("@huggingface/transformers", "@mlc-ai/web-xgrammar"),
    *("@cfworker/json-schema", "hash-wasm"),
)


def need_inputs(
    name: str,
    *,
    browser: bool = True,
    rung: str | None = None,
    force: bool = False,
    calibration: Path | None = None,
) -> None:
    """UserError with every mistake, one a line. `browser`: whether the run comes to the browser;
    `rung`: the one that is asked for; `force`: whether what is built is built again; `calibration`: a
    file in place of calibration.jsonl."""
    found = mistakes(name, browser=browser, rung=rung, force=force, calibration=calibration)
    if len(found) == 1:
        raise UserError(found[0])
    if found:
        raise UserError("\n".join([f"{name}: {len(found)} mistakes; nothing was built", *found]))


def mistakes(
    name: str,
    *,
    browser: bool = True,
    rung: str | None = None,
    force: bool = False,
    calibration: Path | None = None,
) -> list[str]:
    """A sentence for each mistake in a domain's folder and on this machine; takes no second."""
    folder, to_build = paths.domains() / name, _to_build(name, rung, force)
    checks: list[Callable[[], object]] = [
        lambda: _read_whole(name),
        lambda: _need_prompt(folder),
        lambda: _need_grammar(folder),
        lambda: _need_gates(folder),
        lambda: need_calibration(name, calibration),
        lambda: check_template(read_text(folder / "card.md"), paths.shown(folder / "card.md")),
        lambda: _need_disk(to_build),
        lambda: _need_memory(to_build),
        require_node,
        *((_need_page, _need_browser) if browser else ()),
    ]
    if not folder.is_dir():
        checks = checks[:1]
    found: list[str] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def _read_whole(name: str) -> None:
    domain = load_domain(name)
    for rung in domain.chain.rung:
        repository_name(domain, rung.base)
        builder_pass(with_overrides(domain.olive, rung.olive, place_of(domain.folder, rung.name)))


def _need_prompt(folder: Path) -> None:
    if (folder / "prompt.md").is_file() and not trimmed(read_text(folder / "prompt.md")):
        raise UserError(f"{paths.shown(folder / 'prompt.md')}: holds no prompt")


def _need_grammar(folder: Path) -> None:
    """A file that is no JSON, or none, is for `_read_whole` to name."""
    path = folder / "schema.json"
    try:
        schema = read_json(path)
    except UserError:
        return
    if isinstance(schema, dict) and schema.get("type") == "object":
        grammar(schema, paths.shown(path))


def _need_gates(folder: Path) -> None:
    """Each gate names a measurement that some stage makes."""
    try:
        config = Config.read(folder)
        chain = config.chain()
    except UserError:
        return
    known = set(measurable(chain))
    for index, gate in enumerate(chain.gate):
        if gate.measurement not in known:
            place = config.place(("gate", index, "measurement"))
            hint = nearest(gate.measurement, sorted(known))
            raise UserError(f"{place}: no stage measures {gate.measurement!r}; {hint}")


def measurable(chain: Chain) -> Iterator[str]:
    """Every `<stage>.<name>` that the stages of a release can measure in this domain."""
    yield from ("source.parameters", "source.bytes", "overflow.f16_headroom", "check.loads")
    yield "prompt.same_everywhere"
    yield from (f"{stage}.{dtype}_bytes" for stage in ("build", "package") for dtype in DTYPES)
    yield from (f"fidelity.{name}" for name in (*MEASURED, "cpu_decode_tokens_per_second"))
    yield from (f"bench.{n}" for n in (*measurements.NAMES, *measurements.further(chain.bench)))
    scored = list(missing(chain.metrics, ""))
    for mode in MODES:
        yield from (f"check.{system}.{mode}.{name}" for system in NAMES for name in scored)
        yield f"check.release.{mode}.{SPEED}"
    yield from (f"check.floor.{name}" for name in scored)
    paired = [name for name in scored if name not in NOT_PAIRED]
    yield from (f"check.{pair}.{name}" for pair in COMPARISONS for name in paired)
    yield from (f"check.{name}" for name in WORKS)


def need_calibration(
    name: str, calibration: Path | None = None, *, takes: bool | None = None
) -> None:
    """UserError unless the records that calibrate are there, true to the schema, and none of them is
    measured. `calibration`: the file that was given in place of the domain's; `takes`: whether any
    pass reads it, where other passes than the domain's will run."""
    try:
        domain = load_domain(name, calibration)
    except UserError:
        return
    path = domain.calibration_file
    if not (wants_calibration(domain.olive) if takes is None else takes):
        if calibration:
            raise UserError(f"--calibration: no pass of domains/{name}/olive.json takes any text")
        return
    if not path.is_file():
        raise UserError(f"{paths.shown(path)}: olive.json calibrates on it, but it is missing")
    records = read_records(path, domain.schema)
    refuse_common(records, domain.records, paths.shown(path))
    general = paths.shown(paths.domains() / GENERAL_FILE)
    refuse_common(general_instructions(), domain.records, general)


def _to_build(name: str, only: str | None, force: bool) -> int:
    """Bytes of the largest model folder of the domain's rungs that no build was made from yet: room
    for it is asked for. With `force` builds that are there do not count."""
    try:
        rungs = load_domain(name).chain.rung
    except UserError:
        return 0
    asked = [(rung, _bytes_of(rung)) for rung in rungs if only in (None, rung.name)]
    return max((size for rung, size in asked if size and (force or not _built(rung))), default=0)


def _bytes_of(rung: Rung) -> int:
    """Of the weight files in a folder here; 0 where the source is none."""
    return sum(p.stat().st_size for p in (paths.root() / rung.source).glob("*.safetensors"))


def need_room(rung: Rung) -> None:
    """UserError where the disk has no room for a build of the rung's weights. Memory is for the
    scheduler to share out, where several build at once."""
    _need_disk(_bytes_of(rung))


def _built(rung: Rung) -> bool:
    """Whether a finished build says that it was made from these weights; asked without reading them.
    One by another recipe counts: `need_room` is asked before a build begins."""
    try:
        with only_what_is_done():
            folder = located(rung)
            of_family = weights_hash(parts(folder).base)  # whose build is the base's
            known = {weights_hash(folder), of_family}
        builds = (paths.build() / "build").glob(f"*/{FILE_NAME}")
        return any(read_json(path)["inputs"].get("weights") in known for path in builds)
    except (NotDone, UserError, OSError, KeyError):
        return False


def _need_memory(to_build: int) -> None:
    free, needed = psutil.virtual_memory().available, LEAST_MEMORY + int(HELD * to_build)
    if free < needed:
        raise UserError(
            f"{number(free, 'B')} of memory are free, a build may take {number(needed, 'B')}"
        )


def _need_disk(to_build: int) -> None:
    """models/ and build/ may be written to, and hold what a build of the largest model takes."""
    needed = LEAST_DISK + int(BUILT * to_build)
    for folder in (paths.root() / "models", paths.build()):
        there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        try:
            with tempfile.TemporaryFile(dir=there):
                free = shutil.disk_usage(there).free
        except OSError as error:
            words = error.strerror or type(error).__name__
            raise UserError(f"{paths.shown(folder)}: cannot be written to: {words}") from None
        if free < needed:
            have, want = number(free, "B"), number(needed, "B")
            raise UserError(f"{paths.shown(folder)}: {have} are free, a build may take {want}")


def _need_page() -> None:
    modules = paths.REPOSITORY / "shared" / "webgpu_bench" / "node_modules"
    if absent := next((name for name in PACKAGES if not (modules / name).is_dir()), None):
        raise UserError(
            f"the page's package {absent} is not installed; run: "
            "(cd shared/webgpu_bench && npm ci --ignore-scripts)"
        )


def _need_browser() -> None:
    require_browser()
