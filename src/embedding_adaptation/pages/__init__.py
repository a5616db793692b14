"""Self-contained HTML pages: what people look at after a run."""
