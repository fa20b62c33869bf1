"""Builds the fuzzers with clang and runs them: one result line for each target,
    ok fuzz/NAME (EXECUTIONS executions, COVERED % of LINES lines of the decoder, SECONDS s)

usage: run_fuzz.py [--deep] [--build DIR] [TARGET...]
Without --deep each runs for about two seconds.  With it each runs a million times and
must reach 90 % of the lines of its decoder.  TEST_SEED changes libFuzzer's seed.
Exit status: 0 passed, 1 failed, 77 there is no clang with libFuzzer here."""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOLDEN = os.path.join(ROOT, "tests", "golden", "v1")
BRIEF = ["-runs=200000", "-max_total_time=2"]
DEEP_RUNS = 1_000_000
COVER_MIN = 90.0
LONG = ["conf", "session"]  # begin first: the others fit beside them

ENVELOPE = {"formats/record.c": r"record_open|record_close|frame_fault|record_kind_of"}


def record(kind, source, functions, golden):
    """A record's decoder is its own functions and the envelope."""
    decoder = {**ENVELOPE}
    decoder[source] = f"{decoder[source]}|{functions}" if source in decoder else functions
    return {"golden": golden, "decoder": decoder, "name": f"record_{kind}"}


LAUNCH, COMMIT = "formats/record_launch.c", "formats/record_commit.c"
DESC = {"formats/desc.c": r"desc_decode.*|desc_check|check_.*|take_name"}
TARGETS = {t.pop("name"): t for t in [
    record("repo", "formats/record.c", "record_repo_decode", ["repo.bin", "store/ckpt.repo"]),
    record("claim", LAUNCH, "record_claim_decode", ["claim.bin", "store/*/l/*/claim"]),
    record("resolved", LAUNCH, "record_resolved_decode|resolved_get_fixed",
           ["resolved*.bin", "store/*/l/*/resolved"]),
    record("node", LAUNCH, "record_node_decode", ["node.bin"]),
    record("restored", LAUNCH, "record_step_decode", ["restored.bin"]),
    record("progress", LAUNCH, "record_step_decode", ["progress.bin"]),
    record("bad", LAUNCH, "record_bad_decode", ["bad.bin"]),
    record("commit", COMMIT, "record_commit_decode|commit_get_fixed",
           ["commit.bin", "store/*/c/*"]),
    record("abort", COMMIT, "record_abort_decode", ["abort.bin", "store/*/c/*"]),
    record("held", COMMIT, "record_held_decode", ["held.bin", "store/*/h/*"]),
    record("rank_held", COMMIT, "record_rank_held_decode",
           ["rank_held.bin", "store/*/d/*/*/*.h"]),
    record("tag", COMMIT, "record_tag_decode", ["tag.bin"]),
    record("life", COMMIT, "record_life_decode", ["life.bin", "store/*/x/*/*"]),
    {"name": "pack", "golden": ["pack_*.bin", "store/*/d/*/*/*-*"], "decoder": {
        "formats/pack.c": r"pack_head_decode|pack_head_peek|fixed_part_ok|check_sums|all_zero"
                          r"|decode_.*|chunk_fault|bad"}},
    {"name": "manifest", "golden": ["store/*/d/*/*/*.m"], "decoder": {
        "formats/manifest_read.c": ".*", **DESC}},
    {"name": "index", "golden": ["store/*/d/*/*/i0"], "decoder": {
        "formats/index_read.c": ".*", "formats/index_fold.c": r"index_run_.*", **DESC}},
    {"name": "decl", "golden": [], "decoder": {
        "formats/decl_bytes.c": r"decode_.*|decl_decode|short_bytes",
        "formats/decl.c": r"check_.*|decl_.*|derive_.*|place_.*|sort_names", **DESC}},
    {"name": "wire", "golden": [], "decoder": {
        "formats/wire.c": r"wire_check|wire_text|wire_tail_of|wire_body.*|row_of"}},
    {"name": "select", "golden": [], "decoder": {"formats/select.c": ".*"}},
    {"name": "report", "golden": [], "decoder": {"formats/report.c": ".*"}},
    {"name": "codec", "golden": [], "decoder": {
        "formats/codec.c": r"codec_decode|decode_zstd|zstd_frame_ok"}},
    {"name": "key", "golden": [], "decoder": {
        "formats/key.c": r"hex_u64|key_number_parse|name_parse|decimal_u32|parse_rank_part"
                         r"|key_parse_data", "formats/digest.c": "hex_decode"}},
    {"name": "word", "golden": [], "decoder": {
        "formats/key_check.c": ".*", "formats/dtype.c": "dtype_parse"}},
    {"name": "spec", "golden": [], "decoder": {
        "storage/repo/catalog_find.c": r"catalog_parse|number"}},
    {"name": "safetensors", "golden": [], "decoder": {
        "formats/foreign/safetensors.c": r"parse_.*|by_begin|check_cover|safetensors_parse"
                                         r"|dense_bytes"}},
    {"name": "layout", "golden": [], "decoder": {"formats/topology_rules.c": ".*"}},
    {"name": "conf", "golden": [], "decoder": {
        "ckptd/config_file.c": "config_file_next|trim|cut_comment|open_section|read_setting",
        "ckptd/config_sources.c": "take_line|look_at_name|take_section|stands_before"}},
    {"name": "session", "golden": [], "decoder": {"ckptd/session.c": ".*"}},
]}


