"""Catalog datasets for base model, adapter, embeddings, texts and shards."""
