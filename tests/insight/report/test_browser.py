import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import IMAGE, QUOTE

pytestmark = pytest.mark.slow

Open = Callable[..., None]

DRAWN = "return document.querySelectorAll('[data-chart]').length === document.querySelectorAll('[data-drawn]').length"


@pytest.fixture
def opened(browser: Any, hostile_report: Path) -> Open:
    """Return a function that opens the report at a width, and waits until its charts are drawn."""

    def open_page(width: int = 1280, scheme: str = "light") -> None:
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(hostile_report.as_uri())
        wait(browser, DRAWN)

    return open_page


def wait(browser: Any, script: str) -> None:
    """Wait until a script returns true."""
    until = time.monotonic() + 20
    while not browser.execute_script(script):
        assert time.monotonic() < until, script
        time.sleep(0.05)


def test_nothing_is_complained_about_and_nothing_leaves_the_page(browser, opened: Open, hostile_report: Path) -> None:
    """The console is empty, and the one address that is asked for is the file itself (pictures in it are data)."""
    opened()
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith(("data:", "blob:"))} == {hostile_report.as_uri()}


def test_every_chart_is_drawn(browser, opened: Open) -> None:
    """Each has a picture with marks and a description."""
    opened()
    names = browser.execute_script("return [...document.querySelectorAll('[data-drawn]')].map(e => e.dataset.chart)")
    assert names == ["confusion", "calibration", "map", "layers", "learning-accuracy", "learning-loss"]
    for name in names:
        svg = browser.execute_script(f"return document.querySelector('[data-chart={name}] svg').outerHTML")
        assert "mark-" in svg
        assert browser.execute_script(f"return document.querySelector('[data-chart={name}] [aria-label]') !== null")


def test_hostile_names_are_text(browser, opened: Open) -> None:
    """Names that are markup make no element and run nothing; they can be read as they are."""
    opened()
    assert browser.execute_script("return document.querySelectorAll('img[src=x], [onerror], main b').length") == 0
    text = browser.execute_script("return document.body.innerText")
    assert IMAGE in text
    assert QUOTE in text
    alternatives = browser.execute_script("return [...document.querySelectorAll('img')].map(i => i.alt)")
    assert any(IMAGE in one for one in alternatives)
    labels = browser.execute_script("return document.querySelector('[data-chart=confusion]').textContent")
    assert QUOTE in labels


def test_no_script_but_its_own_runs(browser, opened: Open) -> None:
    """Where markup did get in, the page's policy stops what it would run, and what it would load."""
    opened()
    browser.execute_script(
        "window.ran = 0; const p = document.createElement('p');"
        'p.innerHTML = \'<img src="data:," onerror="ran = 1">\'; document.body.append(p);'
        "const s = document.createElement('script'); s.textContent = 'ran = 2'; document.body.append(s)"
    )
    time.sleep(0.3)
    assert browser.execute_script("return window.ran") == 0
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def column(browser: Any, index: int) -> list[float]:
    rows = "document.querySelectorAll('#leaderboard tbody tr')"
    keys = browser.execute_script(f"return [...{rows}].map(r => r.children[{index}].dataset.key)")
    return [float(key) for key in keys]


