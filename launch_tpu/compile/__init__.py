"""Programs compiled for a slice that is not there: memory, operations, messages, cost."""
