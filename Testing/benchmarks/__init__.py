"""Measure the engine beside its peers: ``python -m benchmarks --help``.

Every contender lives in a process of its own (``contenders/``, run by its own Python), is driven over a pipe and watched
from outside (``session.py``). ``cases/`` say what is compared and what was aimed at, ``table.py`` writes it down.
Nothing is imported here: a contender's Python may have neither this project's needs nor the peers'.
"""
