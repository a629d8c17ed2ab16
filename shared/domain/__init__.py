"""A domain folder, read strictly: what a domain is stands in domains/<name>/ and nowhere else."""
