"""A real browser, headless, and what it sees of pannier's page."""
import json
import tempfile

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

from .net import HOST
from .wait import until

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
ARGUMENTS = [
    "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--no-sandbox",  # root can't have one
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOST}",
]
WIDE, PHONE = (1200, 900), (360, 740)

# Every piece of text that can be read, with its colour and what it lies on.
CONTRAST = r"""
const channels = (c) => c.match(/[\d.]+/g).map(Number);
const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
function ground(node) {
  for (; node; node = node.parentElement) {
    const c = channels(getComputedStyle(node).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c;
  }
  return [255, 255, 255];
}
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.data.trim(), node = walker.currentNode.parentElement;
  if (!text || !node.checkVisibility() || node.closest(":disabled, .visually-hidden, .skip, noscript")) continue;
  const style = getComputedStyle(node), colour = node.closest("svg") ? style.fill : style.color;
  const a = light(channels(colour)), b = light(ground(node));
  found.push([text, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
}
return found;
"""


class Browser:
    """One for a whole run; page(pannier) opens it anew."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="browser-")
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in [*ARGUMENTS, f"--user-data-dir={self.profile.name}"]:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def close(self):
        self.driver.quit()
        self.profile.cleanup()

    def page(self, pannier, view="", size=WIDE, dark=False):
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        page = Page(self.driver, f"http://{HOST}:{pannier.admin_port}/")
        page.size(*size)
        page.dark(dark)
        self.driver.get(f"{page.origin}#/{view}")
        return page


class Page:
    def __init__(self, driver, origin):
        self.driver = driver
        self.origin = origin

    # How it is looked at --------------------------------------------------------------------------

    def size(self, width, height):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})

    def dark(self, on):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]})

    def show(self, view):
        self.js("location.hash = '#/' + arguments[0]", view)

    # What it shows --------------------------------------------------------------------------------

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def text(self, css="body"):
        """What can be read there; "" where there is nothing such."""
        try:
            return self.driver.find_element("css selector", css).text
        except (NoSuchElementException, StaleElementReferenceException):
            return ""

    def wait_text(self, text, css="body"):
        until(lambda: text in self.text(css), f"the page says {text!r} in {css}")

    def has(self, css):
        return bool(self.driver.find_elements("css selector", css))

    def find(self, css, text=None):
        """The one that can be seen, with this text where that is said; waits for it."""
        def look():
            try:
                found = [e for e in self.driver.find_elements("css selector", css)
                         if e.is_displayed() and (text is None or e.text.startswith(text))]
            except StaleElementReferenceException:
                return None
            return found[0] if found else None

        return until(look, f"there is {css} {text or ''}")

    def rows(self, caption):
        """Cells by row of the table that is called so."""
        return self.js("""
            const table = [...document.querySelectorAll("main .table table")]
              .find((t) => t.caption.textContent === arguments[0] && !t.hidden);
            return table ? [...table.tBodies[0].rows].map((r) => [...r.cells].map((c) => c.textContent)) : [];
        """, caption)

    # What is done with it -------------------------------------------------------------------------

    def click(self, css, text=None):
        self.find(css, text).click()

    def press(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self):
        """What has the focus: its name for people."""
        return self.js("""
            const e = document.activeElement;
            return e === document.body ? "" : e.textContent.trim() || e.getAttribute("aria-label") || e.id;
        """)

    def tab_to(self, name, most=60):
        """With the keyboard alone, seeing all the way where one is."""
        for _ in range(most):
            self.press(Keys.TAB)
            outline = self.js("""
                const style = getComputedStyle(document.activeElement);
                return document.activeElement === document.body ? "body" : style.outlineStyle + style.outlineWidth;
            """)
            assert outline not in ("none0px", "body") and not outline.startswith("none"), (self.focused(), outline)
            if self.focused().startswith(name):
                return
        raise AssertionError(f"TAB doesn't come to {name}; it ended at {self.focused()}")

    # What may not be ------------------------------------------------------------------------------

    def contrasts(self):
        """(text, contrast) of all that can be read."""
        return self.js(CONTRAST)

    def overflow(self):
        """By how much it is too wide, and what is."""
        return self.js("""
            const wide = document.documentElement.clientWidth;
            return document.documentElement.scrollWidth <= wide ? [] : [...document.querySelectorAll("body *")]
              .filter((e) => e.getBoundingClientRect().right > wide).map((e) => e.outerHTML.slice(0, 120));
        """)

    def asked(self):
        """Addresses that were asked for since the page was opened, data: left out."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"
                and not m["params"]["request"]["url"].startswith("data:")]

    def complaints(self):
        """What the console says, without replies that are no 200: those are told on the page."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["source"] != "network"]
