"""The operators' page in a real browser: what is clicked happens, what happened is seen."""
import urllib.parse

import pytest
from selenium.webdriver.common.keys import Keys

from support import pktline
from support.admin import Admin, tokens_file
from support.browser import PHONE, Browser
from support.faulty import Gate
from support.gitclient import Reader
from support.net import HOST
from support.wait import until

PATH, NAME = "public/simple", "origin/public/simple"
VIEWS = ("", "repositories", "nodes", "warmups", "events")
READ, OPERATE = "a-reader's-token", "an-operator's-token"
CONTRAST = 4.5  # WCAG 2, AA, for text


@pytest.fixture(scope="session")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def page(browser):
    """page(pannier, view) opens it; at the end it must have complained of nothing and asked nobody else."""
    opened = []

    def open(pannier, view="", **how):
        opened.append(browser.page(pannier, view, **how))
        return opened[-1]

    yield open
    for page in opened[-1:]:
        assert page.complaints() == []
        asked = page.asked()
        assert asked and all(url.startswith(page.origin) for url in asked), asked


def fill(pannier, git, path=PATH, clones=2):
    for _ in range(clones):
        git.clone(pannier.url_of(urllib.parse.quote(path)), "--mirror")
    admin = Admin(pannier)
    until(lambda: any(r["repo"] == f"origin/{path}" and r["mirror"] and r["answers"]
                      for r in admin.get("/repositories")["repositories"]), "answer and mirror are known")
    return admin


def view_of(name):
    upstream, _, path = name.partition("/")
    return f"repositories/{Admin(None).repository(f'{upstream}/{path}')}"


# Looking ---------------------------------------------------------------------------------------------


def test_the_overview_tells_how_it_goes(behind, upstream, git, simple, page):
    fill(behind, git)
    gate = upstream.on("fetch", Gate(after=40), times=1)
    behind.mirror(PATH).rename(behind.folder / "away")  # or it would answer
    reader = Reader(behind.port).post("/origin/public/simple.git/git-upload-pack",
                                      pktline.fetch([simple.oid()], extra=["deepen 2"]))
    gate.wait_held()
    page = page(behind)
    page.wait_text("50 %", ".figures")
    (row,) = until(lambda: page.rows("Requests under way"), "the request is seen")
    assert row[:3] == [NAME, "fetch", HOST]
    gate.open()
    reader.read_response()
    page.wait_text("No request is under way.")
    # The charts say the same in words, and as numbers.
    ratio, saved = page.driver.find_elements("css selector", "svg.chart")
    until(lambda: "33.3 %, 1 of 3 requests" in ratio.get_attribute("aria-label"), "the chart's words tell of it")
    assert saved.get_attribute("aria-label").startswith("Bytes saved over the last quarter of an hour: ")
    page.click("summary")
    page.wait_text("33.3 %", "figure:first-of-type .numbers")
    page.click("button", "24 h")
    until(lambda: "over the last day" in ratio.get_attribute("aria-label"), "the chart is of a day")
    reader.leave()


def test_repositories_are_found_sorted_and_turned_over(pannier, origin, git, simple, page):
    # Cheap ones: a request each, for the same objects under other names.
    (origin.folder / "repos/public/many").mkdir(exist_ok=True)
    for n in range(60):
        link = origin.folder / f"repos/public/many/r{n:02}.git"
        if not link.exists():
            link.symlink_to(simple.path)
        reader = Reader(pannier.port).post(f"/origin/public/many/r{n:02}.git/git-upload-pack",
                                           pktline.fetch([simple.oid()], extra=["deepen 1"]))
        assert reader.read_response()[0] == 200
        reader.leave()
    until(lambda: len(Admin(pannier).get("/repositories?limit=100")["repositories"]) == 60, "all are kept")
    page = page(pannier, "repositories")
    until(lambda: len(page.rows("Repositories")) == 50, "a page of them")
    page.click("th button", "Repository")
    until(lambda: page.rows("Repositories")[0][0].endswith("/r00"), "they are sorted by name")
    assert page.has('th[aria-sort="ascending"]')
    page.click("button", "Next")
    until(lambda: [row[0][-3:] for row in page.rows("Repositories")] == [f"r{n}" for n in range(50, 60)], "the rest")
    page.wait_text("Page 2")
    page.click("button", "Previous")
    until(lambda: len(page.rows("Repositories")) == 50, "the first page again")
    # Two of them are hit: one each time but the first, the other half of the times.
    for n, times in ((7, 2), (40, 1)):
        for _ in range(times):
            reader = Reader(pannier.port).post(f"/origin/public/many/r{n:02}.git/git-upload-pack",
                                               pktline.fetch([simple.oid()], extra=["deepen 1"]))
            reader.read_response()
            reader.leave()
    for title, descending in (("Hit ratio", ["66.7 %", "50 %", "0 %"]), ("Requests", ["3", "2", "1"])):
        column = [th.text for th in page.driver.find_elements("css selector", "th")].index(title)
        page.click("th button", title)
        until(lambda: [row[column] for row in page.rows("Repositories")][:3] == descending, f"the first by {title}")
        assert [row[0][-3:] for row in page.rows("Repositories")][:2] == ["r07", "r40"]
        assert page.has('th[aria-sort="descending"]')
        page.click("th button", title)
        until(lambda: page.has('th[aria-sort="ascending"]'), "it is turned round")
        until(lambda: page.rows("Repositories")[0][column] == descending[2], f"the last by {title}")
    page.find("#q").send_keys("many/r33")
    until(lambda: [row[0] for row in page.rows("Repositories")] == ["origin/public/many/r33"], "the one that was looked for")
    page.wait_text("1 repository")


