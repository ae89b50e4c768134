"""Yes, no, or not understood: the verifier's answer and the evaluator's decision."""

from __future__ import annotations

import re
import unicodedata

from imagescope.config import Reading
from imagescope.methods.reasoning import without_reasoning

LONGEST = 8_000  # characters that are looked at

_WORD = r"(yes|no)(?![^\W_])"
# "No image was given" is no answer
_NOTHING = r"(?!\s{1,3}(?:images?|pictures?|photos?|idea|answer|comment|information|way)\b)"
_EITHER = re.compile(
    r"yes(?:\W{1,8}(?:or|and)\W{1,8}|\s{0,3}[/|]\s{0,3})(?:answer\W{1,6})?no(?![^\W_])"
    r"|no\W{1,8}(?:or|and)\W{1,8}(?:answer\W{1,6})?yes(?![^\W_])"
)
_GAP = r"(?:[^\w.,;?!]|_)"  # blanks, markup, signs
_DECISION = re.compile(
    rf"(?<![^\W_])answer(?:{_GAP}{{0,9}}(?:[:=>\n–—-]|(?<=\s)(?:is|would be)(?=\W)))"
    rf"{_GAP}{{0,15}}{_WORD}{_NOTHING}"
)
_LEADING = re.compile(
    rf"[\W_]*+(?:(?:oh|well|so|okay|ok|hmm?|sure|certainly|definitely)[\W_]++)*{_WORD}{_NOTHING}"
)
_TRAILING = re.compile(
    rf"(?:^|[^\w\s]\s{{0,9}}|\n|\b(?:say|be|a|think|so|therefore|thus|hence|then)\s){_WORD}[\W_]*+\Z"
)
_ALONE = re.compile(rf"^(?:[^\w\n]|_)*+{_WORD}(?:[^\w\n]|_)*+$", re.MULTILINE)
_DENIAL = re.compile(r"(?:\b(?:not|never|nor|neither|cannot|unable|whether|if|either)\b|n't|n’t)")


def says_yes(text: str, reading: Reading = "tolerant") -> bool | None:
    """The verifier's answer, None where there is none. paper: yes where "yes" occurs anywhere in
    the text, in any case, else no."""
    if reading == "paper":
        return "yes" in text.lower()
    words = _words(without_reasoning(text)[:LONGEST])
    if marked := _DECISION.findall(words):
        return str(marked[-1]) == "yes"
    answers = set()
    if leading := _LEADING.match(words):
        answers.add(leading[1])
    if trailing := _TRAILING.search(words):
        sentence = re.split(r"[.!?\n]", words[: trailing.start(1)][-300:])[-1]
        if not _DENIAL.search(sentence):
            answers.add(trailing[1])
    return answers == {"yes"} if len(answers) == 1 else None


def accepts(text: str, reading: Reading = "tolerant") -> bool | None:
    """The evaluator's decision, None where there is none: that of the last "ANSWER: ..." in any
    spelling, else of the last line that is nothing but a yes or a no. paper: yes if and only if
    `ANSWER: Yes` occurs, in this case."""
    if reading == "paper":
        return "ANSWER: Yes" in text
    words = _words(without_reasoning(text)[-LONGEST:])
    decisions = _DECISION.findall(words) or _ALONE.findall(words)
    return decisions[-1] == "yes" if decisions else None


def _words(text: str) -> str:
    """A text in small letters, full-width ones made plain, without what cannot be seen, LaTeX's
    frames and "yes or no"."""
    text = re.sub(r"\\(?:boxed|text)\{", " ", unicodedata.normalize("NFKC", text).lower())
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cf", "Cc"))
    return _EITHER.sub(" ", text)
