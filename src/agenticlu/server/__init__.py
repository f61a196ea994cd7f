"""The OpenAI-compatible server over any engine."""
