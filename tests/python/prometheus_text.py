"""A strict reader of Prometheus' text format 0.0.4, written from its specification.

parse(text) gives {family: Family}; whatever the specification does not allow, and what good
manners do not (a family without HELP or TYPE, in two places, or without conventional name, a
series twice), raises ValueError with the line.
"""
import re

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
VALUE = re.compile(r"[+-]?(Inf|NaN|([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)$")
ESCAPES = {"\\": "\\", '"': '"', "n": "\n"}
# Other than the base unit of a quantity, and what belongs to other types.
WRONG_ENDS = ("_ms", "_ns", "_us", "_milliseconds", "_minutes", "_hours", "_kb", "_mb", "_gb",
              "_count", "_sum", "_bucket", "_kilobytes", "_megabytes", "_percent")


class Family:
    def __init__(self, name):
        self.name, self.help, self.type, self.samples = name, None, None, {}

    def value(self, **labels):
        """The sample with exactly these labels."""
        return self.samples[tuple(sorted((k, str(v)) for k, v in labels.items()))]


class Line:
    """A sample's line, read from left to right."""

    def __init__(self, text):
        self.text, self.at = text, 0

    def take(self, pattern, what):
        found = pattern.match(self.text, self.at)
        if not found:
            raise ValueError(f"{what} expected at {self.at}: {self.text!r}")
        self.at = found.end()
        return found.group(0)

    def char(self, wanted):
        if self.text[self.at:self.at + 1] not in wanted or self.at >= len(self.text):
            raise ValueError(f"one of {wanted!r} expected at {self.at}: {self.text!r}")
        self.at += 1
        return self.text[self.at - 1]

    def quoted(self):
        self.char('"')
        out = []
        while True:
            if self.at >= len(self.text):
                raise ValueError(f"a label's value does not end: {self.text!r}")
            c = self.text[self.at]
            self.at += 1
            if c == '"':
                return "".join(out)
            if c == "\\":
                escape = self.text[self.at:self.at + 1]
                if escape not in ESCAPES:
                    raise ValueError(f"no such escape at {self.at}: {self.text!r}")
                self.at += 1
                c = ESCAPES[escape]
            out.append(c)


def read_labels(line):
    labels = {}
    if line.text[line.at:line.at + 1] != "{":
        return labels
    line.char("{")
    while True:
        name = line.take(LABEL, "a label's name")
        if name in labels or name.startswith("__"):
            raise ValueError(f"label {name} twice or reserved: {line.text!r}")
        line.char("=")
        labels[name] = line.quoted()
        if line.char(",}") == "}":
            return labels


def read_sample(text):
    line = Line(text)
    name = line.take(NAME, "a name")
    labels = read_labels(line)
    line.char(" ")
    rest = text[line.at:]
    if not VALUE.match(rest):
        raise ValueError(f"no number: {text!r}")
    return name, labels, float(rest)


def read_comment(text, families, current):
    """The family that the comment belongs to."""
    found = re.match(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$", text)
    if not found:
        raise ValueError(f"neither HELP nor TYPE: {text!r}")
    what, name, rest = found.groups()
    if what == "HELP":
        if name in families:
            raise ValueError(f"family {name} in two places")
        if not re.fullmatch(r"([^\\]|\\[\\n])*", rest):
            raise ValueError(f"no such escape: {text!r}")
        families[name] = Family(name)
        families[name].help = rest
        return families[name]
    if current is None or current.name != name or current.type or current.samples:
        raise ValueError(f"TYPE does not follow HELP: {text!r}")
    if rest not in ("counter", "gauge"):
        raise ValueError(f"type {rest}")
    current.type = rest
    return current


def check_name(family):
    if family.type is None:
        raise ValueError(f"{family.name} has no TYPE")
    if family.name.endswith("_total") != (family.type == "counter"):
        raise ValueError(f"{family.name} is a {family.type}")
    base = family.name.removesuffix("_total")
    if base.endswith(WRONG_ENDS) or family.name != family.name.lower():
        raise ValueError(f"{family.name}: no conventional name")


def parse(text):
    if not text.endswith("\n"):
        raise ValueError("the last line does not end")
    families, current = {}, None
    for line in text[:-1].split("\n"):
        if line.startswith("#"):
            current = read_comment(line, families, current)
            continue
        name, labels, value = read_sample(line)
        if current is None or name != current.name:
            raise ValueError(f"a sample outside its family: {line!r}")
        key = tuple(sorted(labels.items()))
        if key in current.samples:
            raise ValueError(f"a series twice: {line!r}")
        if current.samples and {k for k, _ in next(iter(current.samples))} != set(labels):
            raise ValueError(f"other labels than its family's: {line!r}")
        if current.type == "counter" and not value >= 0:
            raise ValueError(f"a counter below zero: {line!r}")
        current.samples[key] = value
    for family in families.values():
        check_name(family)
    return families


REFUSED = (
    "x 1", "# HELP x\n# TYPE x gauge\nx 1\n", "# HELP x h\nx 1\n", "# TYPE x gauge\nx 1\n",
    "# HELP x h\n# TYPE x gauge\nx\n", "# HELP x h\n# TYPE x gauge\nx 1 2 3\n",
    "# HELP x h\n# TYPE x gauge\nx{a=1} 1\n", "# HELP x h\n# TYPE x gauge\nx{a=\"1} 1\n",
    "# HELP x h\n# TYPE x gauge\nx{a=\"\\t\"} 1\n", "# HELP x h\n# TYPE x gauge\nx{} 1\n",
    "# HELP x h\n# TYPE x gauge\nx{a=\"1\",a=\"2\"} 1\n", "# HELP x h\n# TYPE x gauge\nx 1\nx 2\n",
    "# HELP x h\n# TYPE x counter\nx 1\n", "# HELP x_total h\n# TYPE x_total gauge\nx_total 1\n",
    "# HELP x_total h\n# TYPE x_total counter\nx_total -1\n",
    "# HELP x h\n# TYPE x gauge\ny 1\n", "# HELP x_ms h\n# TYPE x_ms gauge\nx_ms 1\n",
    "# HELP x h\n# TYPE x gauge\nx 1\n# HELP x h\n# TYPE x gauge\n", "\n",
    "# HELP x h\n# TYPE x gauge\nx 0x10\n", "# HELP x h\n# TYPE x gauge\nx 1,5\n",
    "# HELP x h\n# TYPE x gauge\nx{a=\"1\"} 1\nx{b=\"1\"} 1\n", "# HELP x h\\q\n# TYPE x gauge\n",
    "# HELP x h\n# TYPE x gauge\n1x 1\n", "# HELP x h\n# TYPE x gauge\nx{a=\"1\"}1\n",
)


def refusals():
    """Each of them must be refused; how many there are."""
    for text in REFUSED:
        try:
            parse(text)
        except ValueError:
            continue
        raise AssertionError(f"not refused: {text!r}")
    good = parse('# HELP a_total h \\\\ \\n\n# TYPE a_total counter\na_total{x="\\"\\\\\\n"} 1.5e3\n')
    assert good["a_total"].value(x='"\\\n') == 1500, good
    return len(REFUSED)
