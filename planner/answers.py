r"""Answers: found in a candidate's text, and brought to one canonical form so that they can vote.

`extract` takes a text that is JSON as a whole; else it looks, in this order, for the last balanced
`\boxed{...}`, a last fenced block that is JSON, the last `#### x`, the last "answer: x" (or "the
answer is x"), and, in a text that its model ended itself, for a last line that is a choice (`B`) or
else for its last number. `canonical` writes a number by its value (`0.5`, `1/2`, `\frac{1}{2}` and
`50%` are all `0.5`; `1/3` stays `1/3`), a choice by its letter, JSON by its value, and anything
else in lower case without decoration. Both take any text in time linear in its length.
"""

from __future__ import annotations

import re
from fractions import Fraction

from planner.forms import choice, choice_named, fenced, json_value

_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?"
_HASHES = re.compile(r"####[ \t]*+(\S[^\n]*)(\n|$)")
# Nothing that is repeated is given back, or a run of spaces would be tried at every length.
_PHRASE = re.compile(r"\banswer(?:\s++is\s*+:?+\s*+|\s*+[:=][ \t]*+)(?=\S)", re.IGNORECASE)
_SENTENCE = re.compile(
    # Three words more at least: "1. Paris" is an answer as a whole.
    r"((?:[-+−]?[$€£]?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?|\$[^$]+\$|\([A-J]\)))\.[*_)\"']*\s+[A-Z]\S*\s+\S+\s+\S"
)
_DISPLAYED = re.compile(r"(\$\$|\\\[|```)\w*[ \t]*\n")
_CLOSED_BY = {"$$": "$$", "\\[": "\\]", "```": "```"}
_NUMBERS = re.compile(r"[-\d., ]+")
_APART = re.compile(r", \d{3}(?!\d)")
_LAST_NUMBER = re.compile(
    # After a digit, a letter or a parenthesis it is no sign but a minus or a dash.
    r"(?:(?<![\w)])[-+−])?[$€£]?\d[\d,]*(?:\.\d+)?(?:/\d+|[eE][-+]?\d+\b)?%?"
)

_MAX_EXPONENT = 64
_MAX_DIGITS = 200
_MAX_PLACES = 20
"""Of a decimal; a number with more is written as a fraction. Programs print floats with up to 17
digits, and such a number has to stay one that may stand for 1/3."""


def extract(text: str, *, ended: bool = True) -> str | None:
    """The answer that `text` gives, as written, or None where it gives none.

    `ended` says that the model ended the text itself. Where it was cut instead, an answer that
    runs up to the cut may be half an answer, and isn't one.
    """
    if json_value(text) is not None:
        return text.strip()
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed.strip() or None
    if "```" in text and (block := fenced(text, ended=ended)) and json_value(block) is not None:
        return block
    for last in list(_HASHES.finditer(text))[-1:]:
        return _unwrap(last.group(1)) or None if ended or last.group(2) == "\n" else None
    for last in list(_PHRASE.finditer(text))[-1:]:
        rest = text[last.end() :]
        if displayed := _DISPLAYED.match(rest):
            shown, closed, _ = rest[displayed.end() :].partition(_CLOSED_BY[displayed[1]])
            return _unwrap(shown) or None if closed else None
        line, newline, _ = rest.partition("\n")
        if sentence := _SENTENCE.match(line):
            return _unwrap(sentence[1])
        return _unwrap(line) or None if ended or newline else None
    if not ended:
        return None
    last_line = text.rstrip().rsplit("\n", 1)[-1]
    if (named := choice_named(last_line)) is not None:
        return _unwrap(named)
    numbers = _LAST_NUMBER.findall(last_line)
    return numbers[-1].rstrip(",") if numbers else None


def canonical(answer: str) -> str:
    """The one form of all the ways to write `answer`."""
    if (data := json_value(answer, number_form)) is not None:
        return data
    plain = _strip_markup(answer)
    value = _value(plain)
    if value is not None:
        return _write(value)
    if (letter := choice(plain)) is not None:
        return letter
    words = " ".join(plain.split()).casefold()
    # Without its space such a comma would group thousands: 32, 349 isn't 32,349.
    if _NUMBERS.fullmatch(words) and _APART.search(words):
        return words
    return re.sub(r"\s*([,;:()\[\]{}=+*/^<>])\s*", r"\1", words)


def answer_of(text: str, *, ended: bool = True, code: bool = False) -> str | None:
    """The canonical answer that `text` gives, or None.

    With `code` that is its last fenced block as it stands, of Python if one says that it is: two
    programs are compared by running them, and not by how they are written.
    """
    if code:
        return fenced(text, ended=ended, languages=("python", "python3", "py"))
    found = extract(text, ended=ended)
    return canonical(found) or None if found is not None else None


