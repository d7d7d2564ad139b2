"""Soaks: what durable sessions promise, under kills, freezes and outages, for minutes. `python -m tests.soaks NAME`.

Each prints what it measured and fails where a promise was broken. Short forms of them are among the tests.
"""