def test_refs_that_were_seen_are_shown_with_a_repository(pannier, git, simple, page):
    fill(pannier, git)
    page = page(pannier, view_of(NAME))
    rows = until(lambda: page.rows("Refs seen"), "they are there")
    assert ["refs/heads/main", simple.oid()[:12]] in [row[:2] for row in rows]
    assert {row[3] for row in rows} == {"a client without a credential"}
    page.wait_text(f"Upstream has shown {len(rows)} refs; some of them last ", "main")
    page.click("button", "Invalidate…")
    page.click("dialog button", "See what would go")
    page.click("dialog button", "Invalidate")
    page.wait_text("Upstream has shown none since the start.")


def test_nodes_warm_ups_and_events_are_seen(pannier, git, simple, page):
    page = page(pannier, "nodes")
    (row,) = until(lambda: page.rows("Nodes"), "this node")
    assert "(this one)" in row[0] and row[1] == "ready"
    page.show("events")
    page.wait_text("listening")
    git.clone(pannier.url_of(PATH))
    until(lambda: any("request" == row[2] and f"repository={NAME}" in row[3] for row in page.rows("Events")),
          "the request is told")
    page.find("#filter").send_keys("listings of other things")
    until(lambda: page.rows("Events") == [], "the word is in no line")
    page.show("warmups")
    page.wait_text("Warm-up", "main")
    git.clone(pannier.url_of(PATH))  # at which those who have left are noticed
    until(lambda: Admin(pannier).metrics()["pannier_event_clients"] == 0, "it listens no more")


def test_warm_ups_are_begun_and_followed(pannier, git, simple, page):
    page = page(pannier, "warmups")
    page.wait_text("Nothing was fetched ahead yet.")
    for name, state, words in ((NAME, "done", "mirror made"), ("origin/public/none", "failed", "404")):
        page.find("#warm-name").send_keys(name, Keys.ENTER)
        (row,) = until(lambda: [r for r in page.rows("Its repositories") if r[1] == state], f"{name} is {state}")
        assert row[0] == name and words in row[2]
        page.click("a", "All warm-ups")
    rows = until(lambda: len(rows := page.rows("Warm-ups")) == 2 and rows, "both are told")
    assert [row[2] for row in rows] == ["1 of 1, 1 failed", "1 of 1"] and rows[0][1] == "the API"
    assert pannier.mirror(PATH).exists()
    page.find("#warm-name").send_keys("elsewhere/x", Keys.ENTER)
    page.wait_text("Bad Request:", ".outcome.bad")


def test_it_recovers_when_pannier_is_started_again(pannier, git, simple, page):
    fill(pannier, git)
    page = page(pannier)
    page.wait_text("50 %", ".figures")
    pannier.same_admin_port = True
    pannier.stop()
    page.wait_text("Pannier does not answer. Trying again.", "#banner")
    pannier.start()
    until(lambda: page.text("#banner") == "", "it answers again")
    page.wait_text("0 of 0 requests", ".figures")  # its counts are anew
    page.show(view_of(NAME))
    page.wait_text(NAME, "h1")
    page.js("location.hash = '#/repositories/' + '0'.repeat(64)")
    page.wait_text("Nothing is kept of it here.")


# Changing --------------------------------------------------------------------------------------------


def test_what_is_invalidated_by_click_is_gone_here_and_at_the_node(pannier, git, simple, own, page):
    other, _ = own()
    fill(pannier, git, other, clones=1)
    fill(pannier, git)
    page = page(pannier, "repositories")
    page.click("td a", NAME)
    page.wait_text(NAME, "h1")
    until(lambda: len(page.rows("Answers")) == 1, "its answer is shown")
    page.click("button", "Invalidate…")
    page.find("dialog")
    page.click("label", "Everything")
    page.click("dialog button", "See what would go")
    page.wait_text("2 entries on", "dialog .outcome")
    assert "the mirror among them" in page.text("dialog .outcome")
    assert len(pannier.answers()) == 2 and pannier.mirror(PATH).exists()  # nothing was done yet
    page.click("dialog button", "Invalidate")
    page.wait_text("Invalidated, in force on all nodes: 2 entries", "main .outcome")
    until(lambda: not page.has("dialog"), "it is closed")
    page.wait_text("Nothing is kept of it here.")
    assert len(pannier.answers()) == 1 and not pannier.mirror(PATH).exists()
    assert pannier.wait_event("invalidated")["repository"] == NAME
    page.click("a", "All repositories")
    until(lambda: [row[0] for row in page.rows("Repositories")] == [f"origin/{other}"], "the other one is left")


