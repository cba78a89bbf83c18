"""GET /metrics: what Prometheus reads, and that it is true."""
import re
import subprocess
import time

import pytest

from support import pktline
from support.admin import ROOT, Admin
from support.faulty import Gate, reply
from support.gitclient import Reader
from support.wait import until


def promtool(*arguments, text=None):
    done = subprocess.run(["promtool", *map(str, arguments)], input=text, text=True, capture_output=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def admin(pannier):
    return Admin(pannier)


def text_of(admin):
    return admin.call("GET", "/metrics").body.decode()


def test_promtool_finds_nothing_wrong(admin, git, simple):
    git.clone(admin.pannier.url_of("public/simple"))
    git.fails("clone", admin.pannier.url_of("public/none"))
    admin.pannier.requests(3)
    assert promtool("check", "metrics", text=text_of(admin)) == (0, "")


def test_every_metric_that_is_said_is_documented_and_the_other_way_round(admin, tier, git, simple, start):
    git.clone(admin.pannier.url_of("public/simple"))
    one = tier.node("one")
    git.clone(one.url_of("public/simple"))
    one.requests(1)
    among_others = start(config={"redis": {"url": f"unix://{admin.pannier.folder}/nobody"}})
    said = {name for node in (admin, Admin(one), Admin(among_others))
            for name in re.findall(r"^# TYPE (\S+)", text_of(node), re.M)}
    documented = set(re.findall(r"^\| `(\S+)` \|", (ROOT / "docs/metrics.md").read_text(), re.M))
    # Of upstreams that never failed there is nothing to say.
    assert said <= documented
    assert documented - said == set()


def test_hits_and_misses_are_counted_by_where_they_came_from(admin, git, simple):
    pannier = admin.pannier
    before = admin.metrics()
    clones = [git.clone(pannier.url_of("public/simple")) for n in range(3)]
    assert len(clones) == 3 and pannier.packs(3) == ["miss, upstream", "hit, local", "hit, local"]
    after = admin.metrics()

    def rose(series):
        return after[series] - before[series]

    assert rose('pannier_hits_total{tier="local"}') == 2
    assert rose('pannier_misses_total{reason="upstream"}') == 1
    assert rose('pannier_requests_total{result="hit_local"}') == 2
    sent = [line["bytes"] for line in pannier.requests(service="upload-pack", method="POST")
            if "upstream" in line["result"] or "hit" in line["result"]]
    assert rose('pannier_client_bytes_total{source="upstream"}') == sent[0]
    assert rose('pannier_client_bytes_total{source="local"}') == sent[1] + sent[2]
    assert rose('pannier_request_duration_seconds_count{kind="pack"}') == 3
    assert rose('pannier_generation_seconds_count{source="upstream"}') == 1
    assert after['pannier_upstream_received_bytes_total{upstream="origin"}'] >= sent[0] - 200
    assert after['pannier_upstream_requests_total{upstream="origin",code="2xx"}'] > 0
    assert after['pannier_repository_requests_total{repository="other",result="hit"}'] == 2

    stats = admin.get("/stats")["traffic"]
    assert stats["hits"]["local"] == 2 and stats["misses"]["upstream"] == 1
    assert stats["hit_ratio"] == pytest.approx(2 / 3)
    assert stats["byte_hit_ratio"] == pytest.approx((sent[1] + sent[2]) / sum(sent))
    assert 0 < stats["saved_bytes"] <= sent[1] + sent[2]


def test_who_is_asked_for_most_has_series_of_its_own(start, origin, own, git):
    pannier = start(origin=origin.url, config={"metrics": {"repositories": 1}})
    admin = Admin(pannier)
    (often, _), (once, _) = own(), own()
    git.clone(pannier.url_of(once))
    for n in range(3):
        git.clone(pannier.url_of(often))
    pannier.packs(4)
    admin.metrics()  # who owns series is chosen when they are read
    git.clone(pannier.url_of(often))
    git.clone(pannier.url_of(once))
    pannier.packs(6)
    metrics = admin.metrics()
    named = {m[1] for m in (re.search(r'repository="([^"]+)"', series) for series in metrics) if m}
    assert named == {f"origin/{often}", "other"}
    series = 'pannier_repository_requests_total{{repository="{}",result="hit"}}'
    assert metrics[series.format(f"origin/{often}")] == 1
    assert metrics[series.format("other")] == 2 + 1


def test_what_is_kept_and_the_process_are_measured(admin, git, simple):
    pannier = admin.pannier
    git.clone(pannier.url_of("public/simple"))
    pannier.wait_mirror("public/simple")

    def kept():
        now = admin.metrics()
        return now['pannier_cache_entries{tier="local",kind="mirror"}'] == 1 and now

    metrics = until(kept, "answer and mirror are counted")
    assert metrics['pannier_cache_entries{tier="local",kind="answer"}'] == 1
    assert metrics['pannier_cache_bytes{tier="local",kind="mirror"}'] > 1000
    assert metrics['pannier_cache_limit_bytes{tier="local"}'] > 1e6
    assert metrics['pannier_pool_jobs_limit{pool="queries"}'] == 32 + 1024
    assert abs(metrics["process_resident_memory_bytes"] - pannier.rss()) < 200e6
    assert 5 < metrics["process_open_fds"] < 200 < metrics["process_max_fds"]
    assert 0 < metrics["process_cpu_seconds_total"] < 100
    assert 0 < metrics["pannier_git_cpu_seconds_total"] < 100
    assert metrics["process_threads"] == pytest.approx(pannier.threads(), abs=8)
    assert metrics['pannier_build_info{version="0.1.0"}'] == 1
    assert metrics["pannier_answers_kept_total"] == 1


def test_the_start_time_is_when_it_was_started(admin):
    assert abs(admin.metrics()["process_start_time_seconds"] - time.time()) < 60


def test_what_runs_is_a_gauge(behind, upstream, simple):
    gate = upstream.on("fetch", Gate(after=40))
    reader = Reader(behind.port).post("/origin/public/simple.git/git-upload-pack", pktline.fetch([simple.oid()]))
    reader.read_until(b"packfile")
    gate.wait_held()
    metrics = Admin(behind).metrics()
    assert metrics["pannier_requests_in_flight"] == 1 and metrics["pannier_client_connections"] == 1
    assert metrics["pannier_answers_filling"] == 1 and metrics['pannier_pool_jobs{pool="fills"}'] == 1
    gate.open()
    reader.read_response()
    reader.leave()
    until(lambda: Admin(behind).metrics()["pannier_requests_in_flight"] == 0, "it has ended")


def test_an_upstream_that_throttles_or_fails_is_counted(start, upstream, git, simple):
    pannier = start(origin=upstream.url)
    upstream.on("refs", reply(429, **{"Retry-After": "1"}), times=1)
    git.fails("clone", pannier.url_of("public/simple"))
    metrics = Admin(pannier).metrics()
    assert metrics['pannier_upstream_throttled_total{upstream="origin"}'] == 1
    assert metrics['pannier_upstream_requests_total{upstream="origin",code="4xx"}'] == 1


def test_names_of_clients_making_make_no_series(start, origin, git):
    """Hosts that match a pattern are one upstream, and what is refused is nobody's repository."""
    pannier = start(**{"*.example": "http://*.example:1"})
    for n in range(5):
        git.fails("clone", f"{pannier.url}/h{n}.example/a{n}/b.git")
    series = Admin(pannier).metrics()
    upstreams = {m[1] for m in (re.search(r'upstream="([^"]+)"', name) for name in series) if m}
    assert upstreams == {"*.example"}
    assert not [name for name in series if "a1/b" in name]


# What is deployed ----------------------------------------------------------------------------------


def test_the_rules_are_right():
    code, said = promtool("check", "rules", ROOT / "deploy/alerts.yaml")
    assert code == 0 and "SUCCESS" in said


def test_the_alerts_fire():
    code, said = promtool("test", "rules", ROOT / "deploy/alerts_test.yaml")
    assert code == 0, said


def names_in(text):
    return set(re.findall(r"(?<!:)\b(?:pannier|process)_[a-z_]+\b", text))


@pytest.mark.parametrize("file", ["alerts.yaml", "grafana-dashboard.json"])
def test_what_is_deployed_asks_for_metrics_that_there_are(file):
    documented = set(re.findall(r"^\| `(\S+)` \|", (ROOT / "docs/metrics.md").read_text(), re.M))
    known = documented | {f"{name}_{part}" for name in documented for part in ("bucket", "sum", "count")}
    asked = names_in((ROOT / "deploy" / file).read_text())
    assert asked and asked <= known, asked - known
