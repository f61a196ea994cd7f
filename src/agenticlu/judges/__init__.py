"""Judges of answers: exact match, ROUGE, LLM panels, HELMET's rubrics, controls of judges."""
