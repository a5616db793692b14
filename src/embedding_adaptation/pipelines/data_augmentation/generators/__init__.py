"""Generators of candidate pairs, one module each, all with the signature of :class:`~.request.Generator`."""
