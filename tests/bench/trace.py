#!/usr/bin/python3
"""Writes a trace of requests to a cache of git's answers: lines of "seconds key size", in order.

    tests/bench/trace.py [--seed N] [--days N] [--rate N] [--crawls N]

Its shape is that of GitLab's figures, where there are any:

    75 % of the answers are never read a second time          scalability#2222 (PARTS below)
    not keeping those saves more than half of the room        gitaly!5540
    129 jobs of one pipeline clone the same                   scalability#688  (JOBS_MAX)
    one depth-1 clone may be 1 GB                             observability/team#931 (HUGE)
    a project of 25 GB is cloned 16 times a day, 3 are hits   scalability#872  (HUGE)
    keeping for 2 minutes instead of 5 costs 13 % of the      scalability#872  (STAGES)
    bytes hit; 10 instead of 5 gains some

(of gitlab.com/gitlab-com/gl-infra and gitlab.com/gitlab-org/gitaly).  What they don't tell stands
as a constant below, with a word on why.  Same arguments, same trace: random.Random's stream is
the same in all Pythons 3.
"""
import argparse
import heapq
import math
import random
import sys

HOUR, DAY = 3600, 86400
MB = 1_000_000

# Repositories: a long tail in how often they are used, and in their sizes.
REPOSITORIES = 3000
POPULARITY = 0.9        # Zipf's exponent; like that of web pages
FULL_MEDIAN = 15 * MB   # of full clones, log-normal: the mean is 5 times as much
FULL_SIGMA = 1.8
SHALLOW_SHARE = 0.25    # of a full clone's bytes, for depth 1 to 50
# (full, shallow, weight): the huge ones; weight as that of the n-th most popular repository
HUGE = [(6000 * MB, 1000 * MB, 5), (2500 * MB, 300 * MB, 2), (3000 * MB, 400 * MB, 30),
        (8000 * MB, 1500 * MB, 200), (25000 * MB, 25000 * MB, None)]
RARE_PER_DAY = 16       # clones of the last one

# What is asked for, by parts.
PARTS = {
    "pipeline": 0.41,   # a commit is pushed, and its jobs clone it
    "clone": 0.17,      # of a default branch as it is now: agents, people, new runners
    "fetch": 0.42,      # what is new since some haves, which nobody else has
}
# Jobs of a pipeline: Pareto, most have a few.
JOBS_ALPHA, JOBS_MAX = 0.9, 129
# The jobs of a stage start as runners come free; the next stage starts when they are done.
STAGES = [(0.55, 0), (0.30, 6 * 60), (0.15, 15 * 60)]  # share of the jobs, start
STAGE_SPREAD = 60       # seconds, mean
# A runner with a work tree of the last pipeline fetches from there: a key of its own.
REUSED_TREE = 0.05
RETRIED = 0.06          # pipelines, of which some jobs run again
RETRY_AFTER = 3 * HOUR  # mean
NIGHTLY = 0.15          # repositories whose default branch is cloned by a schedule, each night
NIGHTLY_JOBS = 4        # mean
FETCH_SHARE = 0.02      # of a full clone's bytes, for a fetch since some haves; log-normal
FETCH_SIGMA = 1.5
MERGES_PER_DAY = 12     # into the default branch of the most popular repository
CRAWL_TAKES = 6 * HOUR  # to clone every repository once, with all its refs; see --crawls


