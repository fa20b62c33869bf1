"""Turns ctest's JUnit file into result lines: ok NAME, FAIL NAME, skip NAME: reason.

usage: ctest_lines.py JUNIT PREFIX
The output of a failed test follows its line, indented.  A test must print how many
cases it exercised ("N cases"), or "SKIP: reason" and exit 77."""
import re
import sys
import xml.etree.ElementTree as ElementTree


def last_line(text, pattern):
    """The first group of the last line that matches, or ""."""
    found = re.findall(pattern, text, re.MULTILINE)
    return found[-1].strip() if found else ""


def report(case, prefix):
    name = f"{prefix}/{case.get('name')}"
    output = case.findtext("system-out") or ""
    seconds = float(case.get("time") or 0)
    status = case.get("status")
    if case.find("skipped") is not None or status in ("notrun", "disabled"):
        reason = last_line(output, r"^SKIP: (.*)$")
        if not reason:
            # A missing executable also counts as "not run": that is a failure.
            return f"FAIL {name}: not run, no reason given\n{indent(output)}"
        return f"skip {name}: {reason}"
    if status == "run" and case.find("failure") is None:
        cases = int(last_line(output, r"^(\d+) cases$") or 0)
        if cases == 0:
            return f"FAIL {name}: exercised nothing (its output has no line \"N cases\")"
        return f"ok {name} ({cases} cases, {seconds:.2f} s)"
    failure = case.find("failure")
    why = failure.get("message") if failure is not None else status
    return f"FAIL {name}: {why or 'failed'}\n{indent(output)}"


def indent(output):
    return "\n".join("    " + line for line in output.splitlines()[-60:])


def main():
    junit, prefix = sys.argv[1:]
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        print(report(case, prefix).rstrip())


main()
