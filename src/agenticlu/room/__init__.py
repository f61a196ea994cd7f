"""The reading room: documents beside the answers about them; history; export."""
