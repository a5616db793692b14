"""Generators of candidate pairs, one module each, with a :class:`~.request.Generator` by the name ``GENERATOR``."""
