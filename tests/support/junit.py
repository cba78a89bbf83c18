"""Add up a JUnit file for tests/run: junit.py FILE AGAIN

Prints what failed and how to run it again (AGAIN, with {name} and {file} filled in), and as the last
line three numbers: passed, failed, skipped."""
import sys
import xml.etree.ElementTree as ET


def outcome(case):
    """passed, failed or skipped; ctest calls a program that it could not run skipped."""
    if case.get("status") == "notrun":
        return "failed"
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def first_words(case):
    """Of the reason, as far as one line goes."""
    for tag in ("failure", "error", "skipped"):
        found = case.find(tag)
        if found is not None and found.get("message"):
            return found.get("message").strip().splitlines()[0][:150]
    return ""


def main(path, again):
    count = {"passed": 0, "failed": 0, "skipped": 0}
    failures = {}
    for case in ET.parse(path).iter("testcase"):
        result = outcome(case)
        count[result] += 1
        if result == "failed":
            file = case.get("classname", "").replace(".", "/") + ".py"
            name = case.get("name")
            failures[again.format(name=name, file=file)] = f"{name}: {first_words(case)}".rstrip(": ")
    for command, words in failures.items():
        print(f"FAILED: {words}\n        again: {command}")
    print(count["passed"], count["failed"], count["skipped"])


main(*sys.argv[1:])
