"""The case runner's own test: cases that pass, fail, skip, hang and leave a daemon
behind must be told apart, and nothing may stay behind."""
import os
import subprocess
import sys
import tempfile

CASES = {
    "01-pass-plain": "test \"$PWD\" = \"$TMP\" && test -n \"$BUILD\" && test -z \"$(ls)\"",
    "02-fail-status": "echo the reason; exit 3",
    "03-skip-reason": "echo first; echo no such device; exit 77",
    "04-skip-silent": "exit 77",
    "05-hang-forever": "sleep 1000",
    "06-leave-daemon": "setsid sh -c 'echo $$ >\"$PIDFILE\"; sleep 1000' &\n"
                       "until test -s \"$PIDFILE\"; do sleep 0.05; done",
    "07-clean-environment": "test -z \"${CKPT_STORE:-}\"; case $PATH in \"$BUILD\"/*) ;; *) false;; esac",
    "8-bad-name": "true",
}
EXPECTED = {
    "ok cli/01-pass-plain", "FAIL cli/02-fail-status: exit status 3",
    "skip cli/03-skip-reason: no such device", "FAIL cli/04-skip-silent: skipped without a reason",
    "FAIL cli/05-hang-forever: still running after 3 s", "ok cli/06-leave-daemon",
    "ok cli/07-clean-environment", "FAIL cli/8-bad-name: not named NN-feature-case",
}


def main():
    runner = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_cases.py")
    with tempfile.TemporaryDirectory() as folder:
        pidfile = os.path.join(folder, "pid")
        for name, body in CASES.items():
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8") as f:
                f.write(f"#!/bin/sh\nset -eu\n{body}\n")
            os.chmod(path, 0o755)
        result = subprocess.run(
            [sys.executable, runner, "--build", folder, "--folder", folder, "--limit", "3"],
            capture_output=True, text=True, check=False,
            env={**os.environ, "PIDFILE": pidfile, "CKPT_STORE": "/nowhere"})
        with open(pidfile, encoding="utf-8") as f:
            daemon = int(f.read())
    lines = {line.split(" (")[0] for line in result.stdout.splitlines() if line[0] != " "}
    assert lines == EXPECTED, f"got {sorted(lines ^ EXPECTED)}\n{result.stdout}{result.stderr}"
    assert "    the reason" in result.stdout.splitlines(), "a failure does not show its output"
    assert result.returncode == 1, result.returncode
    assert not os.path.exists(f"/proc/{daemon}"), "a daemon outlived its case"
    print(f"{len(CASES)} cases")


main()
