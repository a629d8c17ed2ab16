"""What a disk, a memory or a permission of this machine ends is no failure of a rung."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from invoke import Context, Exit

from shared.base.errors import NoWeights, RungFailed, UserError, of_this_machine
from shared.cli import options
from shared.domain.domain import load_domain
from shared.evaluate import systems
from shared.evaluate.models.chat import Answer
from shared.olive.workflow import in_olive
from shared.pipeline.schedule import units
from shared.source import place


@pytest.mark.parametrize(
    ("error", "is_ours"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (OSError("models/x does not appear to have a file named config.json"), False),
        (ValueError("rope_scaling"), False),
    ],
)
def test_it_is_told_from_what_a_model_is_to_blame_for(error: Exception, is_ours: bool) -> None:
    assert of_this_machine(error) is is_ours


@pytest.mark.parametrize(("cause", "raised"), [(errno.ENOSPC, OSError), (errno.ENOENT, NoWeights)])
def test_a_full_disk_while_weights_come_down_is_no_want_of_weights(
    monkeypatch: pytest.MonkeyPatch, cause: int, raised: type[Exception]
) -> None:
    def fetched(*_: object) -> Path:
        try:
            raise OSError(cause, "as it is")
        except OSError:
            raise UserError("acme/base: cannot be fetched") from None

    monkeypatch.setattr(place, "_locate", fetched)
    with pytest.raises(raised):
        place.weights_place(load_domain("legal").rung("base-with-prompt"), "hf:acme/base@0")


def test_cached_weights_claim_their_memory_where_the_hub_is_not_to_be_asked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung = load_domain("legal").rung("base-with-prompt")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("shared.hub.download.cached_configuration", lambda spec: None)
    assert units._source_bytes(rung) == 0
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").write_bytes(b"x" * 1000)
    config = tmp_path / "snapshot" / "config.json"
    monkeypatch.setattr("shared.hub.download.cached_configuration", lambda spec: config)
    assert units._source_bytes(rung) == 1000


def test_a_command_says_so_in_one_sentence_and_is_no_defect_of_ours() -> None:
    def body(_: Context) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2 GiB")

    with pytest.raises(
        Exit, match="error: this machine has too little memory or disk: CUDA out of"
    ):
        options._ended(body, Context(), {}, total=False)


def test_a_runtime_that_wants_memory_is_no_model_that_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_room(_: Path) -> None:
        raise RuntimeError("bad allocation")

    monkeypatch.setattr("shared.evaluate.models.genai.GenaiModel", no_room)
    with pytest.raises(RuntimeError, match="bad allocation"):
        systems._load(tmp_path, "genai", "cpu")


def test_an_answer_that_wants_memory_is_no_refusal_of_the_schema() -> None:
    def answers() -> Iterator[tuple[int, Answer]]:
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    with pytest.raises(torch.OutOfMemoryError):
        list(systems._refusing(answers(), "root ::= any"))


def test_a_full_disk_within_a_build_ends_the_domain_and_no_rung() -> None:
    with pytest.raises(UserError, match=r"the build ended: .*No space left") as raised, in_olive():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not isinstance(raised.value, RungFailed)
