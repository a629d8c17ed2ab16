"""The commands of a release, from release and publish to verify. tasks.py takes them in."""

from pathlib import Path
from typing import Any

from invoke import Context

from shared.base.errors import UserError, printable
from shared.cli.options import (
    BUDGET,
    CALIBRATION,
    DEVICE,
    DOMAIN,
    RECORDS,
    RUNGS,
    SYSTEMS,
    chain_options,
    chosen_domains,
    command,
    finish,
    several,
)

KEEP = {"keep_onnx": "keep the full-precision ONNX of the exporter optimum in models/<domain>/onnx"}
WITHOUT_GPU = {"without_gpu": "publish though speed on a GPU was not measured; the card says so"}
PUBLISH = {"publish": "upload to the Hub afterwards"} | WITHOUT_GPU
WHERE = {
    "org": "the Hub organisation, in place of [publish]'s and DOCINTEL_HUB_ORG",
    "private": "make a new repository private; refused where a public one is there",
    "overwrite": "replace what others changed on main, or a release of another domain or rung",
}
DRY = {"dry_run": "show the rungs that have weights and what each stage would take; do nothing"}
REHASH = {"rehash": "read all weights again instead of trusting size, time and inode"}
MANY = {
    "jobs": "how many domains are worked on at once",
    "memory_budget": "what they may take together, like 16GB; default: what is available",
    "scheduler": "tcp://… of a Dask cluster that runs them instead",
}


def _publishing(
    publish: bool,
    org: str = "",
    private: bool = False,
    overwrite: bool = False,
    without_gpu: bool = False,
) -> Any:
    from shared.pipeline.publication import PublishOptions

    return PublishOptions(org or None, private, overwrite, without_gpu) if publish else None


def _need_together(name: str, given: bool, **others: object) -> None:
    """UserError where one of the others is given without the option `name`, and would do nothing."""
    for other, value in others.items():
        if value and not given:
            option = f"--{other.replace('_', '-')}"
            raise UserError(f"{option}: does nothing without --{name}")


def _rehash(wanted: bool) -> None:
    from shared.base.hashing import forget_hashes

    if wanted:
        forget_hashes()


def _show_dry_run(domains: list[str], options: Any) -> None:
    """Exit code 1 where a release would fail at once: as it would itself."""
    from shared.pipeline.dry_run import foretold
    from shared.pipeline.inputs import mistakes

    wrong = []
    for name in domains:
        wrong += mistakes(
            name, rung=options.rung, force=options.force, calibration=options.calibration
        )
        try:
            text, may_be = foretold(name, options)
        except UserError as error:
            wrong.append(str(error))
            continue
        print(text)
        wrong += [] if may_be else [f"{name}: no rung can be taken"]
    if wrong:
        raise UserError("\n".join(dict.fromkeys(wrong)))


@command(
    total=False,
    help=DOMAIN
    | RUNGS
    | CALIBRATION
    | RECORDS
    | SYSTEMS
    | BUDGET
    | DEVICE
    | PUBLISH
    | KEEP
    | REHASH
    | DRY,
)
def release(
    c: Context,
    domain: str,
    publish: bool = False,
    without_gpu: bool = False,
    rehash: bool = False,
    dry_run: bool = False,
    **chosen: Any,
) -> None:
    """Take a domain from merged weights to models/<domain>/webgpu, measured and with its card.

    Tries the rungs of domains/<domain>/fallback.toml in order. What has not changed is not done
    again; a run that was killed goes on where it stopped.
    """
    from shared.pipeline.one_domain import release_domain

    options = chain_options("gates", **chosen)
    _need_together("publish", publish, without_gpu=without_gpu)
    if dry_run:
        _show_dry_run([domain], options)
        return
    _rehash(rehash)
    finish(release_domain(domain, options, publish=_publishing(publish, without_gpu=without_gpu)))


@command(total=False, help=RUNGS | RECORDS | SYSTEMS | PUBLISH | WHERE | MANY | REHASH | DRY)
def release_all(
    c: Context,
    publish: bool = False,
    without_gpu: bool = False,
    org: str = "",
    private: bool = False,
    overwrite: bool = False,
    jobs: int = 1,
    memory_budget: str = "",
    scheduler: str = "",
    rehash: bool = False,
    dry_run: bool = False,
    **chosen: Any,
) -> None:
    """Release every domain; one that fails does not stop the others, the exit code tells.

    With --jobs or --scheduler several at once, browser stages one at a time; same results.
    """
    from shared.base.formatting import parse_bytes
    from shared.cli.summary import overview
    from shared.domain.domain import domain_names
    from shared.pipeline.all_domains import release_all as run

    options = chain_options("gates", **chosen)
    where = {"org": org, "private": private, "overwrite": overwrite, "without_gpu": without_gpu}
    _need_together("publish", publish, **where)
    _need_together("jobs", jobs > 1, memory_budget=memory_budget)
    if scheduler and jobs > 1:
        raise UserError(
            "--jobs: with --scheduler the cluster's workers decide how many run at once"
        )
    if dry_run:
        _show_dry_run(domain_names(), options)
        return
    _rehash(rehash)
    memory = parse_bytes(memory_budget, "--memory-budget") if memory_budget else None
    wanted = _publishing(publish, org, private, overwrite, without_gpu)
    results = run(options, publish=wanted, jobs=jobs, memory=memory, scheduler=scheduler or None)
    print(overview(results))
    if not all(result.ok for result in results):
        done = "released and published" if publish else "released"
        raise UserError(f"not every domain was {done}; see the table")


