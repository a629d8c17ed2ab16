"""What a stranger's file, or a folder about to be published, must not be. See docs/threat-model.md."""
