"""The stage: parent and build read the same text; what was computed is not computed again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.manifest import Manifest
from shared.base.stage import StageResult
from shared.domain.domain import load_domain
from shared.evaluate import reference
from shared.evaluate.distribution import divergence, truncate
from shared.evaluate.fidelity import MEASURED, fidelity_stage
from shared.evaluate.models.chat import Chat
from shared.evaluate.models.device import Computing
from shared.evaluate.models.onnx import OnnxDecoder
from shared.evaluate.models.torch import TorchModel
from shared.evaluate.reference import passages, predictions, reference_stage
from shared.evaluate.token_windows import FEWEST, HeldOut, held_out, passages_of
from shared.pipeline.chain import run_chain
from shared.pipeline.stages import Options
from shared.source.source import source_stage
from tests.events import each, held_at
from tests.stand_ins import take_any_architecture
from tests.tiny import FEW_TOKENS, write_tiny

Edit = Callable[[str, str, str], None]
UNTIL = Options(rung="smollm3", until="fidelity")


@pytest.fixture(scope="module")
def built(few: Callable[[str], Path], new_folder: Callable[[str], Path]) -> Path:
    """A root with a tiny model, packaged once; never to be changed."""
    root = new_folder("built")
    legal = root / "domains" / "legal"
    shutil.copytree(paths.REPOSITORY / "domains" / "legal", legal)
    take_any_architecture(legal)
    toml = legal / "fallback.toml"
    toml.write_text(toml.read_text().replace("\ntokens = 256", "\ntokens = 400"))
    shutil.copytree(few("smollm3"), root / "models" / "legal" / "merged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCINTEL_ROOT", str(root))
        run_chain(load_domain("legal"), Options(rung="smollm3", until="package"))
    return root


@pytest.fixture
def world(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = Path(shutil.copytree(built, tmp_path / "world", symlinks=True))
    monkeypatch.setenv("DOCINTEL_ROOT", str(root))
    return root


def test_measures_everything_with_its_standard_error(world: Path) -> None:
    walked = run_chain(load_domain("legal"), UNTIL)
    found = walked.manifests["fidelity"].measurements
    for name in MEASURED:
        assert found[name].value is not None and found[name].standard_error is not None, name
    assert found["kl_divergence"].n == found["input_kl_divergence"].n + found["answer_agreement"].n
    assert (
        0 < float(found["kl_divergence"].value or 0) < float(found["kl_divergence_p99"].value or 0)
    )


def test_a_build_whose_logits_are_no_numbers_fails_its_rung(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a sum in half precision that overflows gives them."""
    feed = OnnxDecoder.feed
    monkeypatch.setattr(OnnxDecoder, "feed", lambda *a, **k: feed(*a, **k) * np.float32(np.nan))
    walked = run_chain(load_domain("legal"), UNTIL)
    reason = walked.attempts[0].reason
    assert re.fullmatch(r"model_q4f16.onnx: its logits are no finite numbers at \d+ tokens", reason)


def test_a_second_run_gives_the_same_numbers_from_the_same_reference(world: Path) -> None:
    def figures() -> dict[str, float]:
        manifest = run_chain(load_domain("legal"), UNTIL).manifests["fidelity"]
        return {name: float(manifest.measurements[name].value or 0) for name in MEASURED}

    first = figures()
    (made,) = (world / "build" / "reference").glob("[0-9a-f]*")
    before = (made / "manifest.json").stat().st_mtime_ns
    shutil.rmtree(world / "build" / "fidelity")
    assert figures() == first
    assert (made / "manifest.json").stat().st_mtime_ns == before


