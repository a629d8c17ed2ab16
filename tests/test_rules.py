"""Rules of the whole repository that a reviewer would otherwise have to look for by eye.

Each is read from the syntax trees of all our Python, and each is shown to find what it looks for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.base import paths
from shared.base.errors import UserError
from shared.domain.domain import load_domain
from shared.domain.olive_json import with_overrides

OURS = ("shared", "benchmarks", "examples")
RUNS_CODE = {
    *("eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "torch.load"),
    *("joblib.load", "numpy.load", "np.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("os.system", "os.popen", "marshal.loads", "shelve.open", "dill.load", "dill.loads"),
}
UNPACKS = {"extractall", "extract", "unpack_archive"}
TEMPLATES = {"Environment", "Template", "SandboxedEnvironment", "NativeEnvironment"}


def ours() -> list[Path]:
    files = [paths.REPOSITORY / "tasks.py"]
    for name in OURS:
        files += (paths.REPOSITORY / name).rglob("*.py")
    found = [path for path in files if not {"node_modules", ".venv"} & set(path.parts)]
    assert len(found) > 90, "the repository was not found"
    return found


def name_of(call: ast.Call) -> str:
    """`torch.load` for torch.load(…); the last part alone where the first is no plain name."""
    return ast.unparse(call.func) if isinstance(call.func, ast.Name | ast.Attribute) else ""


def keywords(call: ast.Call) -> dict[str | None, object]:
    return {k.arg: getattr(k.value, "value", k.value) for k in call.keywords}


def runs_code(call: ast.Call) -> bool:
    """numpy's arrays without pickles run nothing."""
    said = keywords(call)
    if name_of(call) in ("np.load", "numpy.load") and said.get("allow_pickle") is False:
        return False
    return name_of(call) in RUNS_CODE or said.get("shell") is True


def unpacks(call: ast.Call) -> bool:
    return name_of(call).split(".")[-1] in UNPACKS


def trusts_remote_code(call: ast.Call) -> bool:
    """An Auto class asks a person at the terminal unless it is told False."""
    name = name_of(call)
    loads = re.search(r"\bAuto\w+\.from_(pretrained|config)$", name)
    said = keywords(call).get("trust_remote_code", None if loads else False)
    return said is not False


def renders_unsandboxed(call: ast.Call) -> bool:
    return name_of(call).split(".")[-1] in TEMPLATES


def listens_to_all(call: ast.Call) -> bool:
    text = ast.unparse(call)
    return bool(re.search(r"['\"](0\.0\.0\.0|::)['\"]|INADDR_ANY|ServerClass\(\(''", text))


RULES = {
    runs_code: [
        "np.load(x, allow_pickle=True)",
        "np.load(x)",
        "torch.load('x')",
        "eval(text)",
        "subprocess.run(x, shell=True)",
        "yaml.load(x)",
    ],
    unpacks: ["archive.extractall(folder)", "shutil.unpack_archive(x)"],
    trusts_remote_code: [
        "AutoTokenizer.from_pretrained(folder)",
        "transformers.AutoModel.from_config(c, trust_remote_code=flag)",
        "f(trust_remote_code=True)",
    ],
    renders_unsandboxed: ["jinja2.Template(text)", "Environment()"],
    listens_to_all: ["HTTPServer(('0.0.0.0', 0), H)", "s.bind(('::', 80))"],
}


def calls(text: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_call_of_ours(rule: object) -> None:
    assert callable(rule)
    found = [
        f"{path.relative_to(paths.REPOSITORY)}:{call.lineno}: {ast.unparse(call)[:80]}"
        for path in ours()
        for call in calls(path.read_text(encoding="utf-8"))
        if rule(call)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        pytest.param(rule, text, id=f"{rule.__name__}: {text[:40]}")
        for rule, texts in RULES.items()
        for text in texts
    ],
)
def test_each_rule_finds_what_it_looks_for(rule: object, text: str) -> None:
    assert callable(rule)
    (call,) = calls(text)
    assert rule(call)


PRIVATE = {
    "torch.utils._pytree": "torch has no public one",
    "torch.onnx._internal.torchscript_exporter": "the function that Optimum's export calls",
    "_model_to_graph": "the same",
    "_create_logger": "Olive sends a heartbeat before it asks whether it may",
    "_run_for_config": "what an Olive pass defines",
    "_validate_yaml": "RepoCard.validate asks the endpoint of the process, not this API's",
    "_keys_to_ignore_on_load_unexpected": "transformers has no public one",
    "_attn_implementation": "transformers sets it by a public name and has none to read it",
    "_make_wrapper_subclass": "torch documents it for subclasses, as it does _schema",
    "_schema": "the same",
    "_cdata": "a tensor without bytes has no address",
    "_parser": "re's, which became private with Python 3.11; sre_parse is deprecated",
    "_processes": "ProcessPoolExecutor's; kill_workers comes with Python 3.14",
    "_exit": "os._exit and namedtuple's _asdict are public",
    "_asdict": "the same",
}
"""Private names of others that are used, each with why."""


def private_names(path: Path) -> Iterator[str]:
    """Modules, names and attributes of others that begin with one underscore."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
            if ast.unparse(node.value) not in ("self", "cls", "super()"):
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] not in OURS:
            if re.search(r"\._[a-z]", str(node.module)):
                yield str(node.module)
            yield from (each.name for each in node.names if re.match("_[a-z]", each.name))


def test_private_names_of_others_are_few_and_have_a_reason() -> None:
    found = {name: path for path in ours() for name in private_names(path)}
    assert {name: path for name, path in found.items() if name not in PRIVATE} == {}
    assert set(PRIVATE) - set(found) <= {"_run_for_config"}, "no longer used"


def test_no_token_or_key_is_an_argument_of_a_process() -> None:
    """What stands in the process list is read by everybody on the machine."""
    for path in ours():
        for call in calls(path.read_text(encoding="utf-8")):
            if name_of(call) in ("subprocess.run", "subprocess.Popen", "subprocess.check_output"):
                words = ast.unparse(call.args[0]) if call.args else ""
                assert not re.search(r"token|password|secret|HF_TOKEN", words, re.I), (path, words)


@pytest.mark.parametrize(
    "name", ["../legal", "legal/../legal", "/etc", ".", "..", "a b", "l\0", ""]
)
def test_a_domains_name_leads_nowhere_else(root: Path, name: str) -> None:
    with pytest.raises(UserError, match="no such domain"):
        load_domain(name)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"load_kwargs": {', '"model_script": "evil.py", "load_kwargs": {', "model_script"),
        ('"load_kwargs": {', '"script_dir": ".", "load_kwargs": {', "script_dir"),
        (
            '"type": "LocalSystem"',
            '"type": "PythonEnvironment", "python_environment_path": "x"',
            "python_environment_path",
        ),
        ('"load_kwargs": {', '"load_kwargs": { "trust_remote_code_": 1,', "trust_remote_code_"),
    ],
)
def test_a_domain_folder_names_no_code(root: Path, old: str, new: str, key: str) -> None:
    path = root / "domains" / "legal" / "olive.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"olive\.json: .*{key}: (names code|cannot be switched)"):
        load_domain("legal")


def test_a_rungs_override_switches_no_remote_code_on(root: Path) -> None:
    override = {"input_model.load_kwargs.trust_remote_code": True}
    with pytest.raises(UserError, match="trust_remote_code: cannot be switched on"):
        with_overrides(load_domain("legal").olive, override, "fallback.toml")
