"""Fine-tune the embedded model on a domain's training records, in about a quarter of an hour."""
