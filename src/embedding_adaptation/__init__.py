"""Turn any small decoder-only LLM into a text embedding model that fits your texts."""
