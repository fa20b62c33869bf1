"""Rules on the tree as a whole: who includes whom, who is tested, what is built."""
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

from lint_tree import DATA_FOLDERS, FOLDERS, PRODUCT, Skip

# Folder -> what its files may include.  A folder, or one header of it.
MAY_INCLUDE = {
    "formats": ("formats/",),
    "storage": ("formats/", "storage/"),
    "ckptd": ("formats/", "storage/", "ckptd/"),
    "libckpt": ("formats/", "libckpt/"),
    "tools": ("formats/", "storage/", "tools/", "libckpt/ckpt.h"),
}
# Names that each folder has by convention.
SHARED_NAMES = ("CMakeLists.txt", "README.md", ".gitignore", ".clang-tidy", "__init__.py")
LIBC_FAMILY = re.compile(r"^(libc|libm|libdl|librt|libpthread|ld-linux[-\w]*)\.so(\.\d+)?$")


def include_table(tree):
    problems = []
    for name in tree.sources():
        folder = name.split("/")[0]
        for number, line in enumerate(tree.text(name).splitlines(), 1):
            include = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
            if not include or folder not in MAY_INCLUDE:
                continue
            quote, header = include.groups()
            ours = quote == '"' or header.split("/")[0] in FOLDERS
            if ours and not header.startswith(MAY_INCLUDE[folder]):
                problems.append(
                    f"{name}:{number}: {folder}/ may not include {header};"
                    f" use only {' '.join(MAY_INCLUDE[folder])}")
    return problems


def tested(tree):
    """A .c of the product has tests/unit/test_<module>.c, or some file below tests/
    includes its header or names it ("store_dir.c")."""
    tests = [f for f in tree.files if f.startswith("tests/")
             and not f.startswith(("tests/lint/",) + DATA_FOLDERS)]
    words = set()
    for test in tests:
        words.update(re.findall(r"[\w./-]+", tree.text(test)))
    problems = []
    for name in tree.sources(".c"):
        module = os.path.basename(name)[:-2]
        proofs = {f"{module}.c", name, name[:-2] + ".h"}
        if (name.startswith(tuple(f + "/" for f in PRODUCT))
                and f"tests/unit/test_{module}.c" not in tests and not proofs & words):
            problems.append(f"{name}:1: no test; use tests/unit/test_{module}.c, or name"
                            f" {module}.c in the test that covers it")
    return problems


def unique_names(tree):
    seen = {}
    problems = []
    for name in tree.files:
        base = os.path.basename(name)
        if base in SHARED_NAMES or name.startswith(DATA_FOLDERS):
            continue
        if base in seen:
            problems.append(f"{name}:1: {seen[base]} has the same name; use another")
        seen[base] = name
    return problems


def headers_alone(tree):
    """Each header compiles when it is the only thing included."""
    compiler = os.environ.get("CC", "gcc")
    if not shutil.which(compiler):
        raise Skip(f"no {compiler}")

    def compile_one(name):
        shown = name[len("tests/"):] if name.startswith("tests/") else name
        result = subprocess.run(
            [compiler, "-fsyntax-only", "-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Wextra",
             "-Werror", "-I", ".", "-I", "tests", "-x", "c", "-"], cwd=tree.root,
            input=f'#include "{shown}"\n', capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return None
        why = next((x for x in result.stderr.splitlines() if "error" in x), result.stderr[:200])
        return f"{name}:1: does not compile alone; use the includes it needs in it: {why}"

    with ThreadPoolExecutor(2) as pool:
        return [p for p in pool.map(compile_one, tree.sources(".h")) if p]


def clang_format(tree):
    if not shutil.which("clang-format"):
        raise Skip("no clang-format")
    version = subprocess.run(["clang-format", "--version"], capture_output=True, text=True,
                             check=True).stdout
    if "version 14." not in version:
        raise Skip(f"layouts differ between versions, 14 is wanted, found: {version.strip()}")
    problems = []
    for name in tree.sources():
        result = subprocess.run(["clang-format", "--dry-run", name], cwd=tree.root,
                                capture_output=True, text=True, check=True)
        line = re.search(r"^[^:]+:(\d+):", result.stderr)
        if line:
            problems.append(f"{name}:{line[1]}: layout differs; use clang-format -i {name}")
    return problems


def shell_strict(tree):
    """A script that goes on after a failed command reports what it did not do."""
    problems = []
    for name in tree.files:
        if name.startswith(DATA_FOLDERS) or not tree.text(name).startswith("#!"):
            continue
        shell = re.match(r"#!.*\b(?:ba|da|z)?sh\b", tree.text(name))
        if shell and "\nset -euo pipefail\n" not in tree.text(name):
            problems.append(f"{name}:1: goes on after errors; use set -euo pipefail")
        if not os.access(os.path.join(tree.root, name), os.X_OK):
            problems.append(f"{name}:1: cannot be run; use chmod +x")
    return problems


def _library(tree):
    path = os.path.join(tree.build or "", "libckpt", "libckpt.so")
    if not os.path.exists(path):
        raise Skip("libckpt.so is not built")
    return path


def library_exports(tree):
    """Only ckpt_* leaves libckpt.so (version nodes are absolute symbols)."""
    library = _library(tree)
    listing = subprocess.run(["nm", "-D", "--defined-only", "--format=posix", library],
                             capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[:2] for line in listing.splitlines() if line.split()[1] != "A"]
    if not symbols:
        return [f"{library}:1: exports nothing; use CKPT_API on what ckpt.h declares"]
    return [f"{library}:1: exports {symbol}; use static, hidden visibility or libckpt.map"
            for symbol, _kind in symbols if not symbol.startswith("ckpt_")]


def library_needs(tree):
    """The library drags nothing but libc into the training process."""
    library = _library(tree)
    listing = subprocess.run(["readelf", "-d", library], capture_output=True, text=True,
                             check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", listing)
    return [f"{library}:1: needs {name}; use it in ckptd, or link it statically"
            for name in needed if not LIBC_FAMILY.match(name)]


RULES = [include_table, tested, unique_names, headers_alone, clang_format, shell_strict,
         library_exports, library_needs]
