"""Generators of candidate pairs: each module defines a :class:`~.request.Generator` named ``GENERATOR``."""
