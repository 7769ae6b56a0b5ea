"""A real browser, headless: pages are opened in it, pressed and photographed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@contextmanager
def browser(*, width: int = 1400, height: int = 900) -> Iterator[Chrome]:
    """Chromium with a fresh profile; what its pages log is kept."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    try:
        emulate(driver, width, height)
        yield driver
    finally:
        driver.quit()


def emulate(driver: Chrome, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
    """Give the page a size, and the colours that its reader prefers."""
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    prefers: dict[str, Any] = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [prefers]})


def open_file(driver: Chrome, path: Path) -> None:
    """Open a page from a file; its script has run when this returns."""
    driver.get(path.as_uri())
