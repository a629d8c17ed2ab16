"""The folder of a family: one 4-bit base, and beside it the adapters of several domains.

family.json   what is shared and of each adapter its files, with their hashes
config.json … the base's package, which can be loaded as it is
onnx/         model_<dtype>.onnx with data: the base; swap_<dtype>.onnx: takes an adapter
adapters/     <domain>.safetensors and .json for a page, .onnx_adapter for onnxruntime-genai
domains/      <domain>/: how it is asked, under the names that a release has them by: DOMAIN_FILES
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.base.files import link_or_copy, write_json
from shared.base.hashing import files_below, sha256_file, sha256_json
from shared.base.manifest import FILE_NAME, FileRecord, Measurement
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.olive.build import DTYPES
from shared.olive.family_record import (
    DOMAIN_FILES,
    FILES,
    RECORD,
    SWAP,
    AdapterRecord,
    FamilyRecord,
    adapter_file,
)
from shared.source.adapter import CONFIG, WEIGHTS


def family_stage(
    record: FamilyRecord,
    package: StageResult,
    swap: StageResult,
    adapters: Mapping[str, StageResult],
    texts: Mapping[str, Mapping[str, str]],
) -> StageResult:
    """Lay out the family's folder: large files are links, so that a base has its bytes once.

    `texts`: of each domain its DOMAIN_FILES.
    """
    keys = {f"adapters/{name}": done.manifest.key for name, done in adapters.items()}
    keys |= {f"domains/{name}": sha256_json(dict(texts[name])) for name in adapters}
    plan = Plan(
        "family",
        inputs={"package": package.manifest.key, "swap": swap.manifest.key, **keys},
        settings=record.model_dump(exclude={"shared", "adapters"}),
        code=(__name__,),
    )

    def produce(work: Path) -> Produced:
        for name in files_below(package.folder):
            if name != FILE_NAME:
                _link(package.folder / name, work / name)
        for dtype in DTYPES:
            _link(swap.folder / f"{SWAP}_{dtype}.onnx", work / "onnx" / f"{SWAP}_{dtype}.onnx")
        shared = _recorded(work, files_below(work))
        own = {name: _adapter(work, name, done, texts[name]) for name, done in adapters.items()}
        told = record.model_copy(update={"shared": shared, "adapters": own})
        write_json(work / RECORD, told.model_dump())
        return Produced(_sizes(shared, own))

    return run_stage(plan, produce)


def _adapter(work: Path, name: str, done: StageResult, texts: Mapping[str, str]) -> AdapterRecord:
    places = [f"adapters/{name}{Path(file).suffix}" for file in FILES]
    for file, place in zip(FILES, places, strict=True):
        _link(done.folder / file, work / place)
    own = work / "domains" / name
    own.mkdir(parents=True)
    for file in DOMAIN_FILES:
        (own / file).write_bytes(texts[file].encode())
    places += [f"domains/{name}/{file}" for file in DOMAIN_FILES]
    trained = {file: done.manifest.inputs[file] for file in (CONFIG, WEIGHTS)}
    return AdapterRecord(files=_recorded(work, places), trained=trained)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(source, target)


def _recorded(folder: Path, names: Sequence[str]) -> dict[str, FileRecord]:
    return {
        name: FileRecord(sha256=sha256_file(folder / name), bytes=(folder / name).stat().st_size)
        for name in names
    }


def _sizes(
    shared: Mapping[str, FileRecord], adapters: Mapping[str, AdapterRecord]
) -> dict[str, Measurement]:
    """What a page fetches, by numeric type: the base with the graph to swap in, and each adapter."""
    found = {
        f"{dtype}_shared_bytes": Measurement(
            value=sum(r.bytes for n, r in shared.items() if f"_{dtype}.onnx" in n),
            unit="B",
            how=f"graphs and external data of {dtype}",
        )
        for dtype in DTYPES
    }
    for name, adapter in adapters.items():
        file = adapter_file(name)
        size = adapter.files[file].bytes
        found[f"{name}_bytes"] = Measurement(value=size, unit="B", how=file)
    return found
