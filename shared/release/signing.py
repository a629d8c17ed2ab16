"""Sign a release folder, and check who signed it, with OpenSSF's model-signing (a Sigstore bundle).

    openssl ecparam -name prime256v1 -genkey -noout -out ~/docintel.pem     # keep it, tell nobody
    openssl ec -in ~/docintel.pem -pubout -out publisher.pem                # give it to everybody
    export DOCINTEL_SIGNING_KEY=~/docintel.pem

`model.sig` covers every file of the folder but itself, release.json included. An unsigned release
is allowed, and said. The key is read by model-signing alone: neither it nor its password is logged.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import UserError
from shared.base.hashing import NotDone, refuse_work
from shared.base.progress import say
from shared.release.signature import CLIENT_FILES, SIGNATURE_FILE, read_signature

KEY_VARIABLE = "DOCINTEL_SIGNING_KEY"
PASSWORD_VARIABLE = "DOCINTEL_SIGNING_PASSWORD"


def signing_key(configured: str | None) -> Path | None:
    """The private key's path: DOCINTEL_SIGNING_KEY, else `[publish] signing_key`; None is unsigned."""
    named = os.environ.get(KEY_VARIABLE) or configured
    return (paths.root() / Path(named).expanduser()) if named else None


def sign_folder(folder: Path, configured: str | None = None) -> bool:
    """Write model.sig into the folder, if there is a key; whether the folder is signed by it now.

    A signature by the same key over the same files stays as it is: each signing gives other bytes,
    and a release that did not change must not look as if it had. UserError for a bad key.
    """
    key = signing_key(configured)
    if key is None:
        return False
    with _spoken(f"signing key {paths.shown(key)}"):
        public = _public_pem(key)
        if _is_signed(folder, public):
            return True
        refuse_work(f"signature of {paths.shown(folder)}")
        partial = folder.with_name(f".{folder.name}.{SIGNATURE_FILE}.{os.getpid()}")
        try:
            _signer(key).set_hashing_config(_hashing()).sign(folder, partial)
            partial.replace(folder / SIGNATURE_FILE)
        finally:
            partial.unlink(missing_ok=True)
    say(f"      signed, public key {hashlib.sha256(public).hexdigest()[:16]}…")
    return True


def check_signature(folder: Path, public_key: Path) -> None:
    """UserError unless model.sig is that key's signature over exactly the files of the folder."""
    where = paths.shown(folder / SIGNATURE_FILE)
    with _spoken(where):
        from model_signing import verifying

        signed_by(folder)
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        try:
            config.set_hashing_config(_hashing()).verify(folder, folder / SIGNATURE_FILE)
        except ValueError as error:
            raise UserError(f"{where}: {_difference(str(error))}") from None


def signed_by(folder: Path) -> str | None:
    """What model.sig says of its key: the SHA-256 of the public key's PEM; None where there is none.

    A claim, not a check. UserError where the file is no signature.
    """
    found = read_signature(folder)
    return None if found is None else found.by or "a Sigstore certificate"


def need_signed(folder: Path, configured: str | None = None) -> None:
    """UserError where a signature would go out that is not over these files, or not by our key."""
    where = paths.shown(folder / SIGNATURE_FILE)
    found, key = read_signature(folder), signing_key(configured)
    again = "run `./inv release` again, which signs"
    if found is not None and not found.is_over(folder):
        raise UserError(f"{where}: is not over the files that lie there; {again}")
    if key is None:
        return
    if found is None:
        raise UserError(f"{where}: missing, though there is a signing key; {again}")
    with _spoken(f"signing key {paths.shown(key)}"):
        ours = found.is_of(_public_pem(key))
    if not ours:
        raise UserError(f"{where}: was made with another key than {paths.shown(key)}; {again}")


def _is_signed(folder: Path, public: bytes) -> bool:
    """Whether model.sig is of this key and over these files: checked, not taken from its word."""
    try:
        found = read_signature(folder)
    except UserError:
        return False
    return found is not None and found.is_of(public) and found.is_over(folder)


def _public_pem(key: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    password = os.environ.get(PASSWORD_VARIABLE)
    private = load_pem_private_key(key.read_bytes(), password.encode() if password else None)
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _signer(key: Path) -> Any:
    from model_signing import signing

    password = os.environ.get(PASSWORD_VARIABLE)
    return signing.Config().use_elliptic_key_signer(
        private_key=key,
        password=password.encode() if password else None,  # type: ignore[arg-type]
    )


def _hashing() -> Any:
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE, CLIENT_FILES])


@contextmanager
def _spoken(where: str) -> Iterator[None]:
    """Whatever the libraries raise, in one sentence that shows no key."""
    from cryptography.exceptions import InvalidSignature

    try:
        yield
    except (UserError, NotDone):
        raise
    except ModuleNotFoundError as error:
        raise UserError(
            f"model-signing cannot be loaded ({error.name} is missing); run `./inv doctor`"
        ) from None
    except InvalidSignature:
        raise UserError(f"{where}: is not a signature by this public key") from None
    except OSError as error:
        named = f": {error.filename}" if error.filename else ""
        raise UserError(
            f"{where}: cannot be read: {error.strerror or 'no access'}{named}"
        ) from None
    except Exception as error:
        raise UserError(f"{where}: {_key_trouble(error)}") from None


def _key_trouble(error: Exception) -> str:
    """The kind of trouble, never the library's own text: it may quote what it read."""
    if isinstance(error, TypeError):
        return f"is encrypted, or is not and a password is given; see {PASSWORD_VARIABLE}"
    if "curve" in str(error) or isinstance(error, AttributeError):
        return "is no elliptic-curve key of a known curve; make one with openssl, prime256v1"
    return "cannot be used: no such PEM key, a wrong password, or a damaged signature"


def _difference(text: str) -> str:
    """model-signing's own words, as far as a person needs them."""
    if text.startswith("Key mismatch"):
        return "was made with another key than this public key"
    if "Extra files" in text:
        return f"the folder has files that were not signed:{text.split(':')[-1].rstrip(']')}"
    if "Missing files" in text:
        return f"signed files are missing:{text.split(':')[-1].rstrip(']')}"
    if "Hash mismatch for" in text:
        return (
            f"{text.split('Hash mismatch for ')[1].split(':')[0]} is not the file that was signed"
        )
    return "is no valid signature of this folder"
