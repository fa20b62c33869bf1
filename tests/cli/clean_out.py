"""Checks what the tools printed: that it is one whole, and drives no terminal.

    clean_out.py text FILE...    UTF-8, without controls and changes of direction
    clean_out.py json FILE...    ASCII, and JSON
"""
import json
import re
import sys

BAD = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

for name in sys.argv[2:]:
    with open(name, "rb") as f:
        data = f.read()
    text = data.decode("utf-8" if sys.argv[1] == "text" else "ascii")
    found = BAD.search(text)
    assert not found, "%s: U+%04X in %r" % (name, ord(found[0]), text)
    if sys.argv[1] == "json" and data:  # nothing, where it failed
        json.loads(text)
