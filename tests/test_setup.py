"""Setting up: `./inv` itself (against stubs of python, pip and npm), the browser, the doctor."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest
import tomli

from shared.base import paths
from shared.base.errors import UserError
from shared.base.venv import pip_installs, read_pins
from shared.cli.brought import weights_found
from shared.setup import browser, doctor
from tests.events import CEILING_SECONDS, wait_until

NEEDED = ("sh", "cat", "cksum", "sed", "tail", "date", "mkdir", "mv", "rm", "rmdir", "sleep",
          "grep", "awk", "dirname", "chmod", "touch", "df", "cut", "uname")  # fmt: skip
# Stands for python3.11: `-m venv` makes an environment whose programs write down what they are told.
PYTHON = """#!/bin/sh
[ "$1" = -c ] && echo "$0" && exit 0
mkdir -p .venv/bin
for program in python pip; do
    printf '#!/bin/sh\\nexec sh "$STUBS/%s.sh" "$@"\\n' $program > .venv/bin/$program
    chmod +x .venv/bin/$program
done
echo venv >> "$STUBS/calls"
"""
PIP = (
    'echo "pip $*" >> "$STUBS/calls"; while [ -e "$STUBS/slow" ]; do sleep 0.05; done; '
    '[ ! -e "$STUBS/broken" ]'
)
BROWSER = 'echo browser >> "$STUBS/calls"; [ -e "$STUBS/chrome" ] && echo "$STUBS/chrome"'
TASKS = 'case $1 in */tasks.py) shift; echo "$PWD|$*|$OLIVE_DISABLE_TELEMETRY"; exit ;; esac'
NPM = '#!/bin/sh\necho "npm $*" >> "$STUBS/calls"; mkdir -p node_modules'


def executable(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


STARTS = "#!/bin/sh\necho Chromium 1.2.3\n"


@dataclass
class Clone:
    """A clone with nothing but `inv` and the locks, on a PATH with nothing but what inv needs."""

    root: Path
    stubs: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        return [str(self.root / "inv"), "greet", "--name", "you and me"]

    def run(self, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(), cwd=cwd or self.root, env=self.environment, text=True,
            capture_output=True, timeout=CEILING_SECONDS,
        )  # fmt: skip

    def calls(self) -> list[str]:
        """What was done since the last question."""
        log = self.stubs / "calls"
        done = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return done


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    root, stubs, tools = tmp_path / "a clone", tmp_path / "stubs", tmp_path / "bin"
    bench = root / "shared" / "webgpu_bench"
    bench.mkdir(parents=True)
    shutil.copy2(paths.REPOSITORY / "inv", root / "inv")
    (root / "requirements.lock").write_text("torch==2.13.0\nzlib==1.0\n")
    (bench / "package-lock.json").write_text("{}")
    executable(tools / "python3.11", PYTHON)
    executable(tools / "npm", NPM)
    executable(stubs / "chrome")
    for name, text in (("python", f"{TASKS}\n{BROWSER}"), ("pip", PIP)):
        (stubs / f"{name}.sh").write_text(text)
    for name in NEEDED:
        (tools / name).symlink_to(str(shutil.which(name)))
    return Clone(root, stubs, {"PATH": str(tools), "STUBS": str(stubs), "HOME": str(tmp_path)})


class TestInv:
    def test_sets_up_once_and_hands_its_arguments_to_invoke(self, clone: Clone) -> None:
        first, done = clone.run(), clone.calls()
        assert first.stdout == f"{clone.root}|greet --name you and me|1\n", first.stderr
        assert done[:4] == ["venv", "pip install --no-deps torch==2.13.0",
                            "pip install --no-deps --require-hashes -r requirements.lock",
                            "pip install torch==2.13.0"]  # fmt: skip
        assert "npm ci --ignore-scripts" in done
        assert "[5/5]" in first.stderr
        again = clone.run(cwd=clone.stubs)  # where a path that is given begins
        there = first.stdout.replace(str(clone.root), str(clone.stubs))
        assert (again.stdout, again.stderr, clone.calls()) == (there, "", [])

    def test_installs_a_changed_lock_over_the_old_one(self, clone: Clone) -> None:
        clone.run(), clone.calls()
        (clone.root / "requirements.lock").write_text("torch==2.14.0\n")
        assert "[1/2]" in clone.run().stderr
        assert clone.calls()[:3] == [
            "pip install --dry-run --no-deps torch==2.14.0",
            "pip install --dry-run --no-deps --require-hashes -r .venv/others.lock",
            "pip install --no-deps torch==2.14.0",
        ]
        (clone.root / "shared/webgpu_bench/package-lock.json").write_text('{"changed": 1}')
        clone.run()
        assert clone.calls() == ["npm ci --ignore-scripts"]

    def test_leaves_a_whole_environment_as_it_is_where_a_new_lock_cannot_be_had(
        self, clone: Clone
    ) -> None:
        clone.run(), clone.calls()
        old = (clone.root / "requirements.lock").read_text()
        (clone.root / "requirements.lock").write_text("torch==2.14.0\n")
        (clone.stubs / "broken").touch()
        for _ in range(2):
            failed = clone.run()
            assert failed.returncode == 1 and "the environment is as it was" in failed.stderr
        (clone.root / "requirements.lock").write_text(old)
        clone.calls()
        assert clone.run().returncode == 0 and clone.calls() == []

    def test_deletes_no_environment_that_it_did_not_make(self, clone: Clone) -> None:
        mine = executable(clone.root / ".venv" / "bin" / "python")
        refused = clone.run()
        assert refused.returncode == 1 and ".venv is none of this script's" in refused.stderr
        assert mine.exists()

    def test_takes_a_lock_with_its_own_number_for_that_of_a_killed_call(self, clone: Clone) -> None:
        """A container's first process has the same number each time."""
        held = clone.root / "build/.setup-lock"
        held.mkdir(parents=True)
        executable(
            clone.stubs / "again", f"#!/bin/sh\necho $$ > {held.as_posix()!r}/pid; exec ./inv greet"
        )
        done = subprocess.run(
            [clone.stubs / "again"], cwd=clone.root, env=clone.environment, timeout=CEILING_SECONDS
        )
        assert done.returncode == 0

    def test_makes_a_half_made_or_moved_environment_anew(self, clone: Clone) -> None:
        clone.run(), clone.calls()
        (clone.root / ".venv" / "stamp").unlink()
        clone.run()
        assert clone.calls()[0] == "venv"
        clone.root = clone.root.rename(clone.root.with_name("moved"))
        assert clone.run().stdout.startswith(f"{clone.root}|")
        assert clone.calls()[0] == "venv"

    def test_shows_why_pip_failed_and_tries_again_the_next_time(self, clone: Clone) -> None:
        (clone.stubs / "pip.sh").write_text("echo no such wheel; exit 1")
        failed = clone.run()
        assert failed.returncode == 1
        assert "| no such wheel" in failed.stderr
        assert ".venv/setup.log" in failed.stderr
        assert not (clone.root / "build/.setup-lock").exists()
        (clone.stubs / "pip.sh").write_text(PIP)
        assert clone.run().returncode == 0

    def test_goes_on_without_browser_and_npm_and_says_so_once(self, clone: Clone) -> None:
        (clone.stubs / "chrome").unlink()
        (Path(clone.environment["PATH"]) / "npm").unlink()
        first = clone.run()
        assert first.stdout.endswith("|1\n")
        assert "./.venv/bin/python -m shared.setup.browser --install" in first.stderr
        assert "npm ci --ignore-scripts" in first.stderr
        assert clone.run().stderr == ""

    def test_looks_for_a_browser_again_when_the_one_it_knew_is_gone(self, clone: Clone) -> None:
        clone.run(), clone.calls()
        (clone.root / ".venv" / "browser").write_text("/gone/chrome\n")
        clone.run()
        assert set(clone.calls()) == {"browser"}

    def test_waits_for_another_first_call(self, clone: Clone) -> None:
        (clone.stubs / "slow").touch()
        one = subprocess.Popen(clone.command(), env=clone.environment, stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)  # fmt: skip
        wait_until((clone.root / "build/.setup-lock/pid").exists, one)
        log = clone.root / "two.log"
        with log.open("w") as said:
            two = subprocess.Popen(clone.command(), env=clone.environment, stderr=said,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        try:
            wait_until(lambda: f"process {one.pid} is setting up" in log.read_text(), two)
        finally:
            (clone.stubs / "slow").unlink()
        assert one.wait(CEILING_SECONDS) == two.wait(CEILING_SECONDS) == 0
        assert clone.calls().count("venv") == 1

    def test_clears_the_lock_of_a_killed_call(self, clone: Clone) -> None:
        dead = subprocess.Popen(["true"])
        dead.wait()
        held = clone.root / "build/.setup-lock"
        held.mkdir(parents=True)
        (held / "pid").write_text(f"{dead.pid}\n")
        assert clone.run().returncode == 0

    @pytest.mark.parametrize(
        ("tool", "does", "says"),
        [
            ("touch", "exit 1", "cannot be written to"),
            ("df", "echo x; echo /dev/x 9000000 8000000 1000000 89% /", "less is free"),
        ],
        ids=["read-only", "full"],
    )
    def test_a_disk_that_cannot_hold_it_is_one_sentence_before_all(
        self, clone: Clone, tool: str, does: str, says: str
    ) -> None:
        stub = Path(clone.environment["PATH"]) / tool
        stub.unlink()
        executable(stub, f"#!/bin/sh\n{does}\n")
        failed = clone.run()
        assert failed.returncode == 1 and clone.calls() == []
        assert failed.stderr.startswith(f"inv: {clone.root}") and says in failed.stderr
        assert len(failed.stderr.splitlines()) == 1

    @pytest.mark.skipif(sys.platform != "linux", reason="no other build brings CUDA")
    def test_a_disk_that_cannot_hold_cuda_is_told_before_it_is_fetched(self, clone: Clone) -> None:
        files = ".venv/lib/python3.11/site-packages/torch-2.13.0.dist-info"
        brings = f"mkdir -p {files}; echo 'Requires-Dist: nvidia-cudnn' > {files}/METADATA"
        (clone.stubs / "pip.sh").write_text(f"{PIP}; {brings}")
        stub = Path(clone.environment["PATH"]) / "df"
        stub.unlink()
        executable(stub, "#!/bin/sh\necho x; echo /dev/x 9000000 4000000 5000000 44% /\n")
        failed = clone.run()
        assert failed.returncode == 1 and "this build of PyTorch" in failed.stderr.splitlines()[-1]
        assert [call.split()[0] for call in clone.calls()] == ["venv", "pip"]

    def test_names_what_to_install_where_there_is_no_python(self, clone: Clone) -> None:
        (Path(clone.environment["PATH"]) / "python3.11").unlink()
        failed = clone.run()
        assert failed.returncode == 1
        assert "no Python 3.11 or 3.12 on PATH" in failed.stderr


class TestFindBrowser:
    @pytest.fixture(autouse=True)
    def _nothing_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CHROME_PATH", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "playwright"))
        monkeypatch.setattr("sys.platform", "linux")

    def test_takes_chrome_before_chromium(self, tmp_path: Path) -> None:
        executable(tmp_path / "chromium", STARTS)
        assert browser.find_browser() == browser.Browser(tmp_path / "chromium", "chromium")
        executable(tmp_path / "google-chrome")
        assert browser.find_browser() == browser.Browser(tmp_path / "chromium", "chromium")
        executable(tmp_path / "google-chrome", STARTS)
        assert browser.find_browser() == browser.Browser(tmp_path / "google-chrome", "chrome")

    def test_takes_the_one_that_CHROME_PATH_names_before_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        executable(tmp_path / "google-chrome")
        mine = executable(tmp_path / "mine", "#!/bin/sh\necho 'sh: oops' >&2; echo Chrome 1.2.3")
        monkeypatch.setenv("CHROME_PATH", str(mine))
        found = browser.require_browser()
        assert (found.path, found.kind, found.version) == (mine, "CHROME_PATH", "Chrome 1.2.3")

    def test_refuses_a_CHROME_PATH_that_cannot_be_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        executable(tmp_path / "chromium")
        monkeypatch.setenv("CHROME_PATH", "/no/chrome")
        with pytest.raises(UserError, match="CHROME_PATH=/no/chrome: not an executable"):
            browser.find_browser()

    def test_refuses_a_CHROME_PATH_that_does_not_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CHROME_PATH", str(executable(tmp_path / "stub")))
        with pytest.raises(UserError, match="does not start; correct it or unset it"):
            browser.find_browser()

    def test_says_how_to_get_one_where_there_is_none(self) -> None:
        assert browser.find_browser() is None
        with pytest.raises(UserError, match="browser --install"):
            browser.require_browser()

    def test_trusts_no_installer_whose_browser_does_not_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(browser, "_may_use_apt", lambda: False)
        monkeypatch.setattr(
            browser, "_by_playwright", lambda: executable(tmp_path / "chromium") and ""
        )
        with pytest.raises(UserError, match="installed, but it does not start"):
            browser.install_browser()


class TestAProgramOfTheSetUp:
    def test_that_falls_silent_is_ended_with_what_it_started(self) -> None:
        mark = f"6000.{os.getpid()}"
        words = ["sh", "-c", f"echo first; sleep {mark} & sleep {mark}"]
        assert browser._run(words, silent=0.5) == (124, "silent for 0 s")
        every = partial(psutil.process_iter, ["cmdline"])
        wait_until(lambda: not [p for p in every() if mark in (p.info["cmdline"] or [])])

    def test_may_take_longer_while_it_says_something(self) -> None:
        words = ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 1.1; done; exit 3"]
        assert browser._run(words, silent=3) == (3, "1\n2\n3\n")

    def test_that_is_not_there_is_said(self) -> None:
        assert browser._run(["/no/such/program"], silent=1)[0] == 127


class TestDoctor:
    def test_finds_a_wrong_pin_and_a_missing_package(self, tmp_path: Path) -> None:
        pins = tmp_path / "requirements.lock"
        pins.write_text('# why\ninvoke==0.1\nno-such-thing==1\nx==1 ; sys_platform == "win32"\n')
        wrong = {f.name: f for f in doctor.check(pins) if f.mend == doctor.REMAKE}
        assert set(wrong) == {"invoke", "no-such-thing"}
        assert "locked ==0.1" in wrong["invoke"].found
        assert doctor.failed(list(wrong.values()))

    def test_says_what_each_domain_lacks_and_never_shows_the_token(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(paths.domains(), tmp_path / "domains")
        (tmp_path / "domains" / "legal").rename(tmp_path / "domains" / "tax")
        monkeypatch.setenv("DOCINTEL_ROOT", str(tmp_path))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        report = doctor.render([*doctor.check(), *weights_found()])
        assert "tax weights" in report and "models/tax/merged" in report
        assert "hf_secret" not in report and "present" in report

    def test_fails_on_what_is_missing_and_not_on_a_warning(self) -> None:
        assert not doctor.failed([doctor.Finding("GPU", "warn", "none")])
        assert doctor.failed([doctor.Finding("node", "missing", "none")])


def test_an_environment_of_its_own_is_installed_as_inv_installs() -> None:
    lock = paths.REPOSITORY / "shared" / "olive" / "optimum" / "requirements.lock"
    torch = next(f"torch{pin.specifier}" for pin in read_pins(lock) if pin.name == "torch")
    verified = ("--no-deps", "--require-hashes", "-r", str(lock))
    assert list(pip_installs(lock)) == [("--no-deps", torch), verified, (torch,)]


def test_the_shell_scripts_parse() -> None:
    for shell, script in (("sh", "inv"), ("bash", ".ci/run"), ("bash", ".ci/locks")):
        assert os.access(paths.REPOSITORY / script, os.X_OK)
        subprocess.run([shell, "-n", str(paths.REPOSITORY / script)], check=True)


def test_an_editable_install_names_its_packages_and_the_locked_invoke() -> None:
    project = tomli.loads((paths.REPOSITORY / "pyproject.toml").read_text("utf-8"))
    pins = (paths.REPOSITORY / "requirements.in").read_text("utf-8").splitlines()
    assert all(
        any(pin.startswith(f"{need} ") for pin in pins)
        for need in project["project"]["dependencies"]
    )
    named = project["tool"]["setuptools"]["packages"]["find"]["include"]
    held = {path.parent.name for path in paths.REPOSITORY.glob("*/__init__.py")} - {"tests"}
    assert {name.removesuffix("*") for name in named} == held
