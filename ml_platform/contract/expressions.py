"""Regular expressions that others have written: whether one can be compiled, and ends in time.

Some expressions take time that doubles with each character of a value, and nothing can interrupt them once
they are at work on a day's rows. So an expression is tried before it is accepted, in a process of its own
with a bound on its CPU time.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import lru_cache

#: Characters of an expression.
LONGEST_EXPRESSION = 1000
#: Seconds of CPU that it may take on all that it is tried on; a plain one takes less than a thousandth.
CPU_SECONDS = 0.25
#: Seconds after which a machine that gives the process no time is not waited for any more.
_PATIENCE = 60
#: How often a part of the expression's own text is repeated to provoke it.
_REPEATED = 40

_TRIAL = f"""
import re, signal, sys
expression = re.compile(sys.stdin.read())
words = set(re.findall(r"[A-Za-z0-9]+|[^A-Za-z0-9]", expression.pattern)) | set("aA0 .-_@") | {{"ab", "a0 "}}
signal.setitimer(signal.ITIMER_VIRTUAL, {CPU_SECONDS})
for word in sorted(words):
    for end in ("", "!", "\\x00"):
        expression.search(word * {_REPEATED} + end)
        expression.match(word * {_REPEATED} + end)
"""


@lru_cache(maxsize=256)
def check_expression(text: str) -> None:
    """See that a regular expression can be compiled, and doesn't take for ever on values made to provoke it.

    Raises:
        ValueError: it can't, or does.
    """
    if len(text) > LONGEST_EXPRESSION:
        raise ValueError(
            f"a regular expression of {len(text):,} characters; {LONGEST_EXPRESSION:,} are accepted"
        )
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    trial = subprocess.run(  # noqa: S603 - this interpreter, with a text on its standard input
        [sys.executable, "-I", "-S", "-c", _TRIAL],
        input=text.encode("utf-8", "surrogatepass"),
        capture_output=True,
        timeout=_PATIENCE,
        check=False,
    )
    if trial.returncode != 0:
        raise ValueError(
            f"the regular expression {text!r} may take for ever on some values, as one does in which a part "
            "that repeats holds another one that repeats; write it without that"
        )
