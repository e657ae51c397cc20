"""Runs that are there to be compiled only."""
