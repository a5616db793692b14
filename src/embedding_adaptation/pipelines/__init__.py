"""The pipelines, one a folder."""
