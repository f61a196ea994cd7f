"""The dialogue: its steps, wordings and driver, how replies are read, and `ask`."""
