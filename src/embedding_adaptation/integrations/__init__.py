"""The embedder in the terms of other libraries: a module for each, which needs its library; this package imports none of them."""
