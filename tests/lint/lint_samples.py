"""The rules' own test: for each rule small trees that it must mind, naming what to
use instead, and one that it must leave alone."""
import os
import shutil
import subprocess
import tempfile

from lint_tree import Skip, Tree

GOOD_H = '/* A box. */\n#pragma once\n\n#include <stdint.h>\n\nuint64_t box_volume(uint64_t n);\n'
GOOD_C = ('/* A box: "strcpy(" in a comment or a string is fine. */\n#include "formats/box.h"\n\n'
          'static const char *word = "sprintf(x)";\n\n'
          'static int my_open(const char *path)\n{\n'
          '    return open(path, O_RDONLY | O_CLOEXEC); /* "../x" rand() */\n}\n')
GOOD_TOOL = ('/* A tool. */\n#include "formats/box.h"\n\nint main(void)\n{\n'
             '    printf("%llu of %d\\n", n, m);\n    fprintf(to, "%s", a);\n'
             '    j = json_pack("{s:o, s:I, s : {s:b}}", "s", x, "a", n, "b", "c", t);\n'
             '    json_object_set_new(o, "state", j);\n    use(json_string_value(j));\n}\n')
GOOD = {
    "tools/quiet.c": GOOD_TOOL,
    "formats/box.h": GOOD_H,
    "formats/box.c": GOOD_C,
    "tests/unit/test_box.c": '/* Tests, of quiet.c, too. */\n#include "formats/box.h"\n',
    "tools/go": "#!/bin/bash\nset -euo pipefail\nexec true\n",
}


def _function(body):
    return f"/* A file. */\nint main(void)\n{{\n{body}}}\n"


# Rule -> one or more bad files, each of which alone must be minded.
BAD = {
    "banned_calls": [
        {"formats/a.c": _function(f"    {call};\n")}
        for call in ("strcpy(a, b)", "strcat (a, b)", "sprintf(a, b)", "strtok(a, b)",
                     "n = atoi(a)", "puts(strerror(errno))", "n = rand()")],
    "open_cloexec": [
        {"storage/a.c": _function("    fd = open(path, O_RDONLY);\n")},
        {"storage/a.c": _function("    fd = openat(dir(x), path,\n        O_RDWR, (0600));\n")},
        {"storage/a.c": _function("    fd = open(p, O_RDONLY); /* O_CLOEXEC */\n")}],
    "printed_strings": [
        {"tools/a.c": _function(f"    {call};\n")}
        for call in ('printf("%s", a)', 'printf("%" PRIu64 "~%-9s", n, a)',
                     'fprintf(stderr,\n            "%.*s", 3, a)', "vprintf(fmt, ap)")],
    "json_strings": [
        {"tools/a.c": _function(f"    {call};\n")}
        for call in ("j = json_string(a)", 'j = json_pack("{s:I, s:s}", "a", n, "b", b)',
                     'j = json_pack("[s]", a)', 'j = json_sprintf("%s", a)',
                     "json_object_set_new(o, name, j)", 'j = json_pack("{s:s*}", "a", a)')],
    "dotdot_include": [{"tools/a.c": '/* A. */\n#include "../formats/box.h"\n'}],
    "ifdef_in_function": [{"tools/a.c": _function("#ifdef X\n    x();\n#endif\n")},
                          {"tools/a.c": _function("# if X\n    x();\n#endif\n")}],
    "function_length": [{"tools/a.c": _function("    x();\n" * 69)}],
    "file_length": [{"tools/a.c": "/* A. */\n" + "int x;\n" * 1000}],
    "opening_comment": [{"tools/a.h": "#pragma once\n"}, {"tools/a.c": "int x;\n"}],
    "pragma_once": [{"tools/a.h": "/* A. */\n"},
                    {"tools/a.h": "/* A. */\n#pragma once\n#ifndef A_H\n#define A_H\n#endif\n"}],
    "include_table": [
        {f"{folder}/a.c": f'/* A. */\n#include {header}\n'}
        for folder, header in (
            ("formats", '"storage/store/store.h"'), ("storage", '"ckptd/session.h"'),
            ("storage", '"libckpt/ckpt.h"'), ("ckptd", '"libckpt/ckpt.h"'),
            ("ckptd", '"tools/output.h"'), ("libckpt", '"storage/store/store.h"'),
            ("libckpt", "<ckptd/session.h>"), ("tools", '"libckpt/client.h"'),
            ("tools", '"ckptd/session.h"'), ("formats", '"tests/check.h"'),
            ("formats", '"err.h"'))],
    "tested": [{"formats/lonely.c": "/* A. */\n"}],
    "unique_names": [{"tools/box.h": GOOD_H}],
    "headers_alone": [{"tools/a.h": "/* A. */\n#pragma once\nsize_t a(void);\n"}],
    "clang_format": [{"tools/a.c": "/* A. */\nint  x ;\n"}],
    "shell_strict": [{"tools/a": "#!/bin/bash\necho x\n"},
                     {"tools/b": "#!/usr/bin/env sh\necho x\n"}],
    "library_exports": [{"lib.c": "/* A. */\nint ckpt_a(void){return 1;}\nint leak;\n"},
                        {"lib.c": "static int x __attribute__((unused));\n"}],
    "library_needs": [{"lib.c": "int ckpt_a(void){return 1;}\n", "flags": "-Wl,--no-as-needed -lzstd"}],
}
GOOD_LIBRARY = {"lib.c": "int ckpt_a(void){return 1;}\n"}


def _write(root, files):
    for name, text in files.items():
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        if text.startswith("#!"):
            os.chmod(path, 0o755)


def _compile_library(root, files):
    """The sample of a rule on binaries is a library made from lib.c."""
    os.makedirs(os.path.join(root, "build", "libckpt"))
    command = ["gcc", "-shared", "-fPIC", "-o", os.path.join(root, "build/libckpt/libckpt.so"),
               os.path.join(root, "lib.c")] + files.get("flags", "").split()
    subprocess.run(command, check=True)


def _problems(rule, files):
    with tempfile.TemporaryDirectory() as root:
        _write(root, files)
        shutil.copy(os.path.join(os.path.dirname(__file__), "../../.clang-format"), root)
        if "lib.c" in files:
            _compile_library(root, files)
        return rule(Tree(root, os.path.join(root, "build")))


def _verdict(rule):
    """None, or what is wrong with the rule."""
    name = rule.__name__
    library = name.startswith("library")
    samples = BAD.get(name)
    if not samples:
        return "no bad sample"
    wrong = _problems(rule, GOOD_LIBRARY if library else GOOD)
    if wrong:
        return f"minds a good tree: {wrong[0]}"
    for files in samples:
        problems = _problems(rule, files if library else {**GOOD, **files})
        if not problems:
            return f"does not mind {files}"
        if not all("; use " in p for p in problems):
            return f"does not say what to use instead: {problems[0]}"
    return None


def prove_rule(rule):
    """Prints the result line of the rule's own test."""
    name = "lint-proof/" + rule.__name__.replace("_", "-")
    try:
        wrong = _verdict(rule)
    except Skip as skip:
        print(f"skip {name}: {skip}")
        return True
    print(f"FAIL {name}: {wrong}" if wrong else f"ok {name} ({len(BAD[rule.__name__])} cases)")
    return not wrong