def test_an_unchanged_run_imports_no_torch(world: Path) -> None:
    run_chain(load_domain("legal"), UNTIL)
    code = (
        "import sys; from shared.pipeline.chain import run_chain; "
        "from shared.domain.domain import load_domain; "
        "from shared.pipeline.stages import Options; "
        "w = run_chain(load_domain('legal'), Options(rung='smollm3', until='fidelity')); "
        "assert w.stages['fidelity'].reused; "
        "assert not {'torch', 'olive', 'onnxruntime', 'transformers'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-1000:]


def test_another_file_of_records_is_another_text(world: Path) -> None:
    own = run_chain(load_domain("legal"), UNTIL).manifests["fidelity"]
    lines = (world / "domains" / "legal" / "eval.jsonl").read_text().splitlines()[:3]
    file = world / "theirs.jsonl"
    file.write_text("\n".join(lines))
    options = Options(rung="smollm3", until="fidelity", records_file=file)
    theirs = run_chain(load_domain("legal"), options).manifests["fidelity"]
    assert theirs.key != own.key and theirs.facts["origin"].endswith("theirs.jsonl")


def test_the_same_text_from_another_file_is_named_by_that_file(world: Path) -> None:
    """The reference is the same one, whatever the set was called when it was made."""
    run_chain(load_domain("legal"), UNTIL)
    file = world / "copy.jsonl"
    shutil.copyfile(world / "domains" / "legal" / "eval.jsonl", file)
    options = Options(rung="smollm3", until="fidelity", records_file=file)
    theirs = run_chain(load_domain("legal"), options).manifests["fidelity"]
    assert len(list((world / "build" / "reference").glob("[0-9a-f]*"))) == 1
    assert theirs.facts["origin"].endswith("copy.jsonl")
    assert "copy.jsonl" in theirs.measurements["kl_divergence"].how


def four_records() -> HeldOut:
    domain = load_domain("legal")
    return held_out(domain.prompt, domain.records[:4], "four records")


class TestTheReference:
    def test_goes_on_after_a_kill_with_the_passages_that_are_missing(
        self, world: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = source_stage(load_domain("legal").rung("smollm3"))
        read, seen = reference.read, []

        def dying(model: object, passage: object) -> object:
            if len(seen) == 2:
                raise KeyboardInterrupt
            seen.append(passage)
            return read(model, passage)  # type: ignore[arg-type]

        monkeypatch.setattr(reference, "read", dying)
        with pytest.raises(KeyboardInterrupt):
            reference_stage(source, four_records(), 10_000)
        assert not list((world / "build" / "reference").glob("[0-9a-f]*"))
        seen.clear()
        done = reference_stage(source, four_records(), 10_000)
        assert len(seen) == 2 and len(list(passages(done.folder))) == 4

    def test_of_pieces_is_the_model_on_the_whole_text(self, world: Path) -> None:
        """Chunks and the cache of the common beginning change nothing but the last bits."""
        import torch
        from transformers import AutoModelForCausalLM

        folder = world / "models" / "legal" / "merged"
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        parent = TorchModel(folder)
        for passage in passages_of(Chat(folder), four_records(), 10_000):
            with torch.inference_mode():
                whole = model(torch.from_numpy(passage.ids)[None]).logits[0].numpy()
            found = np.concatenate([logits for logits, _ in predictions(parent, passage)])
            assert np.allclose(found, whole[passage.first - 1 : -1], atol=1e-3)

    def test_scores_each_record_from_where_it_differs_from_the_others(self, world: Path) -> None:
        chat = Chat(world / "models" / "legal" / "merged")
        text = four_records()
        found = passages_of(chat, text, 10_000)
        for passage, (question, answer) in zip(found, text.pairs, strict=True):
            scored = chat.tokenizer.decode(passage.ids[passage.first :])
            assert question[20:] in scored and answer in scored
            assert text.system[:40] not in scored
            assert chat.tokenizer.decode(passage.ids[passage.answer :]).startswith(answer)

    def test_ends_with_the_record_that_has_the_tokens_asked_for(self, world: Path) -> None:
        chat, domain = Chat(world / "models" / "legal" / "merged"), load_domain("legal")
        text = held_out(domain.prompt, domain.records, "all")
        found = passages_of(chat, text, 1000)
        lengths = [len(p.ids) - p.first for p in found]
        assert sum(lengths) >= 1000 and len(found) > FEWEST
        assert len(passages_of(chat, text, sum(lengths) + 1)) > len(found)

    def test_has_answers_however_long_the_documents_are(self, world: Path) -> None:
        """What is read of a record is read to its end: three pages a document, and still answers."""
        chat = Chat(world / "models" / "legal" / "merged")
        domain = load_domain("legal")
        long = [r.model_copy(update={"input": r.input * 20}) for r in domain.records[:9]]
        found = passages_of(chat, held_out(domain.prompt, long, "long"), 1000)
        assert len(found) == FEWEST and all(len(p.ids) > p.answer > 1000 for p in found)

    def test_stops_where_the_models_context_ends(self, world: Path) -> None:
        chat = Chat(world / "models" / "legal" / "merged")
        whole = passages_of(chat, four_records(), 10_000)
        context = max(len(p.ids) for p in whole) - 5
        cut = passages_of(chat, four_records(), 10_000, context)
        assert [len(p.ids) for p in cut] == [min(len(p.ids), context) for p in whole]
        assert passages_of(chat, four_records(), 10_000, whole[0].first) == []

    def test_of_a_context_that_the_prompt_fills_is_refused_by_its_key(self, world: Path) -> None:
        config = world / "models" / "legal" / "merged" / "config.json"
        config.write_text(
            json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 9})
        )
        with pytest.raises(RungFailed, match="max_position_embeddings: 9 tokens"):
            reference_stage(source_stage(load_domain("legal").rung("smollm3")), four_records(), 99)


