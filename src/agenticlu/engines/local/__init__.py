"""Models in this process: transformers weights, batched decoding, one cache of keys and values."""
