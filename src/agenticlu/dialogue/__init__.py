"""The chain of clarifications: its steps, its wordings, how replies are read, and `ask`."""