@command(help=DOMAIN | RUNGS | CALIBRATION | DEVICE | KEEP)
def build(c: Context, domain: str, **chosen: Any) -> None:
    """Build and package a domain's model: 4-bit ONNX for WebGPU in Transformers.js's layout."""
    from shared.pipeline.one_domain import run_until

    finish(run_until(domain, chain_options("package", **chosen)))


@command(json=False, log=False, help=DOMAIN)
def card(c: Context, domain: str) -> None:
    """Print the model card of the present release."""
    from shared.release.model import CARD_FILE, own_release, release_folder

    own_release(domain)
    print(printable((release_folder(domain) / CARD_FILE).read_text(encoding="utf-8")))


def _show_plan(plan: Any) -> None:
    """The plan's table; UserError where it would not be done."""
    from shared.cli.summary import plan_table

    print(plan_table(plan))
    if plan.against:
        raise UserError(plan.against)


@command(
    help=DOMAIN
    | {"family": "in place of a domain: the folder in models/families"}
    | WHERE
    | WITHOUT_GPU
    | {"dry_run": "show what would be done, and write nothing"}
)
def publish(
    c: Context,
    domain: str = "",
    family: str = "",
    dry_run: bool = False,
    org: str = "",
    private: bool = False,
    overwrite: bool = False,
    without_gpu: bool = False,
) -> None:
    """Make the Hub's main equal to models/<domain>/webgpu, wholly or not at all; tag it v<N>.

    The files are staged in a pull request, read back there, and merged; until then main shows the
    old release. A run that died goes on where it stopped; what the Hub has is not sent again, the base
    that a family and its domains share neither.
    The token is found where huggingface_hub finds it: HF_TOKEN, or `hf auth login`.
    """
    from shared.domain.domain import load_domain
    from shared.pipeline.family_publication import plan_family_publication, publish_family
    from shared.pipeline.publication import plan_publication, publish_release

    if bool(domain) == bool(family):
        raise UserError("--domain or --family is wanted, one of them")
    options = _publishing(True, org, private, overwrite, without_gpu)
    if dry_run:
        plan = plan_family_publication(family, options) if family else None
        _show_plan(plan or plan_publication(load_domain(domain), options))
    elif family:
        sent = publish_family(family, options)
        print(f"{sent.url} {sent.version} at {sent.revision}")
    else:
        done = publish_release(load_domain(domain), options)
        print(f"{done.url} {done.release_version} at {done.revision}")


@command(
    help=WHERE
    | {
        "domain": "a domain, several with commas between them, or all that were published",
        "family": "a published family, hf:org/name@commit; several with commas between them",
        "dry_run": "show what would be done, and send nothing",
    }
)
def publish_space(
    c: Context,
    domain: str = "all",
    family: str = "",
    dry_run: bool = False,
    org: str = "",
    private: bool = False,
    overwrite: bool = False,
) -> None:
    """Publish the page as a static Hugging Face Space, which asks the published models.

    By the same transaction as `publish`: staged, read back, merged, tagged; an unchanged page sends
    nothing. Each model must be on the Hub already, for everybody to read: a page has no token. The
    Space is <org>/<space> of [publish] in fallback.toml.
    """
    from shared.pipeline.space import plan_space
    from shared.pipeline.space import publish_space as run

    names, families = chosen_domains(domain, []), several(family)
    options = _publishing(True, org, private, overwrite)
    if dry_run:
        _show_plan(plan_space(names, options, families=families))
        return
    done = run(names, options, families=families)
    print(f"{done.url} {done.version} at {done.revision}")


@command(help={"org": "the owner of the collection, and of the models in it"})
def publish_collection(c: Context, org: str = "") -> None:
    """Put every model that was published from here into one collection on the Hub.

    Safe to run again: what is in it stays, and each model's note names its newest version.
    """
    from shared.pipeline.publication import publish_collection as run

    url, names = run(org or None)
    print(printable("\n".join([url, *(f"  {name}" for name in names)])))


@command(
    positional=["what"],
    help={
        "what": "a release folder, or org/name[@commit or tag] on the Hub",
        "public_key": "the publisher's public key (PEM), to check who signed it",
    },
)
def verify(c: Context, what: str, public_key: str = "") -> None:
    """Verify a third party's release: hashes, figures, signature, and that it loads.

    Needs neither the merged weights nor a GPU. One line a check: ✓ holds, ✗ does not, – not checked.
    """
    from shared.release.verify.report import verify as run

    failed = 0
    for line in run(what, public_key=Path(public_key).expanduser() if public_key else None):
        print(line, flush=True)
        failed += line.ok is False
    if failed:
        raise UserError(f"{what}: {failed} check{'s' * (failed > 1)} did not hold; see ✗ above")
