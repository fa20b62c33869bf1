"""gcc's static analyzer over all product code: one line for each source with findings,
    ok analyze/FILE (N findings, all answered in analyzer_answers.txt)
and FAIL with the finding for one that nobody has answered.

usage: run_analyzer.py [--build DIR] [--list]     (--list prints the findings as answers)
An answer is a line "KIND FILE FUNCTION: why it is none".  Analyzers differ from version to
version; the answers are to gcc 12's.  Exit status: 0 passed, 1 failed, 77 another gcc."""
import argparse
import collections
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ANSWERS = os.path.join(HERE, "analyzer_answers.txt")
GCC = "12"


def build(folder):
    """ninja's output of a build from scratch; None when it failed."""
    configure = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCKPT_TESTS=OFF",
                 "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_C_FLAGS=-fanalyzer"]
    for command in (configure, ["ninja", "-C", folder, "-t", "clean"],
                    ["ninja", "-C", folder, "-j", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              env={**os.environ, "LC_ALL": "C", "CC": "gcc"})
        if done.returncode:
            print("\n".join("    " + line for line in (done.stdout + done.stderr).splitlines()[-40:]))
            return None
    return done.stdout


def findings(log):
    """{(kind, file, function): [message, ...]}; the file is the one being compiled."""
    found = collections.defaultdict(list)
    unit = function = ""
    for line in log.splitlines():
        if building := re.match(r"\[\d+/\d+\] Building C object (\S+)/CMakeFiles/[^/]+\.dir/(\S+)\.o", line):
            unit, function = os.path.join(building[1], building[2]), ""
        elif where := re.search(r"In function '(\w+)'", line):
            function = where[1]
        elif warning := re.search(r": warning: (.*) \[-Wanalyzer-([\w-]+)\]", line):
            found[warning[2], unit, function].append(line.strip())
    return found


def answers():
    with open(ANSWERS, encoding="utf-8") as f:
        lines = [line for line in f.read().splitlines() if line and not line.startswith("#")]
    return {tuple(line.split(":", 1)[0].split()) for line in lines}


def main():
    parser = argparse.ArgumentParser(description="Runs gcc -fanalyzer.")
    parser.add_argument("--build", default=os.path.join(ROOT, "build-analyze"))
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    version = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=False)
    if version.stdout.split(".")[0].strip() != GCC:
        print(f"skip analyze: gcc is not version {GCC}, whose findings are answered")
        return 77
    log = build(args.build)
    if log is None:
        print("FAIL analyze: the build failed")
        return 1
    found, answered, status = findings(log), answers(), 0
    if args.list:
        print("\n".join(" ".join(key) + ":" for key in sorted(found, key=lambda k: k[1:])))
        return 0
    for key in sorted(answered - set(found)):
        print(f"FAIL analyze: the answer \"{' '.join(key)}\" is to no finding any more")
        status = 1
    by_file = collections.Counter(key[1] for key in found)
    for key in sorted(set(found) - answered):
        print("\n".join("    " + message for message in found[key]))
        print(f"FAIL analyze/{key[1]}: {key[0]} in {key[2]}")
        status = 1
    units = len(re.findall(r"Building C object", log))
    for name in sorted(by_file):
        if not any(key[1] == name and key not in answered for key in found):
            print(f"ok analyze/{name} ({by_file[name]} findings, all answered)")
    print(f"ok analyze ({units} files)" if units and not status else "FAIL analyze: see above")
    return status if units else 1


sys.exit(main())
