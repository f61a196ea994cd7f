"""The demo: a synthetic world, a tiny model that knows it, and the whole loop on them."""
