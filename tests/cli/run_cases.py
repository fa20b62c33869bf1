"""Runs every executable NN-feature-case of a folder, two at a time, each in a fresh
directory, and prints one result line a case, in order.

A case runs with PATH to the built programs, BUILD, ROOT and TMP (its working
directory), within a time limit.  Exit 0 = passed, 77 = skipped (its last line is the
reason), anything else = failed.  What it leaves running is killed: the process that runs
it is the reaper of all its descendants, so a daemon in its own session does not escape."""
import argparse
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

CASE = re.compile(r"^\d\d-[a-z0-9]+(-[a-z0-9]+)*$")
SKIPPED = 77
PASSED_ON = ("CKPT_DEEP", "CKPT_TORCH_PYTHON")
TAIL_LINES = 60
PR_SET_CHILD_SUBREAPER = 36


def become_reaper():
    """Orphaned descendants become our children instead of init's."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def children():
    """Our direct children, zombies included."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(pid))
    return found


def kill_leftovers():
    """Kills until no descendant is left: each death hands its children to us."""
    while True:
        pids = children()
        if not pids:
            return
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def environment(build, root, tmp):
    env = {k: v for k, v in os.environ.items() if not k.startswith("CKPT_") or k in PASSED_ON}
    programs = [os.path.join(build, "tools"), os.path.join(build, "ckptd")]
    env.update(PATH=":".join(programs + [env.get("PATH", "/usr/bin:/bin")]), BUILD=build,
               ROOT=root, TMP=tmp, TMPDIR=tmp, HOME=tmp, XDG_RUNTIME_DIR=tmp)
    return env


def run_case(path, build, root, limit_s):
    """(exit status or None after the time limit, output)"""
    with tempfile.TemporaryDirectory(prefix="ckpt-cli-", ignore_cleanup_errors=True) as tmp:
        with tempfile.TemporaryFile() as output:
            # Output goes to a file: a leftover that holds a pipe open would hang us.
            case = subprocess.Popen([path], cwd=tmp, env=environment(build, root, tmp),
                                    stdin=subprocess.DEVNULL, stdout=output,
                                    stderr=subprocess.STDOUT, start_new_session=True)
            try:
                status = case.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                status = None
                case.kill()
                case.wait()
            kill_leftovers()
            output.seek(0)
            return status, output.read().decode("utf-8", "replace")


def result_of(name, status, output, limit_s, seconds):
    """(passed, the lines that say so)"""
    lines = output.splitlines()
    if status == 0:
        return True, f"ok {name} ({seconds:.1f} s)"
    if status == SKIPPED and lines and lines[-1].strip():
        return True, f"skip {name}: {lines[-1].strip()}"
    if status is None:
        why = f"still running after {limit_s:g} s"
    elif status == SKIPPED:
        why = "skipped without a reason"
    else:
        why = f"exit status {status}"
    return False, "\n".join(["    " + line for line in lines[-TAIL_LINES:]] +
                            [f"FAIL {name}: {why}"])


def run_timed(name, path, build, root, limit_s):
    started = time.monotonic()
    status, output = run_case(path, build, root, limit_s)
    return result_of(name, status, output, limit_s, time.monotonic() - started)


def broken_name(folder, entry):
    """An executable that looks like a case but would never run."""
    path = os.path.join(folder, entry)
    if not os.path.isfile(path) or not entry[:1].isdigit():
        return None
    if not CASE.match(entry):
        return "not named NN-feature-case"
    return None if os.access(path, os.X_OK) else "not executable"


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--folder", default=here)
    parser.add_argument("--prefix", default="cli")
    parser.add_argument("--limit", type=float, default=120, help="seconds a case")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("cases", nargs="*", help="only these (default: all)")
    args = parser.parse_args()
    root = os.path.dirname(os.path.dirname(here))
    passed = True
    results = []
    with ProcessPoolExecutor(args.jobs, initializer=become_reaper) as pool:
        for entry in sorted(os.listdir(args.folder)):
            name = f"{args.prefix}/{entry}"
            wrong = broken_name(args.folder, entry)
            if wrong:
                print(f"FAIL {name}: {wrong}")
                passed = False
            elif CASE.match(entry) and (not args.cases or entry in args.cases):
                results.append(pool.submit(run_timed, name, os.path.join(args.folder, entry),
                                           os.path.abspath(args.build), root, args.limit))
        for result in results:
            good, text = result.result()
            print(text, flush=True)
            passed &= good
    if not results and passed:
        print(f"skip {args.prefix}/all: {args.folder} has no case")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
