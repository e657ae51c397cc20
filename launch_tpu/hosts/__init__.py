"""Hosts for one job: what to run on them, the commands that make them, and their end."""
