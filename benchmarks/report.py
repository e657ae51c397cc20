"""The page of results: its size, the time to make it, and the time a browser takes to open it."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
METHODS, MODELS = 12, 64
OPENINGS = 5
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def page() -> str:
    """The page of 12 methods with 64 models each, as one line."""
    sys.path.insert(0, str(ROOT / "tests" / "reporting"))
    from page_cases import SIZES, large_run

    from mu_jax import page

    run = large_run(METHODS, MODELS)
    seconds = []
    for _ in range(2):  # the first one compiles KLoM and starts the library that draws
        start = time.perf_counter()
        text = page.render([run])
        seconds.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.html")
        path.write_text(text, encoding="utf-8")
        opened = _opened(path)
    return (
        f"page of {METHODS} methods, {MODELS} models, {sum(SIZES.values()):,} examples: "
        f"{len(text.encode()) / 1e6:.2f} MB; made in {seconds[1]:.1f} s, the first in "
        f"{seconds[0]:.1f} s; {opened}"
    )


def _opened(path: Path) -> str:
    """How long a headless browser takes to load the page, and to draw its charts."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return "not opened: needs the package playwright"
    if browser is None:
        return "not opened: needs Chromium on the path"
    loaded, drawn = [], []
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(OPENINGS):
            found = chromium.new_page(viewport={"width": 1400, "height": 900})
            found.goto(path.as_uri(), wait_until="load")
            loaded.append(found.evaluate(LOADED) / 1000)
            start = time.perf_counter()
            charts = found.locator(".chart")
            for place in range(charts.count()):
                charts.nth(place).scroll_into_view_if_needed()
                found.wait_for_function(
                    "place => ['drawn', 'failed'].includes(place.dataset.state)",
                    arg=charts.nth(place).element_handle(),
                )
            drawn.append(time.perf_counter() - start)
            found.close()
        chromium.close()
    return (
        f"opened in {statistics.median(loaded):.2f} s, all charts drawn in "
        f"{statistics.median(drawn):.1f} s more"
    )
