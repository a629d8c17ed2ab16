"""Getting a machine ready, and saying in one table what it still lacks.

>>> from shared.setup.browser import find_browser
>>> from shared.setup.doctor import check, render
"""
