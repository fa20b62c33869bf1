"""Rules on the text of single C files."""
import re

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 1000

BANNED = {
    "strcpy": "snprintf or memcpy with a checked length",
    "strcat": "snprintf into the whole buffer",
    "sprintf": "snprintf",
    "strtok": "strchr or strsep on a copy",
    "atoi": "strtoull with its end and range checked",
    "strerror": "strerror_r or %m",
    "rand": "a seeded generator passed as an argument",
}
_BANNED_CALL = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
_PRINT_CALL = re.compile(r"(?<![\w.>])(v?printf\s*\(|v?fprintf\s*\(\s*std(?:out|err)\s*,)\s*")
_JSON_CALL = re.compile(r"(?<![\w.>])json_(v?sprintf|stringn?(?:_nocheck)?|v?pack(?:_ex)?"
                        r"|object_set(?:_new)?(?:_nocheck)?)\s*\(\s*")
_LITERALS = re.compile(r'(?:"(?:\\.|[^"\\\n])*"|[A-Z]\w*|\s)*')
_OPEN_CALL = re.compile(r"(?<![\w.>])(open|openat)\s*\(")


def _line_of(code, position):
    return code.count("\n", 0, position) + 1


def banned_calls(tree):
    return [
        f"{name}:{_line_of(tree.code(name), call.start())}: {call[1]}() is banned;"
        f" use {BANNED[call[1]]} instead"
        for name in tree.sources()
        for call in _BANNED_CALL.finditer(tree.code(name))
    ]


def _arguments(code, position):
    """The text between the parenthesis before `position` and its partner."""
    depth = 1
    for end in range(position, len(code)):
        depth += {"(": 1, ")": -1}.get(code[end], 0)
        if depth == 0:
            return code[position:end]
    return code[position:]


def open_cloexec(tree):
    return [
        f"{name}:{_line_of(tree.code(name), call.start())}: {call[1]}() leaks the descriptor"
        f" into child processes; use O_CLOEXEC in its flags"
        for name in tree.sources()
        for call in _OPEN_CALL.finditer(tree.code(name))
        if "O_CLOEXEC" not in _arguments(tree.code(name), call.end())
    ]


def _tool_calls(tree, pattern):
    """(file, line, match, text behind it): the calls in the operator's tools, but for the
    module that makes strings fit to be seen."""
    for name in tree.sources(".c"):
        if re.match(r"tools/\w+\.c$", name) and name != "tools/output.c":
            for call in pattern.finditer(tree.code(name)):
                yield name, _line_of(tree.code(name), call.start()), call, \
                    tree.text(name)[call.end():]


def printed_strings(tree):
    """A line with a string in it goes through the one cleaner."""
    return [
        f"{name}:{line}: prints a string that may hold any bytes; use output_line()"
        for name, line, call, rest in _tool_calls(tree, _PRINT_CALL)
        if call[1].startswith("v") or re.search(r"%[-0-9.*]*s", _LITERALS.match(rest)[0])
    ]


def _takes_bytes(call, rest):
    """True if a call of jansson gets a string that it refuses when it is no UTF-8."""
    if call == "pack": # an s that is not a key
        return re.search(r"s(?!\s*:)", _LITERALS.match(rest)[0]) is not None
    if call.startswith("object_set"):
        return re.match(r'[^,]*,\s*"', rest) is None
    return True


def json_strings(tree):
    """A string or a member's name that is no UTF-8 would be lost, or the whole answer."""
    return [
        f"{name}:{line}: json_{call[1]}() refuses what is no UTF-8; use output_string()"
        f" as a value (\"s:o\" when packing), output_member() for a name"
        for name, line, call, rest in _tool_calls(tree, _JSON_CALL)
        if _takes_bytes(call[1], rest)
    ]


def dotdot_include(tree):
    return [
        f'{name}:{number}: an include with "../"; use "<folder>/x.h" from the include root'
        for name in tree.sources()
        for number, line in enumerate(tree.text(name).splitlines(), 1)
        if re.match(r'\s*#\s*include\s*["<][^">]*\.\./', line)
    ]


def ifdef_in_function(tree):
    return [
        f"{name}:{start + offset}: a conditional inside a function; use two functions,"
        f" or two files of which one is compiled"
        for name in tree.sources()
        for start, body in tree.functions(name)
        for offset, line in enumerate(body)
        if re.match(r"\s*#\s*if", line)
    ]


def function_length(tree):
    return [
        f"{name}:{start}: a function of {len(body)} lines (at most {FUNCTION_LINES_MAX});"
        f" use smaller functions, each doing what its name says"
        for name in tree.sources()
        for start, body in tree.functions(name)
        if len(body) > FUNCTION_LINES_MAX
    ]


def file_length(tree):
    problems = []
    for name in tree.sources(".c", ".h", ".py", ".sh", ".cu"):
        lines = tree.text(name).count("\n")
        if lines > FILE_LINES_MAX:
            problems.append(f"{name}:1: {lines} lines (at most {FILE_LINES_MAX});"
                            f" use one file per noun")
    return problems


def opening_comment(tree):
    return [
        f"{name}:1: no opening comment; use the first lines to say what the file is"
        for name in tree.sources()
        if not tree.text(name).startswith(("/*", "//"))
    ]


def pragma_once(tree):
    problems = []
    for name in tree.sources(".h"):
        if not re.search(r"^#pragma once$", tree.text(name), re.MULTILINE):
            problems.append(f"{name}:1: can be included twice; use #pragma once")
        elif re.search(r"^#ifndef \w+_H_?$", tree.text(name), re.MULTILINE):
            problems.append(f"{name}:1: has an include guard; use #pragma once alone")
    return problems


RULES = [banned_calls, open_cloexec, printed_strings, json_strings, dotdot_include, ifdef_in_function, function_length,
         file_length, opening_comment, pragma_once]
