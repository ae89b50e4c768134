"""Models that think first: what of a text is the answer.

Reasoning stands between tags (<think>, <THINKING>, [THINK], <|begin_of_thought|>, ...), or in
channels before the final one. Templates that open the reasoning themselves leave a closing tag
alone; a budget that ran out leaves an opening tag alone, and no answer.
"""

from __future__ import annotations

import re

LONGEST = 100_000  # characters that are looked at, the last ones: more than a budget of tokens

# A tag inside a JSON string is somebody's words, as a sign that says "<think>" in a description:
# such strings are matched first, and passed over.
_STRING = r'[\[{,:]\s*+"(?:[^"\\\n]|\\.)*+"(?=\s*+[\],:}])'
_NAME = (
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis)(?:_[a-z]{1,16})?"
)
_TAG = (
    r"(?:<|&lt;|◁)\s{0,3}\|?\s{0,3}(?P<slash>/?)\s{0,3}(?:[a-z]{1,8}:)?(?P<edge>(?:begin|start|end)_"
    rf"(?:of_)?)?{_NAME}(?:\s+[a-z]+\s*=[^<>]{{0,60}})?\s{{0,3}}\|?(?:>|&gt;|▷)"
)
_BRACKETS = r"\[(?P<slash2>/?)(?-i:THINK(?:ING)?)\]"  # in capitals alone: "[think]" is a list
_GEMMA = r"(?P<open><\|channel>\s{0,3}thought)|(?P<close><channel\|>)"
_TOKENS = re.compile(f"{_STRING}|{_TAG}|{_BRACKETS}|{_GEMMA}", re.IGNORECASE | re.DOTALL)

_ANY = ("think", "thought", "reason", "reflection", "scratchpad", "analysis", "channel")
_CHANNEL = re.compile(
    r"<\|channel\|>([^<]{0,40})(?:<\|constrain\|>[^<]{0,40})?<\|message\|>", re.IGNORECASE
)
_MARK = re.compile(r"<\|(?:channel|start|end|return|call)\|>", re.IGNORECASE)


def without_reasoning(text: str) -> str:
    """The answer alone; "" where there is none, as in reasoning that was never ended."""
    small = text.lower()
    if len(small) < 5 or not any(word in small for word in _ANY):
        return text
    text = text[-LONGEST:]
    if channels := list(_CHANNEL.finditer(text)):
        return _final(text, channels)
    if re.match(r"\s*analysis[A-Z]", text):  # channels whose marks a tokenizer took away
        return text.rpartition("assistantfinal")[2] if "assistantfinal" in text else ""
    outside: list[str] = []
    start, inside = 0, False
    for token in _TOKENS.finditer(text):
        groups = token.groupdict()
        if token[0][0] not in "<&◁[" or (token[0][0] == "[" and groups["slash2"] is None):
            continue  # a string
        edge = (groups["edge"] or "").lower()
        closing = bool(
            groups["slash"] or groups["slash2"] or groups["close"] or edge.startswith("end")
        )
        if closing:
            if not inside:
                outside.clear()  # opened by the template: all before it was reasoning
            start, inside = token.end(), False
        elif not inside:
            outside.append(text[start : token.start()])
            inside = True
    return "".join(outside) if inside else "".join([*outside, text[start:]])


def begins_to_think(text: str) -> bool:
    """Whether a text is the beginning of reasoning, and no more."""
    return bool(text.strip()) and not without_reasoning(text).strip()


def _final(text: str, channels: list[re.Match[str]]) -> str:
    """The last final channel, up to the next mark."""
    for channel in reversed(channels):
        if channel[1].strip().lower().startswith("final"):
            end = _MARK.search(text, channel.end())
            return text[channel.end() : end.start() if end else None]
    return ""
