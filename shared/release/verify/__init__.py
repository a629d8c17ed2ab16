"""Verification of a third party's release: from its own files alone, trusting none of them.

>>> from shared.release.verify.report import verify
>>> lines = verify("models/legal/webgpu")            # or "org/name", "org/name@v1.0.0"
"""