def test_what_was_seen_is_not_what_goes_when_something_else_is_chosen(pannier, git, simple, page):
    fill(pannier, git)
    page = page(pannier, view_of(NAME))
    page.click("button", "Invalidate…")
    page.click("dialog button", "See what would go")
    page.wait_text("nothing on the disk", "dialog .outcome")
    page.find("dialog button", "Invalidate")
    page.click("label", "An object")
    page.find("dialog button", "See what would go")
    page.find('dialog input[aria-label="An object"]').send_keys("no id")
    page.click("dialog button", "See what would go")
    page.wait_text("Bad Request: an object's id is 40 or 64 hex digits (object)", "dialog .outcome")
    page.press(Keys.ESCAPE)
    until(lambda: not page.has("dialog"), "it is closed")
    assert len(pannier.answers()) == 1 and pannier.mirror(PATH).exists()


def test_a_repository_is_pinned_and_brought_forward(pannier, git, own, page):
    path, repo = own()
    admin = fill(pannier, git, path)
    name = f"origin/{path}"
    page = page(pannier, view_of(name))
    page.click("button", "Pin")
    page.wait_text("Pinned: what there is of it stays.", "main .outcome")
    page.find(".heading .mark", "pinned")
    assert admin.get(f"/repositories/{admin.repository(name)}")["pinned"] is True
    page.click("button", "Unpin")
    page.wait_text("No longer pinned.", "main .outcome")
    assert admin.get(f"/repositories/{admin.repository(name)}")["pinned"] is False
    repo.commit(text="newer")
    page.click("button", "Refresh")
    page.wait_text("The mirror is up to date", "main .outcome")
    assert page.text("main .outcome").endswith("1 of them new.")
    assert pannier.wait_event("mirror refreshed")["missing"] == 1
    repo.path.rename(repo.path.with_suffix(".away"))
    page.click("button", "Refresh")
    page.wait_text("Bad Gateway:", "main .outcome.bad")


def test_the_keyboard_alone_does_it_all(pannier, git, simple, page):
    fill(pannier, git)
    page = page(pannier)
    page.wait_text("50 %", ".figures")
    page.tab_to("Skip to the content")
    page.tab_to("Repositories")
    page.press(Keys.ENTER)
    until(lambda: page.rows("Repositories"), "the list is there")
    assert page.js("return document.activeElement.id") == "main"
    page.tab_to(NAME)
    page.press(Keys.ENTER)
    page.wait_text(NAME, "h1")
    page.find("button", "Invalidate…")
    page.tab_to("Invalidate…")
    page.press(Keys.ENTER)
    page.find("dialog")
    page.press(Keys.ESCAPE)
    until(lambda: not page.has("dialog"), "Escape closes it")
    assert page.focused() == "Invalidate…"
    page.press(Keys.ENTER)
    page.find("dialog")
    page.press(Keys.ARROW_UP)  # round to the last one
    assert page.focused() == "kind-everything"
    page.press(Keys.ENTER)
    page.wait_text("2 entries on", "dialog .outcome")
    until(lambda: page.focused() == "Invalidate", "the next step has the focus")
    page.press(Keys.ENTER)
    page.wait_text("Invalidated, in force on all nodes", "main .outcome")
    assert pannier.answers() == [] and not pannier.mirror(PATH).exists()


# Who may ---------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(start, origin, tmp_path):
    file = tokens_file(tmp_path / "tokens", scraper=("read", READ), oncall=("operate", OPERATE))
    return start(origin=origin.url, config={"admin": {"tokens_file": str(file)}})


def sign_in(page, token):
    field = page.find("#token")
    field.clear()
    field.send_keys(token, Keys.ENTER)


