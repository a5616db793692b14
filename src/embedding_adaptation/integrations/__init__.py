"""The embedder in the terms of other libraries, one module for each; each needs its library, and this package imports none of them."""
