"""The browser harness without a browser: its server, its reading of logs, its answers."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import psutil
import pytest
from pydantic import ValidationError

from shared.base.errors import UserError
from shared.webgpu_bench import driver
from shared.webgpu_bench.chromium import Tab, flags
from shared.webgpu_bench.model_list import listing
from shared.webgpu_bench.placement import Unreadable, read_placement
from shared.webgpu_bench.result import BrowserResult, Run
from shared.webgpu_bench.server import serve

BODY = b"0123456789"
PREFIX = "2026-11-23 10:31:23.858514 [V:onnxruntime:, session_state.cc:13"
LOG = [
    f"{PREFIX}77 VerifyEachNodeIsAssignedToAnEp] Node placements",
    f"{PREFIX}83 VerifyEachNodeIsAssignedToAnEp]  Node(s) placed on [CPUExecutionProvider]."
    " Number of nodes: 2",
    f"{PREFIX}85 VerifyEachNodeIsAssignedToAnEp]   ReduceSum (model/ReduceSum_node_4)",
    f"{PREFIX}85 VerifyEachNodeIsAssignedToAnEp]   Sub (model/Sub_node_5)",
    f"{PREFIX}83 VerifyEachNodeIsAssignedToAnEp]  Node(s) placed on [WebGpuExecutionProvider]."
    " Number of nodes: 184",
    f"{PREFIX}85 VerifyEachNodeIsAssignedToAnEp]   MatMulNBits (node_MatMul_2)",
]


class Site:
    """A served folder and a way to ask for a path exactly as it is written."""

    def __init__(self, url: str, root: Path) -> None:
        self.root = root
        self.address = urlsplit(url)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[Any, bytes]:
        port = self.address.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response, body


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    root = tmp_path / "page"
    (root / "onnx").mkdir(parents=True)
    (root / "index.html").write_text("<!doctype html>")
    (root / "onnx" / "model.onnx").write_bytes(BODY)
    (root / "empty.json").write_bytes(b"")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "page-and-more.txt").write_text("a sibling")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    (root / "inner.txt").symlink_to(root / "index.html")
    os.link(tmp_path / "secret.txt", root / "hard.txt")
    for kind in ("js", "mjs", "wasm", "json", "css", "onnx_data"):
        (root / f"file.{kind}").write_text("x")
    mounts = {"/": root, "/models/legal": root / "onnx"}
    with serve(mounts, {"/models/index.json": lambda: [{"name": "legal"}]}) as url:
        yield Site(url, root)


class TestTheServer:
    def test_sends_a_whole_file_with_its_length(self, site: Site) -> None:
        response, body = site.get("/onnx/model.onnx")
        assert (response.status, body) == (200, BODY)
        assert response.headers["Content-Length"] == "10"
        assert response.headers["Accept-Ranges"] == "bytes"

    def test_serves_index_html_for_the_root(self, site: Site) -> None:
        assert site.get("/?driven")[1] == b"<!doctype html>"

    def test_gives_the_longest_mount_the_path(self, site: Site) -> None:
        assert site.get("/models/legal/model.onnx")[1] == BODY

    def test_sends_documents_made_on_request(self, site: Site) -> None:
        response, body = site.get("/models/index.json")
        assert body == b'[{"name": "legal"}]'
        assert response.headers["Content-Type"] == "application/json"

    @pytest.mark.parametrize(
        ("asked", "sent", "content_range"),
        [
            ("bytes=2-4", b"234", "bytes 2-4/10"),
            ("bytes=7-", b"789", "bytes 7-9/10"),
            ("bytes=-3", b"789", "bytes 7-9/10"),
            ("bytes=-99", BODY, "bytes 0-9/10"),
            ("bytes=0-99", BODY, "bytes 0-9/10"),
        ],
    )
    def test_sends_a_part_with_206(
        self, site: Site, asked: str, sent: bytes, content_range: str
    ) -> None:
        response, body = site.get("/onnx/model.onnx", Range=asked)
        assert (response.status, body) == (206, sent)
        assert response.headers["Content-Range"] == content_range

    @pytest.mark.parametrize("asked", ["bytes=10-", "bytes=99-100", "bytes=-0"])
    def test_answers_416_for_a_part_that_is_not_there(self, site: Site, asked: str) -> None:
        response, _ = site.get("/onnx/model.onnx", Range=asked)
        assert response.status == 416
        assert response.headers["Content-Range"] == "bytes */10"

    @pytest.mark.parametrize("asked", ["bytes=a-b", "bytes=-", "bytes=4-2", "bytes=0-1,3-4"])
    def test_ignores_a_range_it_does_not_understand(self, site: Site, asked: str) -> None:
        assert site.get("/onnx/model.onnx", Range=asked)[0].status == 200

    def test_sends_an_empty_file(self, site: Site) -> None:
        response, body = site.get("/empty.json")
        assert (response.status, body) == (200, b"")

    def test_head_gives_the_headers_alone(self, site: Site) -> None:
        response, body = site.get("/onnx/model.onnx", method="HEAD")
        assert (response.status, body) == (200, b"")
        assert response.headers["Content-Length"] == "10"

    @pytest.mark.parametrize(
        "path",
        [
            "/../secret.txt",
            "/onnx/../../secret.txt",
            "/%2e%2e/secret.txt",
            "/..%2fsecret.txt",
            "/%2e%2e%2fsecret.txt",
            "/onnx/..%5c..%5csecret.txt",
            "//secret.txt",
            "/../page-and-more.txt",
            "/%00",
            "/link.txt",
            "/models/legal/../../secret.txt",
            "/models/legal/..%2findex.html",
            "/onnx",
            "/no-such-file",
        ],
    )
    def test_answers_404_outside_its_folders(self, site: Site, path: str) -> None:
        response, body = site.get(path)
        assert response.status == 404
        assert b"secret" not in body

    def test_absolute_paths_stay_inside(self, site: Site) -> None:
        assert site.get(f"/{site.root.parent}/secret.txt")[0].status == 404

    def test_follows_links_that_stay_inside_and_hard_links(self, site: Site) -> None:
        assert site.get("/inner.txt")[0].status == 200
        assert site.get("/hard.txt")[1] == b"secret"

    @pytest.mark.parametrize(
        ("file", "kind"),
        [
            ("index.html", "text/html; charset=utf-8"),
            ("file.js", "text/javascript; charset=utf-8"),
            ("file.mjs", "text/javascript; charset=utf-8"),
            ("file.css", "text/css; charset=utf-8"),
            ("file.wasm", "application/wasm"),
            ("file.json", "application/json"),
            ("onnx/model.onnx", "application/octet-stream"),
            ("file.onnx_data", "application/octet-stream"),
        ],
    )
    def test_names_the_type_of_each_file(self, site: Site, file: str, kind: str) -> None:
        assert site.get(f"/{file}")[0].headers["Content-Type"] == kind

    @pytest.mark.parametrize("path", ["/", "/models/index.json", "/no-such-file"])
    def test_isolates_the_page_and_keeps_nothing(self, site: Site, path: str) -> None:
        headers = site.get(path)[0].headers
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"

    def test_listens_on_loopback_only(self, site: Site) -> None:
        assert site.address.hostname == "127.0.0.1"
        own = [address for found in psutil.net_if_addrs().values() for address in found]
        others = {a.address for a in own if a.family == socket.AF_INET} - {"127.0.0.1"}
        for host in {*others, "127.0.0.2"}:
            with pytest.raises(OSError):
                socket.create_connection((host, site.address.port or 0), timeout=1)

    def test_refuses_a_foreign_host_name_that_points_here(self, site: Site) -> None:
        assert site.get("/", Host="evil.example:80")[0].status == 403
        assert site.get("/", Host=f"localhost:{site.address.port}")[0].status == 200

    def test_is_gone_when_the_block_ends(self, tmp_path: Path) -> None:
        with serve({"/": tmp_path}) as url:
            port = urlsplit(url).port
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port or 0), timeout=1)


class TestReadingThePlacement:
    def test_counts_nodes_and_names_those_on_the_cpu(self) -> None:
        found = read_placement(LOG)
        assert (found.WebGpuExecutionProvider, found.CPUExecutionProvider) == (184, 2)
        assert found.cpu_nodes == ["ReduceSum (model/ReduceSum_node_4)", "Sub (model/Sub_node_5)"]

    def test_knows_the_line_for_a_graph_that_is_all_on_one_provider(self) -> None:
        line = "[V:onnxruntime:] All nodes placed on [WebGpuExecutionProvider]. Number of nodes: 9"
        assert read_placement([line]).CPUExecutionProvider == 0

    def test_says_so_when_the_log_holds_none(self) -> None:
        with pytest.raises(Unreadable, match="no node placement"):
            read_placement(["[I:onnxruntime:] Session successfully initialized."])

    def test_does_not_trust_a_log_that_lost_lines(self) -> None:
        with pytest.raises(Unreadable, match="counts 2 nodes on the CPU but names 1"):
            read_placement(LOG[:3] + LOG[4:])


class TestTheResult:
    def test_refuses_keys_it_does_not_know(self) -> None:
        with pytest.raises(ValidationError, match="speed"):
            BrowserResult.model_validate({"outcome": "ok", "speed": 5})

    def test_refuses_outcomes_it_does_not_know(self) -> None:
        with pytest.raises(ValidationError, match="outcome"):
            BrowserResult.model_validate({"outcome": "fine"})

    def test_survives_its_own_json(self) -> None:
        run = Run(id="a", prompt_tokens=20, output_ids=[1, 2], ttft_ms=400.0, decode_ms=[50.0])
        result = BrowserResult(ok=True, outcome="ok", runs=[run])
        assert BrowserResult.model_validate_json(result.model_dump_json()) == result

    def test_derives_speeds_from_the_times(self) -> None:
        run = Run(id="a", prompt_tokens=20, ttft_ms=400.0, decode_ms=[50.0, 150.0])
        assert (run.prefill_tokens_per_second, run.decode_tokens_per_second) == (50.0, 10.0)
        assert Run(id="a", prompt_tokens=20).decode_tokens_per_second is None
        all_forced = run.model_copy(update={"decode_ms": [0.0, 0.0]})
        assert all_forced.decode_tokens_per_second is None


class TestTheHarness:
    def test_names_the_folder_that_holds_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"config\.json is missing"):
            driver.run_in_browser(tmp_path, {}, browser=tmp_path, timeout_s=1, adapter="software")

    def test_names_the_command_that_installs_the_page(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver, "VENDOR", tmp_path)
        with pytest.raises(UserError, match="npm ci --ignore-scripts"):
            driver.serve_page({})

    def test_a_port_that_is_none_is_a_sentence(self) -> None:
        with pytest.raises(UserError, match="--port: a number from 0 to 65535 is wanted"):
            driver.serve_page({}, port=70_000)

    @pytest.mark.parametrize("text", ["", "{", '{"outcome": "fine"}', "[]"])
    def test_an_answer_that_is_none_is_a_failed_run(self, text: str) -> None:
        found = driver.parsed(text)
        assert found.outcome == "run_failed" and "the page's answer" in str(found.error)

    def test_what_a_page_says_while_its_browser_is_ended_is_no_answer(self, tmp_path: Path) -> None:
        """Its network's process may end before it: the page takes that for a failed load."""
        attempt = driver._Attempt(tmp_path, {}, tmp_path, 0, print, print)
        failed = '{"outcome": "load_failed", "error": "Failed to fetch"}'
        attempt._give_up(cast(Tab, SimpleNamespace(kill=partial(attempt._hear, failed))))
        assert attempt._result(None, "").outcome == "timeout"

    def test_an_answer_that_came_before_the_time_was_up_is_kept(self, tmp_path: Path) -> None:
        attempt = driver._Attempt(tmp_path, {}, tmp_path, 0, print, print)
        attempt._hear('{"outcome": "load_failed"}')
        attempt._give_up(cast(Tab, SimpleNamespace(kill=lambda: None)))
        assert attempt._result(None, "").outcome == "load_failed"

    def test_asks_for_the_software_adapter_only_without_a_gpu(self) -> None:
        assert "--use-webgpu-adapter=swiftshader" in flags(hardware=False)
        assert "--use-webgpu-adapter=swiftshader" not in flags(hardware=True)

    def test_lists_a_model_with_its_domains_prompt_and_example(
        self, root: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "package" / "onnx").mkdir(parents=True)
        (tmp_path / "package" / "onnx" / "model_q4.onnx").write_bytes(BODY)
        [entry] = listing({"legal": tmp_path / "package"})
        assert entry["bytes"] == {"q4": 10}
        assert "issue" in entry["schema"]["properties"] and entry["base"] is None
        assert "a legal analyst" in entry["system_prompt"]
        assert entry["example"]