def test_tables_are_sorted_by_mouse(browser, opened: Open) -> None:
    """A click on a heading sorts by its numbers, another the other way round, and the heading says so."""
    opened()
    button = browser.find_elements("css selector", "#leaderboard th button")[2]
    head = button.find_element("xpath", "..")
    assert head.get_attribute("aria-sort") is None
    button.click()
    high = column(browser, 2)
    assert high == sorted(high, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    button.click()
    assert column(browser, 2) == sorted(high)
    assert len(set(high)) > 1
    assert head.get_attribute("aria-sort") == "ascending"
    browser.find_elements("css selector", "#leaderboard th button")[0].click()
    assert head.get_attribute("aria-sort") is None


@pytest.mark.parametrize("key", ["\ue007", " "], ids=["enter", "space"])
def test_tables_are_sorted_by_keyboard(browser, opened: Open, key: str) -> None:
    """A heading is reached by Tab, shows that it has the focus, and sorts by Enter and Space."""
    from selenium.webdriver.common.action_chains import ActionChains

    opened()
    browser.execute_script("document.querySelector('#leaderboard .wide').focus()")
    tab = "\ue004"
    ActionChains(browser).send_keys(tab, tab, tab, key).perform()
    focused = browser.switch_to.active_element
    assert focused.text.startswith("accuracy")
    assert focused.value_of_css_property("outline-style") != "none"
    values = column(browser, 2)
    assert values == sorted(values, reverse=True)
    assert focused.find_element("xpath", "..").get_attribute("aria-sort") == "descending"


def test_a_point_of_the_map_shows_its_image(browser, opened: Open) -> None:
    """The pointer on a point brings its picture, file and class, as text whatever they are called."""
    from selenium.webdriver.common.action_chains import ActionChains

    opened()
    chart = browser.find_element("css selector", "[data-chart=map]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    title = browser.find_element("css selector", "#map-title")
    seen = set()
    for point in chart.find_elements("css selector", ".mark-symbol.role-mark path")[:24]:
        ActionChains(browser, duration=20).move_to_element(title).move_to_element(point).move_by_offset(1, 0).perform()
        wait(browser, "return document.querySelector('#vg-tooltip-element.visible img') !== null")
        tip = browser.find_element("id", "vg-tooltip-element")
        (image,) = tip.find_elements("css selector", "img")
        assert image.get_attribute("src").startswith("data:image/")
        assert browser.execute_script("return arguments[0].naturalWidth", image) > 0
        assert ".png" in tip.text
        seen.add(next(name for name in (IMAGE, QUOTE, "plain") if name in tip.text))
    assert IMAGE in seen
    assert QUOTE in seen
    assert browser.execute_script("return document.querySelectorAll('img[src=x], #vg-tooltip-element b').length") == 0


def test_the_map_is_coloured_as_one_likes(browser, opened: Open) -> None:
    """A choice of split or error instead of class changes the legend."""
    opened()
    legend = "return [...document.querySelectorAll('[data-chart=map] .role-legend-label text')].map(t => t.textContent)"
    assert QUOTE in browser.execute_script(legend)
    browser.find_element("css selector", "[data-chart=map] input[value=error]").click()
    wait(browser, "return document.querySelector('[data-chart=map]').textContent.includes('wrong')")
    assert set(browser.execute_script(legend)) == {"not asked", "right", "wrong"}


@pytest.mark.parametrize("width", [360, 1280])
def test_an_audit_shows_copies_side_by_side(browser, opened: Open, width: int) -> None:
    """Both pictures of a leak are drawn beside each other with label, split and path, as text whatever these are."""
    opened(width)
    left, right = browser.find_elements("css selector", "#audit .cases li:first-child figure")[:2]
    assert left.rect["y"] == right.rect["y"]
    assert left.rect["x"] + left.rect["width"] < right.rect["x"]
    assert right.rect["x"] + right.rect["width"] <= width
    for figure in (left, right):
        (image,) = figure.find_elements("css selector", "img")
        assert browser.execute_script("return arguments[0].naturalWidth", image) > 0
    assert f"{IMAGE}, train" in left.text
    assert f"{QUOTE}, validation" in right.text
    assert f"images/copy {IMAGE}.png" in right.text
    text = browser.find_element("id", "audit").text
    assert f"images/torn {IMAGE}.png" in text
    assert "--apply drop.csv --out cleaned.csv" in text
    assert browser.execute_script("return document.querySelectorAll('#audit img[src=x], #audit [onerror]').length") == 0


def test_an_audit_is_printed_and_reached_by_keyboard(browser, opened: Open) -> None:
    """On paper no case is divided and no command cut off; tables and commands take the focus, to be scrolled."""
    opened()
    for region in browser.find_elements("css selector", "#audit [role=region]"):
        browser.execute_script("arguments[0].focus()", region)
        assert browser.switch_to.active_element == region
        assert region.value_of_css_property("outline-style") != "none"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        case = browser.find_element("css selector", "#audit .cases li")
        assert case.value_of_css_property("break-inside") == "avoid"
        assert browser.find_element("css selector", "#audit pre").value_of_css_property("white-space") == "pre-wrap"
        assert case.is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_any_width(browser, opened: Open, width: int, scheme: str) -> None:
    """At 360 pixels, and at 400 % zoom (320), nothing but a table in its own frame scrolls sideways."""
    opened(width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wide = browser.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.wide, pre') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    button = browser.find_elements("css selector", "#classes th button")[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser, opened: Open, scheme: str) -> None:
    """Text has a contrast of 4.5 to 1 at least to the page's ground, in charts too (WCAG 2.1, 1.4.3)."""
    opened(scheme=scheme)
    ratios = browser.execute_script(
        """
        const parts = (c) => c.match(/[\\d.]+/g).map(Number);
        const light = (c) => { const [r, g, b] = parts(c).slice(0, 3).map((v) => (v /= 255) <= 0.03928
          ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ground = light(getComputedStyle(document.body).backgroundColor);
        const ratio = (c) => { const l = light(c); return (Math.max(l, ground) + .05) / (Math.min(l, ground) + .05); };
        const found = [];
        for (const e of document.querySelectorAll('p, th, td, dt, dd, a, h1, h2, figcaption span, .kicker, label'))
          found.push([ratio(getComputedStyle(e).color), e.outerHTML.slice(0, 60)]);
        for (const e of document.querySelectorAll('.role-axis text, .role-legend text'))
          found.push([ratio(getComputedStyle(e).fill), e.outerHTML.slice(0, 60)]);
        return found.filter(([r]) => !(r >= 4.5));
        """
    )
    assert ratios == []


def test_a_screen_reader_finds_its_way(browser, opened: Open) -> None:
    """One title, sections named by their headings, captions, scopes, and words for every picture."""
    opened()
    missing = browser.execute_script(
        """
        return {
          title: document.querySelectorAll('h1').length - 1,
          language: document.documentElement.lang === 'en' ? 0 : 1,
          sections: [...document.querySelectorAll('section')].filter(
            (s) => !document.getElementById(s.getAttribute('aria-labelledby'))).length,
          captions: [...document.querySelectorAll('table')].filter(
            (t) => !t.closest('#vg-tooltip-element') && !t.caption).length,
          scopes: document.querySelectorAll('main th:not([scope])').length,
          pictures: document.querySelectorAll('img:not([alt]), img[alt=""]').length,
          links: [...document.querySelectorAll('nav a')].filter((a) => !document.querySelector(a.hash)).length,
        };
        """
    )
    assert set(missing.values()) == {0}, missing
