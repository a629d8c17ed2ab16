"""One collection on the Hub for all the models: made once, then only brought up to date.

>>> renew_collection("acme", "DocIntel", [Entry("acme/docintel-legal-...", "legal, v3")])
('https://huggingface.co/collections/acme/docintel-…', ['acme/docintel-legal-... (legal, v3)'])
"""

import time
from dataclasses import dataclass
from functools import partial

from huggingface_hub import Collection, HfApi

from shared.base.environment import without_password
from shared.hub.client import single_tries
from shared.hub.retries import Hub, Sleep
from shared.hub.token import hub_token

DESCRIPTION = "Fine-tuned small language models, 4-bit ONNX for WebGPU, each with measured tables."
"""At most 150 characters, as the Hub wants it."""


@dataclass(frozen=True)
class Entry:
    """A model, and the note beside it."""

    repo_id: str
    note: str


def renew_collection(
    owner: str,
    title: str,
    entries: list[Entry],
    *,
    private: bool = False,
    endpoint: str | None = None,
    sleep: Sleep = time.sleep,
) -> tuple[str, list[str]]:
    """Its URL and all that is in it, also what somebody else put there. Safe to do twice."""
    hub = Hub(HfApi(endpoint=endpoint, token=hub_token()), f"{owner}/{title}", True, sleep=sleep)
    with single_tries():
        made = hub.call(
            lambda: hub.api.create_collection(
                title, namespace=owner, description=DESCRIPTION, private=private, exists_ok=True
            )
        )
        for entry in entries:
            made = hub.call(partial(_put, hub, made.slug, entry))
    return without_password(made.url), [
        f"{i.item_id} ({i.note})" if i.note else i.item_id for i in made.items
    ]


def _put(hub: Hub, slug: str, entry: Entry) -> Collection:
    there = hub.api.get_collection(slug)
    item = next((item for item in there.items if item.item_id == entry.repo_id), None)
    if item is None:
        hub.api.add_collection_item(slug, entry.repo_id, "model", note=entry.note, exists_ok=True)
    elif item.note != entry.note:
        hub.api.update_collection_item(slug, item.item_object_id, note=entry.note)
    else:
        return there
    return hub.api.get_collection(slug)
