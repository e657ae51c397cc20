"""Launching on TPUs: what to start where, at what cost, and how to be rid of it."""
