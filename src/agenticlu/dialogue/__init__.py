"""The dialogue with a model about a document: steps, wordings, driver, reply parsing, `ask`."""
