"""The commands, taken in from shared/cli/. `./inv --list` shows them, `./inv --help release` one."""

from invoke import Collection

from shared.base.cpu import set_variables
from shared.cli.browser import bench, bench_all, preflight, serve, site
from shared.cli.evaluate import check, compare, fidelity, show
from shared.cli.family import release_family
from shared.cli.program import run
from shared.cli.project import (
    bench_build,
    bench_scaling,
    clean,
    doctor,
    domains,
    lint,
    readme,
    status,
    test,
)
from shared.cli.release import (
    build,
    card,
    publish,
    publish_collection,
    publish_space,
    release,
    release_all,
    verify,
)
from shared.cli.tune import tune

set_variables()
namespace = Collection(
    *(bench, bench_all, build, card, check, clean, compare, doctor, domains, fidelity, preflight),
    *(
        publish,
        publish_collection,
        publish_space,
        release,
        release_all,
        release_family,
        serve,
        show,
        site,
        status,
        test,
        tune,
        verify,
    ),
    dev=Collection(bench_build, bench_scaling, lint, readme),
)
run(__name__, namespace)
