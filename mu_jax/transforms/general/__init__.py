"""Methods for models of any kind: their sets are inputs with targets."""
