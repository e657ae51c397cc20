"""The page of results: one HTML file that needs neither a server nor a network."""

from mu_jax.page.render import render

__all__ = ["render"]
