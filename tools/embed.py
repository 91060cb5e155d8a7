#!/usr/bin/env python3
"""embed.py NAME FILE HEADER: writes a header with the bytes of FILE as `static const char NAME[]`, a NUL behind them."""
import sys

name, source, header = sys.argv[1:]
data = open(source, "rb").read() + b"\0"
lines = [", ".join(str(b) for b in data[i:i + 20]) for i in range(0, len(data), 20)]
with open(header, "w", encoding="ascii") as out:
    out.write(f"static const char {name}[] = {{\n    " + ",\n    ".join(lines) + "\n};\n")
