"""Tools for assistants, by the Model Context Protocol: ask documents, read them, list them."""
