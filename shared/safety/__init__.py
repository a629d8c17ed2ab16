"""Checks of third parties' files, and of a folder about to be published. See docs/threat-model.md."""
