"""Take all domains below DOCINTEL_ROOT to a stage, like `release-all`: UNTIL JOBS [SCHEDULER] [BYTES].

Every way passes through every stage on the way there, as a release does: the work is the same.
Prints the seconds it took, imports included, and whether every domain got there.
"""

from __future__ import annotations

import json
import sys
import time
from unittest.mock import patch

STARTED = time.monotonic()


def main(until: str, jobs: str, scheduler: str = "", memory: str = "") -> None:
    from shared.domain.domain import domain_names
    from shared.pipeline.all_domains import release_all
    from shared.pipeline.one_domain import run_until
    from shared.pipeline.stages import Options

    options = Options(rung="smollm3", records="1", until=until, on_the_way=until != "gates")  # type: ignore[arg-type]
    budget = int(memory) if memory else None
    if int(jobs) > 1 or scheduler:
        from shared.pipeline.all_domains import run_units

        results = run_units(domain_names(), options, int(jobs), budget, scheduler or None)
    elif until == "gates":
        with patch("shared.pipeline.one_domain.need_inputs"):  # there is no browser, on purpose
            results = release_all(options)
    else:
        results = [run_until(name, options) for name in domain_names()]
    errors = [result.error for result in results if not result.ok]
    print(json.dumps({"seconds": time.monotonic() - STARTED, "errors": errors}))


if __name__ == "__main__":
    main(*sys.argv[1:])
