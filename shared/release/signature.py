"""What model.sig says, read without loading model-signing: by whom it claims to be, and over what.

It is a Sigstore bundle around a DSSE envelope, whose payload is an in-toto statement: one SHA-256 for
each signed file (github.com/secure-systems-lab/dsse, protocol.md; in-toto Statement v1).
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.base import paths
from shared.base.errors import UserError
from shared.base.hashing import files_below, sha256_file

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope

SIGNATURE_FILE = "model.sig"
CLIENT_FILES = ".cache/huggingface"
"""What `hf download --local-dir` leaves beside the files; .gitattributes is the Hub's own."""
NOT_SIGNED = (SIGNATURE_FILE, ".gitattributes", f"{CLIENT_FILES}/", ".git/", ".github/")
LARGEST_SIGNATURE = 4_000_000


@dataclass(frozen=True)
class SignatureFile:
    """`by`: SHA-256 of the public key's PEM, a claim; `files`: name → SHA-256, also a claim."""

    by: str
    envelope: "Envelope"
    files: dict[str, str]

    def is_of(self, public: bytes) -> bool:
        """Whether this PEM key made the signature over that statement."""
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from securesystemslib.exceptions import VerificationError
        from securesystemslib.signer import SSlibKey

        try:
            by = hashlib.sha256(public).hexdigest()
            self.envelope.verify([SSlibKey.from_crypto(load_pem_public_key(public), by)], 1)
        except (ValueError, VerificationError):  # a key of another kind, or another key's
            return False
        return True

    def is_over(self, folder: Path, digest: Callable[[Path], str] = sha256_file) -> bool:
        """Whether the statement lists the folder's files; by default hashes come from the memory."""
        names = [n for n in files_below(folder) if not is_not_signed(n)]
        return self.files == {name: digest(folder / name) for name in names}


def is_not_signed(name: str) -> bool:
    """Whether a file's name is of those that no signature covers."""
    return any(name == n or (n.endswith("/") and name.startswith(n)) for n in NOT_SIGNED)


def read_signature(folder: Path) -> SignatureFile | None:
    """The folder's model.sig, None where there is none; UserError where it is no signature."""
    path = folder / SIGNATURE_FILE
    if not path.exists():
        return None
    from securesystemslib.dsse import Envelope

    try:
        if path.stat().st_size > LARGEST_SIGNATURE:
            raise ValueError
        bundle = json.loads(path.read_bytes())
        by = str(bundle["verificationMaterial"].get("publicKey", {}).get("hint") or "")
        signed = bundle["dsseEnvelope"]
        (signature,) = signed["signatures"]
        known = {
            "payloadType": str(signed["payloadType"]),
            "signatures": [signature | {"keyid": by}],
        }
        envelope = Envelope.from_dict(signed | known)
        resources = json.loads(envelope.payload)["predicate"]["resources"]
        files = {str(r["name"]): str(r["digest"]) for r in resources}
        return SignatureFile(by, envelope, files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{paths.shown(path)}: is no signature of model-signing") from None
