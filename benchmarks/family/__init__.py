"""A family's 4-bit base with adapters beside merged releases of the same domains; docs/family.md."""