def tool(name):
    """The program, or the versioned one that Debian installs beside it."""
    return shutil.which(name) or shutil.which(name + "-14")


def why_not():
    """Why there can be no fuzzing here; "" if there can."""
    if not shutil.which("clang"):
        return "no clang here (packages clang, libclang-rt-14-dev, llvm)"
    with tempfile.TemporaryDirectory() as work:
        empty = subprocess.run(
            ["clang", "-fsanitize=fuzzer,address,undefined", "-x", "c", "-", "-o", work + "/x"],
            input="int LLVMFuzzerTestOneInput(const char *p, long n) { return p && n < 0; }",
            capture_output=True, text=True, check=False)
    return "" if empty.returncode == 0 else "this clang has no libFuzzer (libclang-rt-14-dev)"


def build(folder):
    log = ""
    for command in (["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCKPT_FUZZ=ON",
                     "-DCKPT_WERROR=ON", "-DCMAKE_C_COMPILER=clang"],
                    ["ninja", "-C", folder, "-j", str(os.cpu_count()), "fuzz_all"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        log += done.stdout + done.stderr
        if done.returncode:
            print("\n".join("    " + line for line in log.splitlines()[-60:]))
            return False
    return True


def function_lines(source, pattern):
    """Lines of the bodies of the functions whose names match."""
    wanted, start, name = set(), None, None
    with open(os.path.join(ROOT, source), encoding="utf-8") as f:
        lines = f.read().splitlines()
    for number, line in enumerate(lines, 1):
        if line == "{":
            head = ""
            for before in reversed(lines[:number - 1]):
                if not before.strip() or before[0] in "}/ ;" and not before.startswith("  "):
                    break
                head = before + " " + head
            found = re.search(r"(\w+)\(", head)
            start, name = number, found[1] if found else ""
        elif line == "}" and start:
            if re.fullmatch(pattern, name):
                wanted.update(range(start, number + 1))
            start = None
    return wanted


def coverage(target, program, profile):
    """(covered, all) lines of the target's decoder, and the list of those not reached."""
    data = profile + ".profdata"
    subprocess.run([tool("llvm-profdata"), "merge", "-sparse", profile, "-o", data], check=True)
    text = subprocess.run(
        [tool("llvm-cov"), "export", "-format=lcov", "-instr-profile", data, program]
        + [os.path.join(ROOT, source) for source in TARGETS[target]["decoder"]],
        check=True, capture_output=True, text=True).stdout
    counts = {}
    source = ""
    for line in text.splitlines():
        if line.startswith("SF:"):
            # The include roots are links: the same file under another name.
            source = os.path.relpath(os.path.realpath(line[3:]), ROOT)
        elif line.startswith("DA:"):
            number, count = line[3:].split(",")[:2]
            counts[source, int(number)] = max(int(count), counts.get((source, int(number)), 0))
    missed, total = [], 0
    for source, pattern in TARGETS[target]["decoder"].items():
        lines = {n for n in function_lines(source, pattern) if (source, n) in counts}
        total += len(lines)
        missed += [f"{source}:{n}" for n in sorted(lines) if not counts[source, n]]
    return total - len(missed), total, missed


class Runner:
    def __init__(self, folder, deep):
        self.folder, self.deep = os.path.abspath(folder), deep
        self.work = tempfile.mkdtemp(prefix="fuzz-")
        self.seeds = os.path.join(self.work, "seeds")
        os.mkdir(self.seeds)
        subprocess.run([self.program("make_seeds"), self.seeds], check=True,
                       stdout=subprocess.DEVNULL,
                       env={**os.environ, "LLVM_PROFILE_FILE": os.devnull})

    def program(self, name):
        return os.path.join(self.folder, "tests", "fuzz", "fuzz_" + name)

    def corpus(self, target):
        """An empty folder for what is found, and one of seeds."""
        seeds = os.path.join(self.seeds, target)
        os.makedirs(seeds, exist_ok=True)
        for pattern in TARGETS[target]["golden"]:
            for i, path in enumerate(sorted(glob.glob(os.path.join(GOLDEN, pattern)))):
                name = f"golden-{pattern.replace('/', '_').replace('*', '')}-{i}"
                shutil.copy(path, os.path.join(seeds, name))
        if not os.listdir(seeds):
            raise RuntimeError(f"no seeds for {target}")
        found = os.path.join(self.work, target + ".found")
        os.mkdir(found)
        return [found, seeds]

    def command(self, target):
        how = [f"-runs={DEEP_RUNS}"] if self.deep else BRIEF
        return [self.program(target), *how, "-print_final_stats=1", "-timeout=20",
                "-max_len=4096", "-rss_limit_mb=2048", f"-seed={os.environ.get('TEST_SEED', '1')}",
                f"-artifact_prefix={self.folder}/{target}-", *self.corpus(target)]

    def run(self, target):
        """(result line, executions)"""
        started = time.monotonic()
        profile = os.path.join(self.work, target + ".profraw")
        done = subprocess.run(self.command(target), capture_output=True, text=True, check=False,
                              errors="replace", env={**os.environ, "LLVM_PROFILE_FILE": profile})
        found = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        executions = int(found[1]) if found else 0
        if done.returncode or not executions:
            log = "\n".join("    " + line for line in done.stderr.splitlines()[-40:])
            return f"{log}\nFAIL fuzz/{target}: status {done.returncode}", executions
        line = f"{executions} executions"
        missed, reached = [], 100.0
        if tool("llvm-cov") and tool("llvm-profdata"):
            covered, total, missed = coverage(target, self.program(target), profile)
            reached = 100.0 * covered / total
            line += f", {reached:.1f} % of {total} lines of the decoder"
        elif self.deep:
            return f"FAIL fuzz/{target}: no llvm-cov to measure coverage (package llvm)", executions
        line += f", {time.monotonic() - started:.0f} s"
        if self.deep and (reached < COVER_MIN or executions < DEEP_RUNS):
            return f"    not reached: {' '.join(missed)}\nFAIL fuzz/{target}: {line}", executions
        return f"ok fuzz/{target} ({line})", executions

    def close(self):
        shutil.rmtree(self.work)


def main():
    parser = argparse.ArgumentParser(description="Runs the fuzzers.")
    parser.add_argument("--deep", action="store_true", help="a million executions, 90 %% of lines")
    parser.add_argument("--build", default=os.path.join(ROOT, "build-fuzz"))
    parser.add_argument("targets", nargs="*")
    args = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"SKIP: {reason}\nskip fuzz: {reason}")
        return 77
    if not build(args.build):
        print("FAIL fuzz/build")
        return 1
    runner = Runner(args.build, args.deep)
    total, status = 0, 0
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        names = args.targets or LONG + [name for name in TARGETS if name not in LONG]
        for line, executions in pool.map(runner.run, names):
            print(line, flush=True)
            total += executions
            status |= "FAIL " in line
    runner.close()
    print(f"{total} cases")
    return status


sys.exit(main())
