"""A rung through its stages, the chain of rungs, one domain, many domains, publication."""