def rhythm(time):
    """Load at this time of the week, 0 to 1: nights and weekends are quiet, not silent."""
    day, hour = int(time // DAY) % 7, time % DAY / HOUR
    work = 0.5 + 0.5 * math.cos((hour - 14) / 24 * 2 * math.pi)
    return (0.15 + 0.85 * work ** 2) * (0.3 if day >= 5 else 1)


class Repository:
    def __init__(self, full, shallow, weight, merges_per_day):
        self.full, self.shallow, self.weight = full, shallow, weight
        self.merge_gap = DAY / merges_per_day
        self.tip, self.tip_until = 0, 0


class Trace:
    def __init__(self, rng, days, rate, crawls):
        self.rng, self.end, self.rate, self.crawls = rng, days * DAY, rate, crawls
        self.pending = []  # (time, what, size), a heap
        self.asked = self.uniques = 0
        self.repositories = self.make_repositories()
        self.weights = []
        total = 0
        for repository in self.repositories:
            total += repository.weight
            self.weights.append(total)

    def make_repositories(self):
        made = []
        for n in range(1, REPOSITORIES + 1):
            full = max(50_000, self.rng.lognormvariate(math.log(FULL_MEDIAN), FULL_SIGMA))
            full = min(full, 2000 * MB)
            made.append(self.make(full, full * SHALLOW_SHARE, n ** -POPULARITY))
        for full, shallow, rank in HUGE:
            made.append(self.make(full, shallow, rank ** -POPULARITY if rank else 0))
        return made

    def make(self, full, shallow, weight):
        return Repository(int(full), int(shallow), weight, max(0.1, MERGES_PER_DAY * weight))

    def ask(self, time, what, size):
        if time < self.end:
            # What is equal in time stands in the order of asking.
            self.asked += 1
            heapq.heappush(self.pending, (int(time), self.asked, what, max(200, int(size))))

    def unique(self):
        self.uniques += 1
        return self.uniques

    def size_like(self, size):
        """Commits of one repository differ a little."""
        return size * self.rng.lognormvariate(0, 0.05)

    def tip(self, repository, time):
        """What its default branch is now."""
        while time >= repository.tip_until:
            repository.tip += 1
            repository.tip_until += self.rng.expovariate(1 / repository.merge_gap)
        return repository.tip

    def pipeline(self, repository, time):
        what, size = self.unique(), self.size_like(repository.shallow)
        jobs = min(JOBS_MAX, int(self.rng.paretovariate(JOBS_ALPHA)))
        for _ in range(jobs):
            self.job(repository, self.in_a_stage(time, jobs), what, size)
        if self.rng.random() < RETRIED:
            again = time + self.rng.expovariate(1 / RETRY_AFTER)
            for _ in range(1 + jobs // 10):
                self.job(repository, again + self.rng.expovariate(1 / STAGE_SPREAD), what, size)

    def in_a_stage(self, time, jobs):
        at = self.rng.random()
        for share, start in STAGES:
            if jobs == 1 or at < share:
                break
            at -= share
        return time + start * self.rng.uniform(0.7, 1.3) + self.rng.expovariate(1 / STAGE_SPREAD)

    def job(self, repository, time, what, size):
        if self.rng.random() < REUSED_TREE:
            self.fetch(repository, time)
        else:
            self.ask(time, what, size)

    def clone(self, repository, time):
        deep = self.rng.random() < 0.4
        size = repository.full if deep else repository.shallow
        self.ask(time, (repository, self.tip(repository, time), deep), size)

    def fetch(self, repository, time):
        share = self.rng.lognormvariate(math.log(FETCH_SHARE), FETCH_SIGMA)
        self.ask(time, self.unique(), repository.full * min(1, share))

    def mirror(self, repository, time):
        """All refs, which nobody else asks for."""
        self.ask(time, self.unique(), repository.full)

    def crawled(self):
        for n in range(self.crawls):
            start = (n + 0.5) * self.end / self.crawls
            for repository in self.repositories:
                yield start + self.rng.uniform(0, CRAWL_TAKES), self.mirror, repository

    def nightly(self):
        """Clones of some default branches: (time, function, repository)."""
        scheduled = [r for r in self.repositories if self.rng.random() < NIGHTLY]
        for repository in scheduled:
            at = self.rng.uniform(0, 5 * HOUR)
            for day in range(int(self.end // DAY)):
                jobs = 1 + int(self.rng.expovariate(1 / NIGHTLY_JOBS))
                for _ in range(jobs):
                    yield day * DAY + at + self.rng.expovariate(1 / 300), self.clone, repository

    def events(self):
        """What starts something, in order of time: (time, function, repository)."""
        rare = self.repositories[-1]
        all_of = list(self.nightly())
        all_of += [(self.rng.uniform(0, self.end), self.clone, rare)
                   for _ in range(int(RARE_PER_DAY * self.end / DAY))]
        functions = [self.pipeline, self.clone, self.fetch]
        time = 0
        while (time := time + self.rng.expovariate(self.rate / DAY)) < self.end:
            if self.rng.random() < rhythm(time):
                function, = self.rng.choices(functions, PARTS.values())
                repository, = self.rng.choices(self.repositories, cum_weights=self.weights)
                all_of.append((time, function, repository))
        all_of += self.crawled()
        all_of.sort(key=lambda event: event[0])
        return all_of

    def write(self, out):
        numbers = {}
        sizes = []
        for time, function, repository in self.events():
            self.flush(out, time, numbers, sizes)
            function(repository, time)
        self.flush(out, self.end, numbers, sizes)

    def flush(self, out, until, numbers, sizes):
        while self.pending and self.pending[0][0] < int(until):
            time, _, what, size = heapq.heappop(self.pending)
            number = numbers.setdefault(what, len(sizes))
            if number == len(sizes):
                sizes.append(size)
            out.write(f"{time} {number} {sizes[number]}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--rate", type=int, default=40000,
                        help="what is started in a day that is busy all day long")
    parser.add_argument("--crawls", type=int, default=0,
                        help="so often something clones every repository once, e.g. a backup")
    arguments = parser.parse_args()
    Trace(random.Random(arguments.seed), arguments.days, arguments.rate,
          arguments.crawls).write(sys.stdout)


if __name__ == "__main__":
    main()
