"""Measures the page of a long episode in Chromium: its size, how long it takes to open, and how smoothly it scrolls.

Usage: ``python -m tools.measure_page [TOKENS]``. Needs Chromium and its driver.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.viewing.browser import browser
from tools.sample_episodes import long_episode

SCROLL = """
const done = arguments[0], frames = [], step = Math.max(80, document.documentElement.scrollHeight / 600);
let last = performance.now();
const next = (now) => {
  frames.push(now - last);
  last = now;
  scrollBy(0, step);
  const { scrollTop, scrollHeight } = document.documentElement;
  if (scrollTop + innerHeight < scrollHeight - 1) requestAnimationFrame(next); else done(frames.slice(1));
};
requestAnimationFrame(next);
"""


def main() -> None:
    """Measure and print."""
    env, trajectory = long_episode(int(sys.argv[1]) if len(sys.argv) > 1 else 30_000)
    page = trajectory.to_html(env).encode()
    with browser() as driver, tempfile.TemporaryDirectory() as folder:
        driver.set_script_timeout(600)
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        path = Path(folder, "page.html")
        path.write_bytes(page)
        driver.get(path.as_uri())
        took = driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        busy = next(one["value"] for one in metrics(driver) if one["name"] == "TaskDuration")
        frames = sorted(driver.execute_async_script(SCROLL))
    print(f"{len(trajectory.tokens):,} tokens, {len(page):,} bytes")
    print(f"open: {took:.0f} ms, of which the page's thread worked {1000 * busy:.0f} ms")
    middle, late = frames[len(frames) // 2], frames[int(len(frames) * 0.95)]
    print(f"scroll: {len(frames)} frames, median {middle:.1f} ms, 95 of 100 within {late:.1f} ms")


def metrics(driver: Any) -> list[dict[str, Any]]:
    """What the browser counts of the page."""
    found: list[dict[str, Any]] = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return found


if __name__ == "__main__":
    main()