def test_the_build_in_pieces_is_the_build_at_once(package: Path) -> None:
    """onnxruntime's cache is rewound to the common beginning between the records."""
    graph = package / "onnx" / "model_q4.onnx"
    ids = list(range(50, 90))
    model = OnnxDecoder(graph, exact=True)
    whole = model.feed(ids)
    model.rewind(10)
    model.feed([7, 8, 9])
    model.rewind(10)
    assert np.allclose(model.feed(ids[10:]), whole[10:], atol=1e-3)


@pytest.mark.slow
def test_truncation_costs_less_than_a_tenth_of_the_standard_error_on_a_real_model(
    root: Path, embedded: Path
) -> None:
    """Compared with the whole distributions of the embedded model, one passage."""
    domain = load_domain("legal")
    text = held_out(domain.prompt, domain.records[:2])
    (passage, *_) = passages_of(Chat(embedded), text, 150)
    parent = TorchModel(embedded)
    other = TorchModel(embedded, Computing("cpu", "bfloat16"))
    p, q = (np.concatenate([a for a, _ in predictions(m, passage)]) for m in (parent, other))
    q = q * 0.9  # a poorer model than a rounded one
    following = passage.ids[passage.first :]
    whole = divergence(truncate(p, following, tail=0), q, following).divergence
    found = divergence(truncate(p, following), q, following)
    short = whole - found.divergence
    assert (short > -1e-4).all() and (short <= found.hidden + 1e-4).all()
    assert short.mean() < 0.1 * whole.std() / np.sqrt(len(whole))


FIDELITY = """
import sys
from pathlib import Path
from shared.base.manifest import Manifest
from shared.base.stage import StageResult
from shared.domain.domain import load_domain
from shared.evaluate.fidelity import fidelity_stage
from shared.source.source import source_stage
domain, package = load_domain("legal"), Path(sys.argv[1])
made = StageResult(package, Manifest.read(package), reused=True)
print(fidelity_stage(domain, source_stage(domain.rung("smollm3")), made).folder)
"""


def test_killed_runs_go_on_with_the_next_record_to_the_same_figures(
    root: Path, embedded: Path, package: Path, edit: Edit
) -> None:
    """Killed while the parent reads, and again while the build does."""
    edit("fallback.toml", "\ntokens = 256", "\ntokens = 1500")
    write_tiny(root / "models" / "legal" / "merged", "qwen2", embedded, vocab_size=FEW_TOKENS)
    command = [sys.executable, "-c", FIDELITY, str(package)]

    def run() -> Manifest:
        domain = load_domain("legal")
        made = StageResult(package, Manifest.read(package), reused=True)
        return fidelity_stage(domain, source_stage(domain.rung("smollm3")), made).manifest

    def passages_in(stage: str, folder: str) -> dict[str, int]:
        files = (root / "build" / stage).glob(f"{folder}/[0-9]*.npz")
        return {path.name: path.stat().st_mtime_ns for path in files}

    def killed_in(stage: str) -> dict[str, int]:
        process = subprocess.Popen(command, cwd=paths.REPOSITORY)
        each(
            held_at(process, lambda: passages_in(stage, ".*.partial")),
            psutil.Process.kill,
        )
        process.wait()
        return passages_in(stage, ".*.partial")

    before = {stage: killed_in(stage) for stage in ("reference", "fidelity")}
    resumed = run()
    for stage, had in before.items():
        after = passages_in(stage, "[0-9a-f]*")
        assert 0 < len(had) < len(after) and had.items() <= after.items()
    for name in ("fidelity", "reference"):
        shutil.rmtree(root / "build" / name)
    whole = run()
    assert whole.key == resumed.key
    assert [resumed.measurements[n] for n in MEASURED] == [whole.measurements[n] for n in MEASURED]
