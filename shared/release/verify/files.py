"""The files: all that were measured, unchanged, no others, none unsafe; and the signature."""

from pathlib import Path

from shared.base import paths
from shared.base.errors import UserError
from shared.base.formatting import number
from shared.base.hashing import files_below, sha256_now
from shared.base.parsing import read_json, read_text
from shared.domain.grammar.schema import grammar
from shared.release.model import GRAMMAR_FILE, RELEASE_FILE, FamilyRelease, Listing
from shared.release.signature import CLIENT_FILES, SIGNATURE_FILE, read_signature
from shared.release.signing import check_signature
from shared.release.verify.line import NotChecked, need
from shared.safety.content import refuse_unsafe
from shared.safety.kinds import need_known
from shared.safety.secrets import refuse_secrets

Listed = Listing | FamilyRelease


def present(folder: Path) -> list[str]:
    """Every file in the folder that someone might load: all but what the Hub and its client leave."""
    return [name for name in files_below(folder) if not _is_the_hubs(name)]


def _is_the_hubs(name: str) -> bool:
    return name == ".gitattributes" or name.startswith(f"{CLIENT_FILES}/")


def safe(folder: Path) -> str:
    """Nothing leads out of the folder, can run code or unpacks; nothing in it looks like a secret."""
    names = present(folder)
    refuse_unsafe(folder, names)
    linked = next((p for p in folder.rglob("*") if p.is_symlink()), None)
    if linked:
        raise UserError(f"{paths.shown(linked)}: a link; a release holds plain files")
    refuse_secrets(folder, names)
    return "no link, pickle, archive or secret among them"


def known(folder: Path) -> str:
    """Each is of a kind that a release is made of."""
    names = present(folder)
    need_known(folder, names)
    return "text, safetensors, graphs, the data that a graph names, and images alone"


def complete(folder: Path, release: Listed, manifest: str = RELEASE_FILE) -> str:
    """The names are those of release.json, or of the `manifest` that there is in its place."""
    found, listed = set(present(folder)), set(release.files)
    missing = sorted(listed - found)
    need(not missing, f"{_first(folder, missing)} missing")
    extra = sorted(found - listed - {manifest, SIGNATURE_FILE})
    need(not extra, f"{_first(folder, extra)} not in {manifest}")
    return f"{len(listed)} files, none missing, none more"


def unchanged(folder: Path, release: Listed) -> str:
    """Each file has the size and SHA-256 that its manifest records."""
    wrong, here = [], set(present(folder))
    for name, record in sorted(release.files.items()):
        path = folder / name
        if name not in here:  # `complete` says so; a name can lead anywhere, and is not followed
            continue
        if (path.stat().st_size, sha256_now(path)) != (record.bytes, record.sha256):
            wrong.append(name)
    need(not wrong, f"{_first(folder, wrong)} not the file that was measured")
    size = sum(record.bytes for record in release.files.values())
    return f"SHA-256 of all {len(release.files)}, {number(size, 'B')}"


def tokenizer_is_the_sources(release: Listing) -> str:
    """tokenizer.json is copied as it is, so its hash must be the source's."""
    ours, theirs = release.files.get("tokenizer.json"), release.source_files.get("tokenizer.json")
    need(
        ours is not None and ours.sha256 == theirs,
        "tokenizer.json is not the one of the weights that were measured",
    )
    return "tokenizer.json is the source's own"


def grammar_is_the_schemas(folder: Path) -> str:
    """grammar.ebnf holds answers to schema.json, and to nothing else."""
    schema = read_json(folder / "schema.json")
    need(isinstance(schema, dict), f"{paths.shown(folder / 'schema.json')}: not a JSON object")
    same = read_text(folder / GRAMMAR_FILE) == grammar(schema)
    need(same, f"{paths.shown(folder / GRAMMAR_FILE)}: not the grammar of schema.json")
    return f"{GRAMMAR_FILE} is the grammar of schema.json"


def signature(folder: Path, public_key: Path | None) -> str:
    """By whom it is, where it holds; NotChecked where there is nothing to hold it against.

    Also without a key, a signature that is over other files than these is none of this folder's.
    """
    where, found = paths.shown(folder / SIGNATURE_FILE), read_signature(folder)
    if found is None:
        need(public_key is None, f"{where}: missing; the release is unsigned")
        raise NotChecked("unsigned: that the files belong together is checked, not who made them")
    if public_key is None:
        need(found.is_over(folder, sha256_now), f"{where}: is not over the files that lie there")
        by = f"{found.by[:16]}…" if found.by else "a Sigstore certificate"
        raise NotChecked(f"not checked: signed by {by}; give --public-key to check it")
    check_signature(folder, public_key)
    return f"by {paths.shown(public_key)}, over every file"


def _first(folder: Path, names: list[str]) -> str:
    """`folder/name: ` and, where there are more, how many."""
    if not names:
        return ""
    more = f"and {len(names) - 1} more: " if names[1:] else ""
    return f"{paths.shown(folder / names[0])}: {more}"
