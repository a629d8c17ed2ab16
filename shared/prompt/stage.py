"""The prompt, before anything is built: every runtime makes the tokens of it that the check will use.

The folder's own template and tokenizer, under the project's options, say what is right; what ships is
the first candidate from which transformers, the page, the card's JavaScript and the card's Python
make exactly that, over all records and texts that are known to be hard.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from shared.base.errors import RungFailed
from shared.base.files import write_json
from shared.base.hashing import sha256_files, sha256_json
from shared.base.manifest import Measurement, tool_versions
from shared.base.parsing import loads_strictly, read_text
from shared.base.progress import say
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.domain import Domain
from shared.prompt.renderers import Ids, rendered, write_genai_stub
from shared.prompt.template import candidates
from shared.prompt.texts import hard_texts
from shared.source.source import ANSWERING_FILES, Source
from shared.source.tokenizer import TEMPLATE, Tokenizer, chat_template, control_tokens
from shared.source.weights import named

COPIED = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")
CONFIG = "tokenizer_config.json"
PLAIN_CLASS = "PreTrainedTokenizerFast"
"""What tokenizer.json says and no more; a model's own class has rules of its own in each runtime."""

ENDLESS = 10**30
"""transformers' "no limit": Transformers.js's pipeline cuts a longer prompt off on the right, without a
word, and with it the answer's opening."""

PRIVATE_KEYS = ("_name_or_path", "_model_name_or_path", "is_local", "local_files_only", "backend")


def prompt_stage(domain: Domain, source: Source, *, force: bool = False) -> StageResult:
    """The tokenizer's files as they ship; RungFailed with the first difference where none serves."""
    names = [name for name in ANSWERING_FILES if (source.folder / name).is_file()]
    texts = [record.input for record in domain.records]
    plan = Plan(
        "prompt",
        inputs=sha256_files(source.folder, names),
        settings={"prompt": domain.prompt, "records": sha256_json(texts)},
        tools=tool_versions("transformers", "tokenizers", "onnxruntime-genai"),
        code=(
            __name__,
            "shared/webgpu_bench/page/prompt.js",
            "shared/webgpu_bench/package-lock.json",
        ),
    )
    return run_stage(
        plan, lambda work: _proven(source.folder, domain.prompt, texts, work), force=force
    )


def _proven(folder: Path, system: str, texts: list[str], work: Path) -> Produced:
    say("      rendering the prompt as every runtime does")
    tokenizer = Tokenizer(folder)
    asked = [*texts, *hard_texts(control_tokens(folder))]
    wanted = [tokenizer.prompt_ids(system, text) for text in asked]
    template = chat_template(folder)
    first = ""
    for written, kind in product(candidates(tokenizer.tokenizer, template), _classes(folder)):
        with tempfile.TemporaryDirectory() as name:
            tried = Path(name) / "shipped"
            tried.mkdir()
            _write(tried, folder, written, kind)
            write_genai_stub(tried)
            found = rendered(tried, system, asked)
        difference = next(_differences(tokenizer.tokenizer, asked, wanted, found), "")
        if not difference:
            _write(work, folder, written, kind)
            same = f"{len(asked)} questions, the same token ids by {', '.join(found)}"
            own = written.endswith(template)
            return Produced(
                {"same_everywhere": Measurement(value=True, how=same)},
                facts={"template": "the folder's own" if own else "spelt out", "class": kind},
            )
        first = first or difference
    where = folder / (TEMPLATE if (folder / TEMPLATE).is_file() else CONFIG)
    raise RungFailed(f"{named(where)}: chat_template: {first}")


def _classes(folder: Path) -> Sequence[str]:
    own = loads_strictly(read_text(folder / CONFIG)).get("tokenizer_class")
    return [PLAIN_CLASS, *([own] if own not in (None, PLAIN_CLASS, "TokenizersBackend") else [])]


def _write(to: Path, folder: Path, template: str, kind: str) -> None:
    """The tokenizer's files as a release has them. The template stands in its configuration too:
    Transformers.js reads it nowhere else."""
    for name in COPIED:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, to / name)
    config = public(folder / CONFIG)
    config |= {"chat_template": template, "tokenizer_class": kind, "model_max_length": ENDLESS}
    config |= {"clean_up_tokenization_spaces": False}  # Transformers.js would rewrite " ,"
    write_json(to / CONFIG, config)
    (to / TEMPLATE).write_text(template, encoding="utf-8")


def public(path: Path) -> dict[str, Any]:
    """A JSON object without PRIVATE_KEYS, which name the machine it was written on."""
    data: dict[str, Any] = loads_strictly(read_text(path))
    return {key: value for key, value in data.items() if key not in PRIVATE_KEYS}


def _differences(
    tokenizer: Any, texts: list[str], wanted: list[list[int]], found: dict[str, list[Ids]]
) -> Iterator[str]:
    """A sentence for each text that a renderer makes something else of."""
    for name, rows in found.items():
        for text, right, ids in zip(texts, wanted, rows, strict=True):
            if isinstance(ids, str):
                yield f"{name} cannot render it: {ids}"
            elif ids != right:
                pairs = zip([*ids, None], [*right, None], strict=False)
                place = next(i for i, (one, other) in enumerate(pairs) if one != other)
                here, there = (tokenizer.decode(row[place : place + 3]) for row in (ids, right))
                yield (
                    f"{name} makes other tokens of the question {text[:40]!r}: from token {place} on "
                    f"{here!r}, transformers {there!r}"
                )
