"""Worked examples beside the release path: nothing in shared/ needs them."""
