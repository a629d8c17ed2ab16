"""What the model answers, and how well."""
