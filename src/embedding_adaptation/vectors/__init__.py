"""Vectors as matrices: neighbours, clusters, criteria, and stores that are read a block at a time."""