def test_a_token_opens_the_page_as_far_as_it_may(guarded, git, simple, page):
    for _ in range(2):
        git.clone(guarded.url_of(PATH), "--mirror")
    guarded.wait_mirror(PATH)
    page = page(guarded, view_of(NAME))
    page.wait_text("Sign in", "h1")
    assert NAME not in page.text()
    sign_in(page, "a-wrong-token")
    page.wait_text("This token is not known.", ".sign-in")
    sign_in(page, READ)
    page.wait_text(NAME, "h1")
    page.wait_text("scraper may look", "#who")
    page.wait_text("This token may look; to change something takes one with the scope operate.")
    assert not page.has("main button") and not page.has("dialog")
    page.show("events")
    page.wait_text("listening")  # which EventSource could not
    page.show(view_of(NAME))
    page.driver.refresh()
    page.wait_text(NAME, "h1")  # the tab knows the token still
    page.click("#who button", "Sign out")
    page.wait_text("Sign in", "h1")
    assert page.js("return JSON.stringify([sessionStorage, localStorage, document.cookie])") == '[{},{},""]'
    sign_in(page, OPERATE)
    page.wait_text("oncall may change things", "#who")
    page.click("button", "Pin")
    page.find(".heading .mark", "pinned")
    assert guarded.wait_event("pinned") and READ not in guarded.output() and OPERATE not in guarded.output()
    assert not any("token" in url for url in page.asked()) and "token" not in page.driver.current_url
    page.driver.get(page.origin)
    page.click("#who button", "Sign out")


def test_a_token_that_ends_leads_back_to_the_form(guarded, page, tmp_path):
    page = page(guarded)
    sign_in(page, READ)
    page.wait_text("In flight now")
    tokens_file(tmp_path / "tokens", other=("read", "another"))
    page.wait_text("This token is not known.", ".sign-in")
    sign_in(page, "another")
    page.wait_text("other may look", "#who")


# Hostile and narrow ----------------------------------------------------------------------------------


def test_names_are_text_whatever_they_are(pannier, git, origin, page):
    path = "public/<img src=x onerror=\"document.title='owned'\"><b>&amp;"
    origin.make(path)
    fill(pannier, git, path)
    name = f"origin/{path}"
    page = page(pannier, "repositories")
    until(lambda: [row[0] for row in page.rows("Repositories")] == [name], "its name is shown as it is")
    page.click("td a")
    until(lambda: page.text("h1") == name, "its name is shown as it is")
    page.click("button", "Invalidate…")
    assert page.text("dialog p.repo") == name
    page.press(Keys.ESCAPE)
    page.show("events")
    page.wait_text("listening")
    git.clone(pannier.url_of(urllib.parse.quote(path)))
    until(lambda: any(name in row[3].replace('\\"', '"') for row in page.rows("Events")), "it is told")
    assert not page.has("img") and not page.has("main b") and "owned" != page.js("return document.title")


def test_policies_of_the_page_let_nothing_else_run(pannier, page):
    answer = Admin(pannier).call("GET", "/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Referrer-Policy"] == "no-referrer"
    assert b"http" not in answer.body.replace(b"http://www.w3.org/2000/svg", b"").replace(b"https://", b"http")
    page = page(pannier)
    page.wait_text("In flight now")
    refused = page.driver.execute_async_script("""
        const done = arguments[arguments.length - 1];
        document.addEventListener("securitypolicyviolation", (e) => done(e.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "document.title = 'owned'";
        document.head.append(script);
    """)
    assert refused == "script-src-elem" and page.js("return document.title") == "pannier"
    page.complaints()  # that one was asked for


def everywhere(page, name):
    """Every view in turn, once it has something to show; and the dialog."""
    for view in (*VIEWS, view_of(name)):
        page.show(view)
        until(lambda: page.js("return document.querySelector('[aria-current]') && document.querySelector('main h1')"),
              f"the view {view!r} is there")
        if view in ("", "repositories", view_of(name)):
            page.wait_text(name if view else "50 %", "main")
        yield view
    page.click("button", "Invalidate…")
    page.click("dialog button", "See what would go")
    page.wait_text("Would go", "dialog")
    yield "dialog"
    page.press(Keys.ESCAPE)


def test_a_phone_shows_all_of_it_without_scrolling_sideways(pannier, git, own, page):
    path, _ = own(folder="public/a-long-group-name-that-goes-on/" + "x" * 60)
    fill(pannier, git, path)
    page = page(pannier, size=PHONE)
    for view in everywhere(page, f"origin/{path}"):
        assert page.overflow() == [], view
    page.show("repositories")
    page.find("td a", "origin/")
    names = page.js("""return [...document.querySelectorAll("tbody td.number")]
                         .map((cell) => getComputedStyle(cell, "::before").content)""")
    assert '"On disk"' in names  # beside each number


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_can_be_read(pannier, git, simple, page, dark):
    fill(pannier, git)
    page = page(pannier, dark=dark)
    ground = page.js("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(c) for c in ground[4:-1].split(",")) < 3 * 64) is dark
    seen = 0
    for view in everywhere(page, NAME):
        contrasts = page.contrasts()
        assert [(text, c) for text, c in contrasts if c < CONTRAST] == [], view
        seen += len(contrasts)
    assert seen > 100
