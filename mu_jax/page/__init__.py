"""The page of results: one HTML file that needs neither a server nor a network."""

from mu_jax._extras import extra

with extra("report"):  # before the figures, which would name a smaller extra
    import altair  # noqa: F401
    import jinja2  # noqa: F401
    import vl_convert  # noqa: F401

from mu_jax.page.render import render

__all__ = ["render"]
