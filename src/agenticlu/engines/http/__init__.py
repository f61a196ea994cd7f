"""OpenAI-compatible servers: what they offer, how each wants to be asked, what it replies."""
