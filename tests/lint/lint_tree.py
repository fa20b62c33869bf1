"""The tree as the lint rules see it: its files, their text, their code without
comments and string contents.  A rule is a function (tree) -> list of problems;
a problem is one line "file:line: what is wrong; use ... instead"."""
import os
import re
import subprocess

PRODUCT = ("formats", "storage", "ckptd", "libckpt", "tools")
FOLDERS = PRODUCT + ("tests",)
# Objects whose names may look like sources ("0.h" is a record).
DATA_FOLDERS = ("tests/golden/v", "tests/fuzz/corpus/")

_TOKEN = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'""",
    re.VERBOSE | re.DOTALL,
)


def _blank(match):
    """Spaces in the place of a comment or a literal; lines and quotes stay."""
    text = match.group(0)
    hollow = re.sub(r"[^\n]", " ", text)
    return hollow if text[0] == "/" else text[0] + hollow[1:-1] + text[-1]


class Tree:
    """root: the checkout.  build: a build tree, or None (rules then return Skip)."""

    def __init__(self, root, build=None):
        self.root = root
        self.build = build
        self.files = sorted(self._list())
        self._text = {}

    def _list(self):
        if os.path.exists(os.path.join(self.root, ".git")):
            names = subprocess.run(
                ["git", "-c", "safe.directory=*", "-C", self.root, "ls-files", "-z"]
                + ["--cached", "--others", "--exclude-standard"],
                check=True, capture_output=True, text=True).stdout.split("\0")
        else:
            names = self._walk()
        return [n for n in names if n and os.path.isfile(os.path.join(self.root, n))]

    def _walk(self):
        """A tree without git (an archive, or a sample of the self-test)."""
        for folder, folders, names in os.walk(self.root):
            folders[:] = [f for f in folders if not f.startswith("build")]
            for name in names:
                yield os.path.relpath(os.path.join(folder, name), self.root)

    def sources(self, *endings):
        return [f for f in self.files
                if f.endswith(endings or (".c", ".h")) and not f.startswith(DATA_FOLDERS)]

    def text(self, name):
        if name not in self._text:
            with open(os.path.join(self.root, name), encoding="utf-8", errors="replace") as f:
                self._text[name] = f.read()
        return self._text[name]

    def code(self, name):
        """The text with comments and the insides of literals blanked."""
        return _TOKEN.sub(_blank, self.text(name))

    def functions(self, name):
        """(first line, lines) of each function body; numbered from 1.

        The layout is checked by clang-format: a body is what lies between a "{"
        and a "}" that stand alone in the first column."""
        start = None
        lines = self.code(name).splitlines()
        for number, line in enumerate(lines, 1):
            if line.rstrip() == "{":
                start = number
            elif line.startswith("}") and start is not None:
                yield start, lines[start - 1:number]
                start = None


class Skip(Exception):
    """Raised by a rule that cannot be applied here; the text is the reason."""
