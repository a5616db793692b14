"""Vectors over HTTP: one exported model behind OpenAI's and text-embeddings-inference's interfaces."""
