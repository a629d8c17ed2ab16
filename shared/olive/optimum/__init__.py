"""The second recipe: Hugging Face Optimum's export with past, then 4 bits; in its own environment.

>>> from shared.olive.optimum.recipe import build_optimum
"""
