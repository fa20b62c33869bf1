"""Runs every lint rule on the tree, and on samples that it must (and must not) mind.

usage: run_lint.py [--build DIR] [RULE...]
Prints one result line a rule: ok lint/RULE, FAIL lint/RULE, skip lint/RULE: reason."""
import argparse
import os
import sys

import lint_layout
import lint_samples
import lint_text
from lint_tree import Skip, Tree

SHOWN_MAX = 30


def apply_rule(rule, tree):
    """True when the rule passed or was skipped."""
    name = "lint/" + rule.__name__.replace("_", "-")
    try:
        problems = rule(tree)
    except Skip as skip:
        print(f"skip {name}: {skip}")
        return True
    for problem in problems[:SHOWN_MAX]:
        print("    " + problem)
    if len(problems) > SHOWN_MAX:
        print(f"    and {len(problems) - SHOWN_MAX} more")
    print(f"FAIL {name}: {len(problems)} problems" if problems else f"ok {name}")
    return not problems


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", help="a build tree, for the rules on binaries")
    parser.add_argument("rules", nargs="*", help="only these (default: all)")
    args = parser.parse_args()
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    tree = Tree(root, args.build)
    wanted = {name.replace("-", "_") for name in args.rules}
    rules = [r for r in lint_text.RULES + lint_layout.RULES
             if not wanted or r.__name__ in wanted]
    passed = [apply_rule(rule, tree) for rule in rules]
    passed += [lint_samples.prove_rule(rule) for rule in rules]
    sys.exit(0 if passed and all(passed) else 1)


main()
