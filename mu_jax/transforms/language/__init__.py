"""Methods for language models: their sets are rows of tokens."""
