"""A search on many machines: immutable segments, their union, sealing, and Ray."""
