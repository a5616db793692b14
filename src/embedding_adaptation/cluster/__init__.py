"""Embedding, augmentation and training on a Ray cluster, for which the extra ``cluster`` is needed; the only place that knows Ray."""
