#!/usr/bin/env python3
"""manual.py HEARTH > docs/hearth.1: the manual page, made of the texts that --help prints.

What every verb says of itself is taken as it is; around it stand the parts that help does not have: environment,
files, exit status, examples. tests/cli.py fails when a verb or an option is missing from the page in the repository.
"""
import itertools
import re
import subprocess
import sys
import textwrap

HEARTH = sys.argv[1]
VERBS = ["run", "chat", "inspect", "tokenize", "render", "perplexity", "convert", "quantize", "pack", "make-model", "bench"]


def help_of(*args):
    return subprocess.run([HEARTH, "help", *args], check=True, capture_output=True, text=True).stdout


def escape(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def prose(text):
    """Lines of at most 78 characters, a new sentence on a new line."""
    sentences = re.split(r"(?<=[.?:]) (?=[A-Z$])", " ".join(text.split()))
    return "".join(escape(line) + "\n" for s in sentences for line in textwrap.wrap(s, 74, break_on_hyphens=False))


def option_item(left, help_text):
    names, arg = [], ""
    for part in left.split(", "):
        words = part.split(" ", 1)
        names.append("Fl " + escape(words[0][1:]))
        arg = words[1] if len(words) > 1 else arg
    line = ".It " + " , ".join(names)
    if arg:
        line += " Ar " + escape(arg)
    return f"{line}\n{prose(help_text)}"


def options(lines):
    items, out = [], []
    for line in lines:
        new = re.match(r"^  (?:    )?((?:-\w, )?--.*)$", line)
        if new:
            parts = re.split(r"  +", new[1].strip(), maxsplit=1)
            if len(parts) == 1:  # the longest ones end with one space, or the text is on the next line
                parts = [new[1].strip(), ""]
            items.append(parts)
        elif line.strip():
            items[-1][1] = (items[-1][1] + " " + line.strip()).strip()
    out.append(".Bl -tag -width Ds\n")
    out += [option_item(left, text) for left, text in items]
    return "".join(out) + ".El\n"


def section(verb):
    head, *rest = help_of(verb).split("\n\n")
    usage = head.split(" [OPTION ...] ", 1)[1].replace(" ...]", "\u2026]")
    out = f".Ss hearth {escape(verb)} {escape(usage)}\n".replace("\u2026]", " ...]\\&")
    first = True
    for part in rest:
        title = re.match(r"^([A-Z][^\n]*):\n  ", part)
        if title and "--" in part.split("\n")[1]:
            if title[1] == "Always":
                continue
            out += ("" if title[1] == "Options" else f".Pp\n{escape(title[1])}:\n") + options(part.split("\n")[1:])
        else:
            if not first:
                out += ".Pp\n"
            for indented, lines in itertools.groupby(part.split("\n"), lambda line: line.startswith("  ")):
                out += "".join(f".Dl {escape(line.strip())}\n" for line in lines) if indented else prose("\n".join(lines))
        first = False
    return out


always = help_of("bench").split("Always:\n", 1)[1].split("\n")
print(r""".\" Made by tools/manual.py from what hearth help prints.
.Dd $Mdocdate$
.Dt HEARTH 1
.Os
.Sh NAME
.Nm hearth
.Nd run language models on this machine
.Sh SYNOPSIS
.Nm
.Ar verb
.Op Ar option ...
.Ar argument ...
.Nm
.Cm help
.Op Ar verb
.Nm
.Fl -version
.Sh DESCRIPTION
.Nm
reads model files in the GGUF format and answers with them, on the CPU,
without any network.
Results go to the standard output, messages and timings to the standard error.
Every verb knows these options:""")
print(options(always), end="")
print(".Sh VERBS")
for v in VERBS:
    print(section(v), end="")
print(r""".Sh ENVIRONMENT
.Bl -tag -width HEARTH_AFFINITY
.It Ev HEARTH_THREADS
Number of threads, unless
.Fl -threads
says otherwise.
.It Ev HEARTH_AFFINITY
CPUs for the threads as
.Ql 0,2-5 ,
one each, or
.Cm none ,
unless
.Fl -affinity
says otherwise.
Without both, threads run where the system puts them, but on a machine that
mixes fast and slow CPUs only on the fast ones, and there are as many of them
as fast CPUs.
.It Ev HEARTH_POWER
Percent of the time that each thread may work, unless
.Fl -power
says otherwise.
.It Ev HEARTH_CPU
Kernels to use:
.Cm ref ,
.Cm avx2
and what else the build has; all give the same answers.
.It Ev HEARTH_HOME
Where state is kept, in place of
.Pa $XDG_STATE_HOME/hearth ;
packs and the peer of
.Cm bench
are kept there too, in place of
.Pa $XDG_CACHE_HOME/hearth .
.It Ev HEARTH_PACK_ABOVE
Bytes of matrices above which a plain file gets a pack on the side (67108864).
.It Ev NO_COLOR
No colours.
.El
.Sh FILES
.Bl -tag -width Ds
.It Pa ~/.cache/hearth/packs
Packs made on the side.
.It Pa ~/.cache/hearth/peer
What
.Nm Cm bench Fl \-peer
runs.
.It Pa ~/.local/state/hearth/chat_history
Lines typed in
.Nm Cm chat .
.El
.Sh EXIT STATUS
.Bl -tag -width 999 -compact
.It 0
Done.
.It 1
Failed.
.It 2
Wrong usage.
.It 3
Unsupported or damaged input.
.It 4
Refused by a limit.
.It 130
Interrupted.
.El
.Sh EXAMPLES
A prompt, and a file in front of it:
.Bd -literal -offset indent
hearth run model.gguf "Why is the sky blue?"
cat notes.txt | hearth run model.gguf "sum up"
.Ed
.Pp
The same answer again, as JSON:
.Bd -literal -offset indent
hearth run \-\-seed 7 \-\-json model.gguf "A poem"
.Ed
.Pp
A prompt rendered first and looked at, then run:
.Bd -literal -offset indent
hearth render model.gguf messages.json > prompt.txt
hearth run \-\-raw model.gguf \- < prompt.txt
.Ed
.Pp
A checkpoint made small:
.Bd -literal -offset indent
hearth convert checkpoint/ model\-f16.gguf
hearth quantize model\-f16.gguf model.gguf Q4_K_M
.Ed""")
