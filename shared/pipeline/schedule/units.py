"""What `release-all` is made of: units of work that any process may run, in any order of domains.

A unit is (domain, the stage to reach). Stages are cached by key and do nothing twice, so a unit needs
no state but its name: it runs the domain's chain from the start, finds what is finished and does
the rest. A unit that was lost with its process is simply run again.

>>> [unit.until for unit in units_of("legal", Options())]
['package', 'fidelity', 'check', 'bench', 'gates']
"""

from dataclasses import dataclass, replace

from shared.base import paths
from shared.base.environment import is_offline
from shared.base.errors import UserError
from shared.domain.domain import load_domain
from shared.domain.settings import Rung
from shared.evaluate.models.device import MOST_CACHE_BYTES
from shared.olive.calibration_text import wants_calibration
from shared.pipeline.one_domain import (
    Result,
    record_failure,
    release_domain,
    run_until,
    write_attempts,
)
from shared.pipeline.stages import Options
from shared.release.model import STAGES, Stage

FIRST: Stage = "package"
"""Source, build and package go together: apart they would only read the weights' headers again."""

BROWSER: Stage = "bench"
"""From this stage on a unit claims the browser: two at a time would measure each other."""

BASE_BYTES, BROWSER_BYTES = 1_400_000_000, 1_200_000_000
SHARE: dict[str, float] = {"package": 0.25, "check": 2.2, "fidelity": 2.2}
CALIBRATED_SHARE = 0.6
OTHER_SHARE = 1.2
"""Memory a stage may take: BASE_BYTES for Python and its libraries, a share of the 16-bit weights, and
BROWSER_BYTES where there is one. No less than was measured on a 6.15 GB model and on the example
(benchmarks/records; a test holds them together); with the widest table (Qwen2.5) up to 4.3 GB. `check`
and `fidelity` hold a small 16-bit parent in float32, so 2.2, and `check` a batch's keys and values
besides. The rest is a browser with the 4-bit model twice and the CPU beside it."""

UNKNOWN_BYTES = {"hf": 7_000_000_000, "pypi": 300_000_000}
"""16-bit bytes of a source that is not on this machine yet."""


@dataclass(frozen=True)
class Unit:
    """Take `domain` to the stage `options.until`; `release` makes the release as well.

    `memory` in bytes and `browser` are what it claims while it runs.
    """

    domain: str
    options: Options
    release: bool
    memory: int
    browser: bool

    @property
    def until(self) -> Stage:
        return self.options.until

    @property
    def name(self) -> str:
        return f"{self.domain}·{self.until}"


def units_of(domain: str, options: Options) -> list[Unit]:
    """The units that take one domain to `options.until`, in order; each relies on the one before.

    With `force` it is a single one: every run would do everything again.
    """
    last = STAGES.index(options.until)
    cuts = STAGES[min(STAGES.index(FIRST), last) : last + 1]
    size, calibrated = _weights(domain, options.rung)
    return [
        Unit(
            domain=domain,
            options=replace(
                options,
                until=stage,
                on_the_way=stage != "gates",
                take_up=stage != "gates" or options.force,
            ),
            release=stage == "gates",
            memory=memory_of(stage, size, whole=options.force, calibrated=calibrated),
            browser=STAGES.index(stage) >= STAGES.index(BROWSER),
        )
        for stage in (cuts[-1:] if options.force else cuts)
    ]


def memory_of(stage: str, size: int, *, whole: bool = False, calibrated: bool = False) -> int:
    """Bytes that reaching `stage` may take for weights of `size` bytes; `whole`: all before it too."""
    shares = SHARE | (
        {"build": CALIBRATED_SHARE, "package": CALIBRATED_SHARE} if calibrated else {}
    )
    taken = [*shares.values(), OTHER_SHARE] if whole else [shares.get(stage, OTHER_SHARE)]
    cache = MOST_CACHE_BYTES if whole or stage == "check" else 0
    browser = BROWSER_BYTES if whole or stage in STAGES[STAGES.index(BROWSER) :] else 0
    return int(BASE_BYTES + max(taken) * size + cache + browser)


def _weights(name: str, rung: str | None) -> tuple[int, bool]:
    """16-bit bytes of the first rung that can be had, and whether the build calibrates; 0 and no where
    the domain cannot even be read: its unit will say what is wrong."""
    try:
        domain = load_domain(name)
        calibrated = wants_calibration(domain.olive)
    except UserError:
        return 0, False
    rungs = [r for r in domain.chain.rung if not rung or r.name == rung]
    return next(filter(None, map(_source_bytes, rungs)), 0), calibrated


def _source_bytes(rung: Rung) -> int:
    if rung.adapter and not (
        rung.adapter.startswith("hf:") or (paths.root() / rung.adapter).is_dir()
    ):
        return 0
    kind = rung.source.split(":")[0]
    folder = paths.root() / rung.source
    if kind == "hf":
        from shared.hub.download import cached_configuration

        config = cached_configuration(rung.source)
        cached = sum(p.stat().st_size for p in config.parent.glob("*.safetensors")) if config else 0
        return cached or (0 if is_offline() else UNKNOWN_BYTES[kind])
    if kind == "pypi":
        return UNKNOWN_BYTES[kind]
    return sum(p.stat().st_size for p in folder.glob("*.safetensors")) if folder.is_dir() else 0


def run_unit(unit: Unit) -> Result:
    """Run it; whatever goes wrong becomes the result's error, so that other domains go on."""
    try:
        if unit.release:
            return release_domain(unit.domain, unit.options)
        result = run_until(unit.domain, unit.options)
        if result.chain and not result.ok:
            write_attempts(unit.domain, result.chain.attempts)
        return result
    except Exception as error:
        return record_failure(unit.domain, unit.until, error)
