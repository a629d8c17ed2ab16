"""What model.sig says, read without loading model-signing: by whom it claims to be, and over what.

It is a Sigstore bundle around a DSSE envelope, whose payload is an in-toto statement: one SHA-256 for
each signed file (github.com/secure-systems-lab/dsse, protocol.md; in-toto Statement v1).
"""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared.base import paths
from shared.base.errors import UserError
from shared.base.hashing import files_below, sha256_file

SIGNATURE_FILE = "model.sig"
CLIENT_FILES = ".cache/huggingface"
"""What `hf download --local-dir` leaves beside the files; .gitattributes is the Hub's own."""
NOT_SIGNED = (SIGNATURE_FILE, ".gitattributes", f"{CLIENT_FILES}/", ".git/", ".github/")
LARGEST_SIGNATURE = 4_000_000


@dataclass(frozen=True)
class SignatureFile:
    """`by`: SHA-256 of the public key's PEM, a claim; `files`: name → SHA-256, also a claim."""

    by: str
    payload_type: str
    payload: bytes
    signature: bytes
    files: dict[str, str]

    def is_of(self, public: bytes) -> bool:
        """Whether this PEM key made the signature over that statement. ECDSA, as the curve asks."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        key = load_pem_public_key(public)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        size = key.curve.key_size
        digest = hashes.SHA256() if size <= 256 else hashes.SHA384() if size <= 384 else None
        kind, body = self.payload_type.encode(), self.payload
        signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)
        try:
            key.verify(self.signature, signed, ec.ECDSA(digest or hashes.SHA512()))
        except InvalidSignature:
            return False
        return self.by == hashlib.sha256(public).hexdigest()

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
    try:
        if path.stat().st_size > LARGEST_SIGNATURE:
            raise ValueError
        bundle = json.loads(path.read_bytes())
        envelope = bundle["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        resources = json.loads(payload)["predicate"]["resources"]
        return SignatureFile(
            by=str(bundle["verificationMaterial"].get("publicKey", {}).get("hint") or ""),
            payload_type=str(envelope["payloadType"]),
            payload=payload,
            signature=base64.b64decode(envelope["signatures"][0]["sig"], validate=True),
            files={str(r["name"]): str(r["digest"]) for r in resources},
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{paths.shown(path)}: is no signature of model-signing") from None
