"""The systems that answer: base model, 16-bit parent, 4-bit release; free and schema-constrained.

`release` is the packaged folder in onnxruntime-genai. `parent` is what it was quantised from, and
`base` what that was fine-tuned from, both in PyTorch. All get the domain's prompt, with its example
line. A rung that was not fine-tuned is its own base; there `base` shows what the prompt does, and is
asked without it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from shared.base.code import code_hash
from shared.base.errors import RungFailed, UserError, of_this_machine
from shared.base.manifest import tool_versions
from shared.base.parsing import nearest
from shared.base.processes import give_back_memory
from shared.base.progress import bar, say
from shared.base.stage import StageResult
from shared.domain.domain import Domain
from shared.domain.grammar.schema import grammar
from shared.domain.records import Record
from shared.domain.settings import Rung
from shared.evaluate.answer_store import Store
from shared.evaluate.models.chat import Answer, Chat, prompt_prefix
from shared.evaluate.models.device import computing
from shared.source.source import Source, answering_hash, base_stage
from shared.source.tokenizer import chat_template

Name = Literal["base", "parent", "release"]
Mode = Literal["free", "constrained"]
NAMES: tuple[Name, ...] = get_args(Name)
MODES: tuple[Mode, ...] = get_args(Mode)
CONSTRAINED: dict[str, tuple[Mode, ...]] = {"both": MODES, "free": MODES[:1], "only": MODES[1:]}
"""The values of --constrained."""
RUNTIMES = {
    "onnxruntime-genai": "shared.evaluate.models.genai",
    "torch": "shared.evaluate.models.torch",
}
"""What answers → the module that asks it."""


class Refused(Exception):
    """A system cannot answer in this mode; str() is one sentence. The other mode may be well."""


@dataclass(frozen=True)
class System:
    """A model that answers. `weights`: hash of what answers, tokenizer and chat template included;
    `absent`: why it cannot be asked. `asked_by`: the folder whose chat template asks it, if not its
    own: where it writes the day, the released one, which has that of the release."""

    name: Name
    folder: Path | None = None
    weights: str = ""
    prompt: str | None = None
    absent: str = ""
    asked_by: Path | None = None

    @property
    def runtime(self) -> str:
        return "onnxruntime-genai" if self.name == "release" else "torch"

    def computed(self, device: str) -> str:
        """The number format and where; `device`: one of shared.evaluate.models.device.DEVICES."""
        if self.folder is None or self.runtime != "torch":
            return "4 bits on the CPU"
        return str(computing(self.folder, device))

    def store(
        self, mode: Mode, domain: Domain, device: str = "auto", *, forcing: bool = True
    ) -> Store:
        """Where its answers lie; `forcing`: see Runner.run."""
        tools = ("transformers", self.runtime, *(("xgrammar",) if mode == "constrained" else ()))
        about: dict[str, Any] = {
            "weights": self.weights,
            "prompt": self.prompt,
            "template": chat_template(self.asked_by) if self.asked_by else None,
            "max_new_tokens": domain.chain.check.max_new_tokens,
            "grammar": grammar(domain.schema) if mode == "constrained" else None,
            "forcing": forcing,
            "tools": tool_versions(*tools),
            "computed": self.computed(device),
            "code": code_hash(RUNTIMES[self.runtime]),
        }
        return Store(about)


def parse_systems(text: str) -> tuple[Name, ...]:
    """`base,parent,release` in any order; UserError with the nearest name."""
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    for word in wanted:
        if word not in NAMES:
            raise UserError(f"--systems: there is no {word!r}; {nearest(word, list(NAMES))}")
    if not wanted:
        raise UserError(f"--systems: one or more of {', '.join(NAMES)} are wanted")
    return tuple(name for name in NAMES if name in wanted)


def parse_constrained(text: str) -> tuple[Mode, ...]:
    """The modes of a value of --constrained; UserError with the nearest value."""
    if text not in CONSTRAINED:
        raise UserError(f"--constrained: there is no {text!r}; {nearest(text, list(CONSTRAINED))}")
    return CONSTRAINED[text]


def parse_minutes(text: str | None) -> float | None:
    """The value of --time-budget; UserError where it is no number of minutes."""
    try:
        minutes = float(text) if text else None
    except ValueError:
        minutes = -1.0
    if minutes is not None and not 0 < minutes < math.inf:
        raise UserError(f"--time-budget: a number of minutes is wanted, not {text!r}")
    return minutes


def all_systems(
    domain: Domain,
    rung: Rung,
    source: Source,
    package: StageResult,
    asked: Sequence[Name] = NAMES,
) -> dict[Name, System]:
    """All three; a base that cannot be had says why, and one that is not `asked` is not fetched."""
    parent = System(
        "parent",
        source.folder,
        answering_hash(source.folder),
        domain.prompt,
        asked_by=package.folder if "strftime_now" in chat_template(source.folder) else None,
    )
    release = System("release", package.folder, package.manifest.key, domain.prompt)
    absent = System("base", absent="not asked for")
    base = _base(domain, rung, parent) if "base" in asked else absent
    return {"base": base, "parent": parent, "release": release}


def _base(domain: Domain, rung: Rung, parent: System) -> System:
    if rung.prompt_only:
        return System("base", parent.folder, parent.weights, asked_by=parent.asked_by)
    if rung.untuned is None:
        return System("base", absent=f"rung {rung.name} names no base_source in fallback.toml")
    try:
        source = base_stage(rung)
    except RungFailed as error:
        return System("base", absent=f"{rung.untuned} could not be had: {error}")
    assert source is not None
    same = parent.folder and chat_template(source.folder) == chat_template(parent.folder)
    return System(
        "base",
        source.folder,
        answering_hash(source.folder),
        domain.prompt,
        asked_by=parent.asked_by if same else None,
    )


def base_label(rung: Rung) -> str:
    """What a table calls the base."""
    return "base, no prompt" if rung.prompt_only else "base"


@dataclass
class Runner:
    """Answers of one system to the records; its model is loaded only where an answer is missing."""

    system: System
    domain: Domain
    records: Sequence[Record]
    device: str = "auto"
    _loaded: Any = field(default=None, init=False)

    def run(self, mode: Mode, *, forcing: bool = True) -> Store:
        """Every record has an answer in the store when this returns. `forcing`: False for a release
        that is asked for every token, forced ones, too (shared.evaluate.models.forced).

        RungFailed: it cannot load. Refused: it cannot be held to the schema.
        """
        store = self.system.store(mode, self.domain, self.device, forcing=forcing)
        missing = [record for record in self.records if store.get(record) is None]
        kept = len(self.records) - len(missing)
        if kept and missing:
            say(f"      {kept} of {len(self.records)} answers are there already")
        if missing:
            self._run(mode, missing, store, forcing)
        return store

    def close(self) -> None:
        """Let the model go."""
        self._loaded = None
        give_back_memory()

    def _run(self, mode: Mode, records: list[Record], store: Store, forcing: bool) -> None:
        model = self._model()
        chat = Chat(self.system.asked_by) if self.system.asked_by else model.chat
        prompts = [chat.prompt_ids(self.system.prompt, record.input) for record in records]
        limit = self.domain.chain.check.max_new_tokens
        held = grammar(self.domain.schema) if mode == "constrained" else None
        more: dict[str, Any] = self._free(mode, records) if forcing else {"forcing": False}
        if self.system.runtime != "torch":  # cut as the page cuts it, whichever records are asked
            more["prefix"] = prompt_prefix(chat, self.system.prompt)
        task = f"{self.system.name}, {mode}" + ", token by token" * (not forcing)
        with bar(task, len(records)) as step:
            given = model.answers(prompts, limit, held, **more)
            for index, answer in _refusing(given, held):
                store.put(records[index], answer)
                step(records[index].id)

    def _free(self, mode: Mode, records: Sequence[Record]) -> dict[str, Any]:
        """For PyTorch, held to the schema: what it answered freely. The release's speed is measured in
        both modes, so it answers twice."""
        if mode == "free" or self.system.runtime != "torch":
            return {}
        store = self.system.store("free", self.domain, self.device)
        found = {index: store.get(record) for index, record in enumerate(records)}
        return {"free": {index: answer for index, answer in found.items() if answer}}

    def _model(self) -> Any:
        if self._loaded is None:
            assert self.system.folder is not None
            say(f"      loading {self.system.name} in {self.system.runtime}")
            self._loaded = _load(self.system.folder, self.system.runtime, self.device)
        return self._loaded


def _refusing(
    answers: Iterator[tuple[int, Answer]], grammar: str | None
) -> Iterator[tuple[int, Answer]]:
    """The same answers; Refused where the runtime cannot constrain them to the schema."""
    try:
        yield from answers
    except (ValueError, RuntimeError) as error:  # XGrammar's, of this vocabulary
        if grammar is None or of_this_machine(error):
            raise
        raise Refused(f"cannot be held to schema.json: {_first_line(error)}") from error


def _load(folder: Path, runtime: str, device: str) -> Any:
    try:
        if runtime == "torch":
            from shared.evaluate.models.torch import TorchModel

            return TorchModel(folder, computing(folder, device))
        from shared.evaluate.models.genai import GenaiModel

        return GenaiModel(folder)
    except Exception as error:  # neither runtime's errors share a base of their own
        if of_this_machine(error):
            raise
        raise RungFailed(f"{runtime} cannot load it: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
