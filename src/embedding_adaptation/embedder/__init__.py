"""The embedder: the library at the heart of the project, usable without Kedro."""
