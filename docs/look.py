"""Look at the built site in a real browser: ``python docs/look.py docs/_build/html``.

It opens every page at the width of a desktop and of a phone and finds what overflows,
images that do not load, errors on the console and requests that leave this machine;
it searches for a word, and keeps pictures of some pages, light and dark. Needs Chromium
with its driver, and selenium, and fails without them.
"""

import argparse
import functools
import http.server
import pathlib
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

WIDTHS = {"desktop": (1400, 900), "phone": (390, 844)}
PICTURED = {"index", "cells", "api/cells", "performance", "concepts", "errors"}
SEARCHED = "reset"

# What sticks out of the window, and is not inside of a box that scrolls or clips it.
PROBE = """
const root = document.documentElement, wide = root.clientWidth, found = [];
if (root.scrollWidth > wide + 1)
  found.push(`the page is ${root.scrollWidth} wide in a window of ${wide}`);
const held = e => {
  for (let p = e.parentElement; p; p = p.parentElement) {
    const style = getComputedStyle(p);
    if (/(auto|scroll|hidden|clip)/.test(style.overflowX)
        || style.position === "fixed") return true;
  }
  return false;
};
for (const e of document.querySelectorAll("article *, footer *")) {
  const box = e.getBoundingClientRect();
  if (box.width && box.right > wide + 1 && !held(e)) {
    found.push(`<${e.tagName.toLowerCase()}> sticks out by `
      + `${Math.round(box.right - wide)} px: ${e.textContent.trim().slice(0, 60)}`);
    break;
  }
}
for (const e of document.images)
  if (!e.complete || !e.naturalWidth) found.push(`${e.src} does not load`);
for (const e of performance.getEntriesByType("resource"))
  if (new URL(e.name).host !== location.host && !e.name.startsWith("data:"))
    found.push(`${e.name} is fetched from elsewhere`);
return found;
"""


def main() -> int:
    """The number of findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=pathlib.Path)
    parser.add_argument("--pictures", type=pathlib.Path, help="folder for screenshots")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        print("chromium and chromedriver are not on the PATH: install them both")
        return 1
    pictures = arguments.pictures or arguments.site.parent / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    with (
        _served(arguments.site) as address,
        _browser(chromium, chromedriver) as browser,
    ):
        findings = list(_findings(browser, address, arguments.site, pictures))
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings; pictures in {pictures}")
    return min(len(findings), 1)


def _findings(browser, address, site, pictures) -> Iterator[str]:
    pages = sorted(
        str(path.relative_to(site))
        for path in site.rglob("*.html")
        if path.relative_to(site).parts[0] not in ("_modules", "_static")
    )
    for device, size in WIDTHS.items():
        _resize(browser, *size)
        for page in pages:
            browser.get(f"{address}/{page}")
            said = [entry["message"] for entry in browser.get_log("browser")]
            for finding in [*browser.execute_script(PROBE), *said]:
                yield f"{page} ({device}): {finding}"
            stem = page.removesuffix(".html")
            for theme in ("light", "dark") if stem in PICTURED else ():
                browser.execute_script(
                    "document.body.dataset.theme = arguments[0]", theme
                )
                name = f"{stem.replace('/', '-')}-{device}-{theme}.png"
                browser.save_screenshot(str(pictures / name))
    yield from _search(browser, address)


def _search(browser, address) -> Iterator[str]:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(f"{address}/search.html?q={SEARCHED}")
    try:
        WebDriverWait(browser, 10).until(
            lambda b: b.find_elements(By.CSS_SELECTOR, "ul.search li a")
        )
    except Exception:
        yield f"search.html: nothing is found for {SEARCHED!r}"


def _resize(browser, width: int, height: int) -> None:
    # A window cannot be as narrow as a phone; its page can.
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1,
         "mobile": width < 600},
    )  # fmt: skip


@contextmanager
def _browser(chromium: str, chromedriver: str):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "WARNING"})
    with tempfile.TemporaryDirectory() as profile:
        for flag in (
            "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
            "disable-background-networking", "disable-component-update",
            "disable-sync", "hide-scrollbars", "disable-dev-shm-usage",
            f"user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(f"--{flag}")
        service = webdriver.ChromeService(chromedriver)
        browser = webdriver.Chrome(options, service)
        try:
            yield browser
        finally:
            browser.quit()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@contextmanager
def _served(folder: pathlib.Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


if __name__ == "__main__":
    sys.exit(main())
