"""What was brought for each domain, as `doctor` tells it beside what is installed."""

from collections.abc import Iterator

from shared.base import paths
from shared.base.errors import UserError
from shared.domain.domain import domain_names, load_domain
from shared.domain.settings import Rung
from shared.setup.doctor import Finding


def weights_found() -> Iterator[Finding]:
    """What was brought for each domain's rungs; without any its chain starts at a later rung."""
    try:
        names = domain_names()
    except UserError as error:
        yield Finding("domains", "warn", str(error))
        return
    for name in names:
        title = f"{name} weights"
        try:
            rungs = [r for r in load_domain(name).chain.rung if not (r.example or r.prompt_only)]
        except UserError as error:
            yield Finding(title, "warn", str(error), f"./inv doctor --domain {name}")
            continue
        found = [rung.weights for rung in rungs if _is_brought(rung)]
        if found:
            yield Finding(title, "ok", ", ".join(found))
        else:
            first = next((r for r in rungs if not r.weights.startswith("hf:")), None)
            what = "adapter" if first and first.adapter else "merged model"
            mend = f"copy the {what} to {first.adapter or first.source}" if first else ""
            yield Finding(title, "warn", "none: falls back", mend)


def _is_brought(rung: Rung) -> bool:
    """Whether something lies in the rung's places, or it names the Hub; not whether it is any good."""
    wanted = [rung.adapter or rung.source]
    if rung.adapter:
        wanted += [rung.source] if not rung.source.startswith("pypi:") else []
    return all(
        place.startswith("hf:") or any((paths.root() / place).glob("*.safetensors"))
        for place in wanted
    )
