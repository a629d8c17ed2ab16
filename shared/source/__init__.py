"""A rung's weights as a local folder: where they come from, and whether they can be used."""
