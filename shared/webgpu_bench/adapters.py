"""An adapter's name as a person reads it."""

from __future__ import annotations

from shared.webgpu_bench.result import Adapter


def adapter_name(adapter: Adapter) -> str:
    """The longest of what the adapter says of itself: Firefox and Chrome fill different fields."""
    named = adapter.description or adapter.device or adapter.architecture or adapter.vendor
    nameless = "a software adapter" if adapter.is_fallback else "an adapter"
    return named or f"{nameless} that the browser does not name"
