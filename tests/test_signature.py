"""A signature: by whom, over which files, and what a bad key or a forged claim leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.base.errors import UserError
from shared.release.signing import check_signature, sign_folder, signed_by
from tests.test_verify import Change, change_a_number_and_its_hash, failing, flip, make_key


class TestASignature:
    @pytest.fixture
    def keys(self, tmp_path: Path) -> tuple[Path, Path]:
        return make_key(tmp_path, "ours")

    def test_by_the_publishers_key_holds(self, release: Path, keys: tuple[Path, Path]) -> None:
        assert sign_folder(release, str(keys[0]))
        check_signature(release, keys[1])
        assert failing(release, public_key=keys[1]) == {}

    def test_by_another_key_fails(
        self, release: Path, keys: tuple[Path, Path], tmp_path: Path
    ) -> None:
        sign_folder(release, str(make_key(tmp_path, "theirs")[0]))
        (only,) = failing(release, public_key=keys[1]).items()
        assert only[0] == "signature" and "was made with another key" in only[1]

    def test_whose_claim_of_a_key_is_forged_fails(
        self, release: Path, keys: tuple[Path, Path], tmp_path: Path
    ) -> None:
        sign_folder(release, str(keys[0]))
        hint = signed_by(release)
        (release / "model.sig").unlink()
        sign_folder(release, str(make_key(tmp_path, "theirs")[0]))
        path = release / "model.sig"
        path.write_text(path.read_text().replace(str(signed_by(release)), str(hint)))
        assert "not a signature by this" in failing(release, public_key=keys[1])["signature"]

    @pytest.mark.parametrize("change", [flip, change_a_number_and_its_hash])
    def test_over_other_files_fails(
        self, release: Path, keys: tuple[Path, Path], change: Change
    ) -> None:
        sign_folder(release, str(keys[0]))
        change(release)
        found = failing(release, public_key=keys[1])["signature"]
        assert "is not the file that was signed" in found

    def test_that_is_missing_fails_where_a_key_is_given(
        self, release: Path, keys: tuple[Path, Path]
    ) -> None:
        assert "unsigned" in failing(release, public_key=keys[1])["signature"]

    def test_that_is_none_fails(self, release: Path) -> None:
        (release / "model.sig").write_text("{}")
        assert "is no signature of model-signing" in failing(release)["signature"]

    def test_is_not_made_again_over_the_same_files(
        self, release: Path, keys: tuple[Path, Path]
    ) -> None:
        sign_folder(release, str(keys[0]))
        before = (release / "model.sig").read_bytes()
        sign_folder(release, str(keys[0]))
        assert (release / "model.sig").read_bytes() == before
        assert sorted(p.name for p in release.parent.iterdir()) == ["webgpu"], "left behind"

    def test_is_made_again_over_others(self, release: Path, keys: tuple[Path, Path]) -> None:
        sign_folder(release, str(keys[0]))
        flip(release)
        sign_folder(release, str(keys[0]))
        check_signature(release, keys[1])

    def test_survives_what_the_hubs_client_leaves_in_a_folder(
        self, release: Path, keys: tuple[Path, Path]
    ) -> None:
        sign_folder(release, str(keys[0]))
        (release / ".gitattributes").write_text("*.onnx filter=lfs\n")
        (release / ".cache" / "huggingface").mkdir(parents=True)
        (release / ".cache" / "huggingface" / "x.metadata").write_text("1")
        assert failing(release, public_key=keys[1]) == {}

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "cannot be read: No such file or directory"),
            ("-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n", "is no"),
            ("not a key: s3cr3t", "cannot be used: no such PEM key"),
        ],
    )
    def test_with_a_bad_key_is_a_sentence_that_does_not_quote_it(
        self, release: Path, tmp_path: Path, content: str | None, words: str
    ) -> None:
        key = tmp_path / "bad.pem"
        if content:
            key.write_text(content)
        with pytest.raises(UserError, match=words) as raised:
            sign_folder(release, str(key))
        assert "c2VjcmV0" not in str(raised.value) and "s3cr3t" not in str(raised.value)
        assert not (release / "model.sig").exists()

    def test_with_a_key_of_an_unknown_curve_is_a_sentence(
        self, release: Path, tmp_path: Path
    ) -> None:
        key = make_key(tmp_path, "odd", "secp256k1")[0]
        with pytest.raises(UserError, match="is no elliptic-curve key of a known curve"):
            sign_folder(release, str(key))

    def test_key_is_taken_from_the_environment(
        self, release: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCINTEL_SIGNING_KEY", str(keys[0]))
        assert sign_folder(release)
        check_signature(release, keys[1])
