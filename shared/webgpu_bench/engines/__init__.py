"""The same questions to other engines on the same machine, one module each.

Each module has one function, `run(job) -> EngineRun`; what cannot run here raises RungFailed with the
reason, which ends that engine's row and nothing else.
"""
