"""Read the YAML front matter of a model card, ours or a third party's.

>>> read_front_matter("---\\nlicense: mit\\n---\\n# A model")
{'license': 'mit'}
"""

from typing import Any

import yaml

LARGEST_YAML = 100_000


def read_front_matter(card: str) -> dict[str, Any]:
    """The front matter of a card as plain values; ValueError with a sentence where it has none."""
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    block = REGEX_YAML_BLOCK.search(card)
    head = block[2] if block else ""
    if len(head) > LARGEST_YAML:
        raise ValueError("the front matter is too large")
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(head)):
            raise ValueError("an alias stands in it, which can unfold without end")
        _need_single_keys(yaml.compose(head, yaml.SafeLoader))
        found = ModelCard(card)
    except Exception as error:  # yaml's errors, huggingface_hub's ValueErrors and TypeErrors
        raise ValueError(f"front matter: {' '.join(str(error).split())[:200]}") from None
    if not card.startswith("---\n") or not found.data.to_dict():
        raise ValueError("has no front matter")
    return dict(found.data.to_dict())


def _need_single_keys(node: yaml.Node | None) -> None:
    """ValueError where a key stands twice: one reader would take the first, another the last."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    keys = [str(key.value) for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"the key {twice!r} stands twice")
    items = node.value if isinstance(node, yaml.SequenceNode) else [value for _, value in pairs]
    for item in items:
        _need_single_keys(item)
