"""Vectors as matrices: neighbours, clusters, criteria, and stores that are read one block at a time."""
