"""The packaged model in a real browser: driven, measured, compared with the CPU."""
