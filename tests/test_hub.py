"""Publishing as a transaction: the real client over real HTTP to tests/hub_double.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shared.base.errors import UserError
from shared.cli.summary import plan_table
from shared.hub.collection import Entry, renew_collection
from shared.hub.files import Order
from shared.hub.names import repo_id
from shared.hub.publish import plan, publish
from tests.hub_double import Fault, HubDouble
from tests.hub_release import (
    KEY,
    NEXT_KEY,
    REPO,
    WEIGHTS,
    on_disk,
    on_the_hub,
    order,
    refused,
    send,
    write_release,
)
from tests.hub_store import Pull

# The client itself passes open files to httpx2 in a way that httpx2 no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


class TestARepositoryName:
    def test_is_made_from_the_pattern(self) -> None:
        made = repo_id("docintel-{domain}-{base}-webgpu", "acme", "legal", "HuggingFaceTB/SmolLM3")
        assert made == "acme/docintel-legal-smollm3-webgpu"

    @pytest.mark.parametrize("pattern", ["{domian}", "{", "a--{domain}", "{domain}/{base}", "{0}"])
    def test_that_the_hub_would_not_take_is_refused(self, pattern: str) -> None:
        with pytest.raises(UserError):
            repo_id(pattern, "acme", "legal", "org/model")


class TestPublishing:
    def test_puts_on_the_hub_what_the_folder_holds(self, hub: HubDouble, release: Path) -> None:
        done = send(hub, release)
        assert on_the_hub(hub) == on_disk(release)
        assert hub.repos[REPO].at("main")[1][WEIGHTS].lfs
        assert done.revision == hub.repos[REPO].refs["main"]
        assert (done.url, done.files, done.unchanged) == (f"{hub.url}/{REPO}", 3, False)
        assert done.bytes_sent == sum(map(len, on_disk(release).values())) == hub.keeper.sent

    def test_stages_in_a_pull_request_and_changes_main_once(
        self, hub: HubDouble, release: Path
    ) -> None:
        done = send(hub, release)
        paths = [r.path for r in hub.asked("POST", "/commit/")]
        assert paths == [f"/api/models/{REPO}/commit/refs/pr/1"]
        assert [c.title for _, c in hub.repos[REPO].history("main")] == [
            f"DocIntel legal: tiny, release {KEY} over {hub.repos[REPO].was[0][:12]} (#1)",
            "initial commit",
        ]
        assert (done.pull_request, hub.repos[REPO].pulls[0].status) == (1, "merged")

    def test_in_several_commits_where_there_is_much(
        self, hub: HubDouble, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shared.hub.staging.BATCH_FILES", 1)
        send(hub, release)
        assert len(hub.asked("POST", "/commit/")) == 3
        assert len(hub.repos[REPO].was) == 2

    def test_again_sends_nothing_and_makes_no_commit_and_no_tag(
        self, hub: HubDouble, release: Path
    ) -> None:
        first = send(hub, release)
        hub.requests.clear()
        again = send(hub, release)
        assert (again.unchanged, again.bytes_sent, again.revision) == (True, 0, first.revision)
        assert again.version == first.version == "v1"
        assert {r.method for r in hub.requests} == {"GET"}
        assert hub.repos[REPO].tags == {"v1": first.revision}

    def test_a_changed_card_sends_the_card_alone(self, hub: HubDouble, release: Path) -> None:
        send(hub, release)
        before = hub.keeper.sent
        card = release / "README.md"
        card.write_text("---\nlicense: mit\n---\n# Card, changed\n", encoding="utf-8")
        done = send(hub, release, key=NEXT_KEY)
        assert done.bytes_sent == card.stat().st_size == hub.keeper.sent - before
        assert hub.files(REPO)["README.md"] == card.read_bytes()

    @pytest.mark.parametrize("title", ["DocIntel tax: tiny", "DocIntel legal: base-with-prompt"])
    def test_replaces_no_release_of_another_domain_or_rung(
        self, hub: HubDouble, release: Path, title: str
    ) -> None:
        send(hub, release)
        before = hub.files(REPO)
        (release / "config.json").write_text('{"other": 1}')
        other = Order(release, NEXT_KEY, title)
        with pytest.raises(UserError, match="main holds 'DocIntel legal: tiny', and this is"):
            publish(other, REPO, endpoint=hub.url)
        assert hub.files(REPO) == before
        assert "and this is" in str(plan(other, REPO, endpoint=hub.url).against)
        publish(replace(other, overwrite=True), REPO, endpoint=hub.url)
        assert hub.files(REPO)["config.json"] == b'{"other": 1}'

    def test_takes_away_what_the_folder_has_no_more(self, hub: HubDouble, release: Path) -> None:
        send(hub, release)
        (release / WEIGHTS).unlink()
        assert not send(hub, release, key=NEXT_KEY).unchanged
        assert set(hub.files(REPO)) == {".gitattributes", "README.md", "config.json"}

    def test_reads_a_listing_that_comes_in_pages(self, hub: HubDouble, release: Path) -> None:
        hub.page = 2
        send(hub, release)
        assert send(hub, release).unchanged

    def test_privately_makes_a_private_repository(self, hub: HubDouble, release: Path) -> None:
        send(hub, release, private=True)
        assert hub.repos[REPO].private

    def test_privately_to_a_public_repository_is_refused(
        self, hub: HubDouble, release: Path
    ) -> None:
        hub.add(REPO, {})
        assert "is public already" in refused(hub, release, private=True)
        assert not hub.asked("POST")


class TestAVersion:
    def test_is_the_next_number_on_the_hub(self, hub: HubDouble, release: Path) -> None:
        assert send(hub, release).version == "v1"
        (release / "config.json").write_text('{"new": 1}', encoding="utf-8")
        second = send(hub, release, key=NEXT_KEY)
        assert second.version == "v2"
        assert hub.repos[REPO].tags["v2"] == second.revision

    def test_that_someone_took_a_moment_ago_is_stepped_over(
        self, hub: HubDouble, release: Path
    ) -> None:
        def take(double: HubDouble) -> None:
            double.repos[REPO].tags["v1"] = double.repos[REPO].was[0]

        hub.faults = [Fault("POST", "/tag/", how="then", do=take)]
        assert send(hub, release).version == "v2"

    def test_that_is_stated_is_the_tag(self, hub: HubDouble, release: Path) -> None:
        assert send(hub, release, version="1.2.0").version == "v1.2.0"
        assert send(hub, release, version="1.2.0").unchanged

    def test_that_is_taken_by_other_content_is_refused_before_anything_is_sent(
        self, hub: HubDouble, release: Path
    ) -> None:
        send(hub, release, version="1.2.0")
        (release / "config.json").write_text('{"new": 1}', encoding="utf-8")
        sent = hub.keeper.sent
        assert "v1.2.0 is published with other content; raise publish.version" in refused(
            hub, release, key=NEXT_KEY, version="1.2.0"
        )
        assert hub.keeper.sent == sent and len(hub.repos[REPO].pulls) == 1

    def test_of_content_that_came_back_is_a_new_number(self, hub: HubDouble, release: Path) -> None:
        config = release / "config.json"
        for text, key in (("{}", KEY), ('{"new": 1}', NEXT_KEY), ("{}", KEY)):
            config.write_text(text, encoding="utf-8")
            done = send(hub, release, key=key)
        assert (done.version, done.unchanged) == ("v3", False)


class TestSomeoneElse:
    def edit(self, hub: HubDouble) -> None:
        hub.repos[REPO].write({"README.md": b"by hand"}, "Fix a typo")

    def change(self, release: Path) -> None:
        (release / "config.json").write_text('{"new": 1}', encoding="utf-8")

    def test_who_edited_main_is_not_overwritten_unasked(
        self, hub: HubDouble, release: Path
    ) -> None:
        send(hub, release)
        self.edit(hub)
        sentence = refused(hub, release, key=NEXT_KEY)
        assert "main holds a change that no release made ('Fix a typo' by someone)" in sentence
        assert "publish with --overwrite to replace it" in sentence
        assert hub.files(REPO)["README.md"] == b"by hand" and len(hub.repos[REPO].pulls) == 1

    def test_is_overwritten_when_that_is_wanted_and_forgotten_then(
        self, hub: HubDouble, release: Path
    ) -> None:
        send(hub, release)
        self.edit(hub)
        assert send(hub, release, overwrite=True).version == "v1"
        assert on_the_hub(hub) == on_disk(release)
        self.change(release)
        assert send(hub, release, key=NEXT_KEY).version == "v2"

    def test_who_made_the_repository_is_not_overwritten_unasked(
        self, hub: HubDouble, release: Path
    ) -> None:
        hub.add(REPO, {})
        self.edit(hub)
        assert "no release made" in refused(hub, release)

    def test_who_writes_while_we_stage_is_seen_before_the_merge(
        self, hub: HubDouble, release: Path
    ) -> None:
        send(hub, release)
        self.change(release)
        hub.faults = [Fault("POST", "/commit/", how="then", do=self.edit)]
        assert "main was changed by someone else since pull request #2 was opened" in refused(
            hub, release, key=NEXT_KEY
        )
        assert hub.files(REPO)["README.md"] == b"by hand"
        assert not hub.asked("POST", "/2/merge")
        assert "main was changed by someone else" in refused(hub, release, key=NEXT_KEY)
        sent = hub.keeper.sent
        done = send(hub, release, key=NEXT_KEY, overwrite=True)
        assert on_the_hub(hub) == on_disk(release) and done.version == "v2"
        assert hub.repos[REPO].pulls[1].status == "closed"
        assert hub.keeper.sent - sent == sum(
            len(hub.files(REPO)[n]) for n in ("config.json", "README.md")
        )

    def test_who_writes_in_the_moment_of_the_merge_is_seen_after_it(
        self, hub: HubDouble, release: Path
    ) -> None:
        send(hub, release)
        self.change(release)
        hub.faults = [Fault("POST", "/merge", how="then", do=self.edit)]
        assert "in the moment of the merge (README.md); it is not tagged" in refused(
            hub, release, key=NEXT_KEY
        )
        assert set(hub.repos[REPO].tags) == {"v1"}
        assert "no release made ('Fix a typo'" in refused(hub, release, key=NEXT_KEY)
        assert send(hub, release, key=NEXT_KEY, overwrite=True).version == "v2"

    def test_with_a_pull_request_under_our_title_is_left_alone(
        self, hub: HubDouble, release: Path
    ) -> None:
        start = hub.add(REPO, {})
        title = f"DocIntel legal: tiny, release {KEY} over {start[:12]}"
        hub.repos[REPO].pulls.append(Pull(1, title, "stranger", start))
        hub.repos[REPO].refs["refs/pr/1"] = start
        assert send(hub, release).pull_request == 2
        assert hub.repos[REPO].pulls[0].status == "draft"

    def test_who_writes_to_the_pull_request_after_it_was_checked_is_seen(
        self, hub: HubDouble, release: Path
    ) -> None:
        def push(double: HubDouble) -> None:
            repo = double.repos[REPO]
            tree = dict(repo.at("refs/pr/1")[1])
            del tree["config.json"]
            repo.commit(tree, "refs/pr/1", "a push", "someone")

        hub.faults = [Fault("GET", "/discussions/1", how="then", do=push, skip=1)]
        assert "was changed by someone after it was checked" in refused(hub, release)
        assert on_the_hub(hub) == {}


class TestAnOlderPullRequest:
    def leave(self, hub: HubDouble, release: Path) -> None:
        """A run that is refused in the middle leaves its pull request open."""
        hub.faults = [Fault("POST", "/merge", 403)]
        refused(hub, release)
        assert hub.repos[REPO].pulls[0].status == "open"

    def test_of_this_release_is_continued(self, hub: HubDouble, release: Path) -> None:
        self.leave(hub, release)
        sent = hub.keeper.sent
        assert send(hub, release).pull_request == 1
        assert hub.keeper.sent == sent

    def test_of_another_release_is_closed_with_a_word(
        self, hub: HubDouble, release: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.leave(hub, release)
        (release / "config.json").write_text('{"new": 1}', encoding="utf-8")
        sent = hub.keeper.sent
        assert send(hub, release, key=NEXT_KEY).pull_request == 2
        assert hub.repos[REPO].pulls[0].status == "closed"
        assert "closed pull request #1: overtaken by #2" in capsys.readouterr().err
        assert hub.keeper.sent - sent < 1000  # the weights are in the store

    def test_that_someone_closed_is_followed_by_a_new_one(
        self, hub: HubDouble, release: Path
    ) -> None:
        self.leave(hub, release)
        hub.repos[REPO].pulls[0].status = "closed"
        assert send(hub, release).pull_request == 2


class TestADryRun:
    def test_writes_nothing_and_tells_what_would_change(
        self, hub: HubDouble, release: Path
    ) -> None:
        send(hub, release)
        hub.requests.clear()
        (release / "config.json").write_text('{"new": 1}', encoding="utf-8")
        (release / "more.txt").write_text("more", encoding="utf-8")
        (release / WEIGHTS).unlink()
        found = plan(order(release, NEXT_KEY), REPO, endpoint=hub.url)
        todo = found.difference
        assert [file.name for file in todo.added] == ["more.txt"]
        assert [file.name for file in todo.changed] == ["config.json"]
        assert todo.deleted == [WEIGHTS]
        assert [file.name for file in todo.unchanged] == ["README.md"]
        assert (found.left_to_send, found.version, found.against) == (14, "v2", None)
        assert {r.method for r in hub.requests} == {"GET"}
        text = plan_table(found)
        assert "14 B at most" in text and "nothing was written" in text

    def test_of_a_new_repository_does_not_make_it(self, hub: HubDouble, release: Path) -> None:
        found = plan(order(release, private=True), REPO, endpoint=hub.url)
        assert (found.is_new, found.private, found.version) == (True, True, "v1")
        assert not hub.repos and "(private, new)" in plan_table(found)

    def test_counts_only_what_a_died_run_left_to_send(self, hub: HubDouble, release: Path) -> None:
        TestAnOlderPullRequest().leave(hub, release)
        found = plan(order(release), REPO, endpoint=hub.url)
        assert (found.continues, found.left_to_send) == (1, 0)

    def test_says_what_stands_against_it(self, hub: HubDouble, release: Path) -> None:
        hub.add(REPO, {})
        hub.repos[REPO].write({"README.md": b"by hand"}, "Fix a typo")
        found = plan(order(release), REPO, endpoint=hub.url)
        assert "no release made" in str(found.against)
        assert "refused" in plan_table(found)

    def test_of_what_is_there_names_its_version(self, hub: HubDouble, release: Path) -> None:
        send(hub, release)
        found = plan(order(release), REPO, endpoint=hub.url)
        assert (bool(found.difference), found.version, found.left_to_send) == (False, "v1", 0)


class TestACollection:
    def test_holds_every_model_once_and_names_its_version(
        self, hub: HubDouble, release: Path
    ) -> None:
        hub.add(REPO, {})
        hub.add("acme/other", {})
        entries = [Entry(REPO, "legal, v1"), Entry("acme/other", "tax, v4")]
        for _ in range(2):
            url, names = renew_collection("acme", "DocIntel", entries, endpoint=hub.url)
        assert names == [f"{REPO} (legal, v1)", "acme/other (tax, v4)"]
        assert url.startswith(f"{hub.url}/collections/acme/docintel")
        _, names = renew_collection(
            "acme", "DocIntel", [Entry(REPO, "legal, v2")], endpoint=hub.url
        )
        assert names == [f"{REPO} (legal, v2)", "acme/other (tax, v4)"]

    def test_with_a_model_that_is_not_there_is_one_sentence(self, hub: HubDouble) -> None:
        with pytest.raises(UserError, match="404: acme/none: not found"):
            renew_collection("acme", "DocIntel", [Entry("acme/none", "")], endpoint=hub.url)
