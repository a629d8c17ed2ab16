"""`release-all`: every domain, in turn or by several workers."""

from dataclasses import replace

import psutil

from shared.base.errors import UserError
from shared.base.formatting import number
from shared.base.hashing import NotDone, only_what_is_done
from shared.base.progress import lines_to, say
from shared.domain.domain import domain_names, load_domain
from shared.pipeline.one_domain import Result, record_failure, release_domain, run_until
from shared.pipeline.publication import PublishOptions, publish_release
from shared.pipeline.schedule.units import units_of
from shared.pipeline.stages import Options


def release_all(
    options: Options,
    *,
    publish: PublishOptions | None = None,
    jobs: int = 1,
    memory: int | None = None,
    scheduler: str | None = None,
) -> list[Result]:
    """Every domain; one that fails does not stop the others.

    In turn, in this process; with `jobs` in as many worker processes, which together claim at most
    `memory` bytes (default: what is available); with `scheduler` on a Dask cluster. Publishing is
    done here, one after the other: the token stays on this machine.
    """
    if jobs == 1 and not scheduler:
        return [_published(_released(name, options), publish) for name in domain_names()]
    results = run_units(domain_names(), options, jobs, memory, scheduler)
    return [_published(result, publish) for result in results]


def _released(name: str, options: Options) -> Result:
    """One domain of many: whatever goes wrong becomes its error, so that the others go on."""
    try:
        return release_domain(name, options)
    except Exception as error:
        return record_failure(name, "release", error)


def _published(result: Result, options: PublishOptions | None) -> Result:
    """The same, published if that is asked for and there is something to publish."""
    if not result.ok or options is None:
        return result
    try:
        done = publish_release(load_domain(result.domain), options)
    except UserError as error:
        return replace(result, error=str(error))
    except Exception as error:
        return replace(result, error=record_failure(result.domain, "publish", error).error)
    return replace(result, publication=done)


def run_units(
    names: list[str],
    options: Options,
    jobs: int,
    memory: int | None = None,
    scheduler: str | None = None,
) -> list[Result]:
    """One result a domain, in the order of `names`. UserError where jobs or the cluster are no good.

    A domain in which nothing changed never leaves this process: a worker would take longer to start.
    """
    if jobs < 1:
        raise UserError(f"--jobs: at least 1 is wanted, not {jobs}")
    results = {} if options.force else _unchanged(names, options)
    done: list[Result] = []
    chains = [units_of(name, options) for name in names if name not in results]
    if chains and scheduler:
        from shared.pipeline.schedule.cluster import run_on_cluster

        done = run_on_cluster(chains, scheduler)
    elif chains:
        from shared.pipeline.schedule.cluster import run_local

        budget = memory or psutil.virtual_memory().available
        say(f"{len(chains)} domains, up to {jobs} at once, in {number(budget, 'B')} of memory")
        done = run_local(chains, jobs, budget)
    results |= {result.domain: result for result in done}
    return [results[name] for name in names]


def _unchanged(names: list[str], options: Options) -> dict[str, Result]:
    """The results of those domains in which there is nothing to do."""
    found = {}
    for name in names:
        lines: list[str] = []
        try:
            with only_what_is_done(), lines_to(lines.append):
                if options.until == "gates":
                    result = release_domain(name, options)
                else:
                    result = run_until(name, replace(options, on_the_way=True))
        except NotDone:
            continue
        except Exception:  # a worker will meet it again, and keep its traceback
            continue
        found[name] = result
        for line in lines:
            say(line)
    return found