def _last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` whose braces balance."""
    end = len(text)
    while (start := text.rfind("\\boxed{", 0, end)) >= 0:
        depth = 0
        for place in range(start + len("\\boxed"), end):
            if text[place] == "{":
                depth += 1
            elif text[place] == "}":
                depth -= 1
                if depth == 0:
                    return text[start + len("\\boxed{") : place]
        # What follows an unbalanced one has been looked at already.
        end = start
    return None


def _unwrap(text: str) -> str:
    """`text` without the Markdown and the full stop that a sentence puts around an answer."""
    return text.strip().strip("*_`").rstrip(".").strip("*_` ")


# A double backslash ends a row of a matrix, and is no markup whatever follows it.
_MARKUP = re.compile(r"(\\\\)|\\(?:left|right|displaystyle|!\s*|,|;|:| )|\\[()\[\]]|\\(?=[%$#&])|~")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}")
_FRAC = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_ATOM = re.compile(r"^[-+]?(?:[\d.,]+|[A-Za-z])$")
_NAMED = re.compile(r"^[A-Za-z]\w{0,2}\s*=\s*(?=[^=])")
_UNIT = re.compile(r"(?<=[\d}])(?:\s|~|\\[,;: !])*\\(?:text|mathrm|mbox)\s*\{[^{}]*\}\s*$")
_INLINE = re.compile(r"(?<!\\)\$([^$]*[^$\\])\$")
_SIGN = re.compile(r"(?<=^[-+])\s+(?=[\d.(])")
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\\circ\})|°")


def _strip_markup(answer: str) -> str:
    text = _unwrap(answer)
    text = _UNIT.sub("", text)
    text = _MARKUP.sub(r"\1", _INLINE.sub(r"\1", text)).strip("$").replace("{,}", ",")
    text = _TEXT.sub(r"\1", text)
    text = _DEGREES.sub("", text)
    text = _NAMED.sub("", text.strip())
    text = _FRAC.sub(_inline_fraction, text)
    text = text.replace("−", "-").replace("\\times", "*").replace("\\cdot", "*").strip()
    return _SIGN.sub("", text)


def _inline_fraction(found: re.Match[str]) -> str:
    top, bottom = found.group(1) or found.group(2), found.group(3) or found.group(4)
    # A number before it makes a mixed number: 1\frac{1}{2} is 1 1/2.
    before = found.string[max(0, found.start() - 1) : found.start()]
    gap = " " if before.isalnum() else ""
    return f"{gap}{_grouped(top)}/{_grouped(bottom)}"


def _grouped(part: str | None) -> str:
    """A part of a fraction, in parentheses unless it is one number or one letter."""
    part = (part or "").strip()
    return part if _ATOM.match(part) else f"({part})"


_PLAIN = re.compile(rf"^[$€£]?\s*({_NUMBER})$")
_RATIO = re.compile(rf"^({_NUMBER})\s*/\s*({_NUMBER})$")
_MIXED = re.compile(r"^([-+]?\d+)\s+(\d+)\s*/\s*(\d+)$")
_POWER = re.compile(rf"^({_NUMBER})\s*(?:[eE]|\*\s*10\s*\^)\s*\{{?([-+]?\d{{1,3}})\}}?$")


def _value(text: str) -> Fraction | None:
    """The number that `text` writes, or None when it isn't one (or is absurdly long)."""
    text = text.strip()
    if not text or len(text) > _MAX_DIGITS or not any(c.isascii() and c.isdigit() for c in text):
        return None
    sign = 1
    if re.match(r"^-\s*[$€£]", text):
        sign, text = -1, text[1:].strip()
    if text.endswith("%"):
        share = _value(text[:-1])
        return None if share is None else sign * share / 100
    if plain := _PLAIN.match(text):
        number = _number(plain.group(1))
        return None if number is None else sign * number
    if ratio := _RATIO.match(text):
        top, bottom = _number(ratio.group(1)), _number(ratio.group(2))
        return top / bottom if top is not None and bottom else None
    if mixed := _MIXED.match(text):
        whole, top_, bottom_ = (int(part) for part in mixed.groups())
        if bottom_ == 0:
            return None
        part = Fraction(top_, bottom_)
        return whole - part if mixed.group(1).startswith("-") else whole + part
    if power := _POWER.match(text):
        exponent, base = int(power.group(2)), _number(power.group(1))
        if base is None or abs(exponent) > _MAX_EXPONENT:
            return None
        return base * Fraction(10) ** exponent
    return None


def number_form(text: str) -> str:
    """The canonical form of a JSON number; one that is absurdly long stays as it is written."""
    value = _value(text)
    return text if value is None else _write(value)


def _number(text: str) -> Fraction | None:
    digits = text.replace(",", "")
    return Fraction(digits) if any(c.isdigit() for c in digits) else None


def _write(value: Fraction) -> str:
    """A whole number or a terminating decimal as such, anything else as a fraction."""
    if value.denominator == 1:
        return str(value.numerator)
    rest, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest //= prime
            count += 1
        places = max(places, count)
    if rest != 1 or places > _MAX_PLACES:
        return f"{value.numerator}/{value.denominator}"
    digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
