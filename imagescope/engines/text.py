"""What engines do to text: what may pass, templates, words at a first token, stops."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from imagescope.engines.base import Response
from imagescope.errors import UserError

SILENT = "answered without text"
# Control characters but tab and line breaks; marks that turn the direction of what follows.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
_TURNING = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def harmless(text: str) -> str:
    """The text without what no prompt and no answer says: control characters become blanks, marks
    of direction go, halves of a character are joined, or replaced where they are alone."""
    if text.isascii() and text.isprintable():
        return text
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _TURNING.sub("", _CONTROL.sub(" ", text))


def received(response: Response) -> Response:
    """A response as it may be kept: harmless; without text it is an error, and not kept at all."""
    if not isinstance(response.text, str):
        return response  # the store says what is wrong with it
    text = harmless(response.text)
    if response.error is None and not text.strip():
        return replace(response, text=text, finish="error", error=SILENT)
    return response if text == response.text else replace(response, text=text)


def neutraliser(tokenizer: Any) -> re.Pattern[str]:
    """Finds control tokens in text that is only data: `<image>` in a user's instruction must not
    count as a second image, nor `<|eot_id|>` end the turn."""
    tokens = set(tokenizer.all_special_tokens)
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    tokens |= {token.content for token in added if token.special}
    tokens = {token for token in tokens if len(token.strip()) > 1}
    longest_first = sorted(map(re.escape, tokens), key=lambda t: (-len(t), t))
    return re.compile("|".join(longest_first) or r"(?!)")


def neutral(prompt: str, control: re.Pattern[str]) -> str:
    """The prompt with a space inside every control token, which makes it plain text."""
    return control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", prompt)


def wrap(template: str, prompt: str) -> str:
    """A raw template with the prompt in it. (Not str.format: prompts and templates hold braces.)"""
    if "{prompt}" not in template:
        raise UserError(f"the template {template!r} has no {{prompt}} in it")
    return template.replace("{prompt}", prompt)


def variants(choices: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """For each choice the ids of the single tokens that say it: any case, with or without a space
    before it. Raises UserError where the vocabulary has no such token."""
    result = []
    for choice in choices:
        ids = set()
        for word in (choice, choice.lower(), choice.capitalize(), choice.upper()):
            for text in (word, " " + word):
                tokens = tokenizer.encode(text, add_special_tokens=False)
                if len(tokens) == 1:
                    ids.add(int(tokens[0]))
        ids.discard(getattr(tokenizer, "unk_token_id", None) or -1)
        if not ids:
            raise UserError(f"the checkpoint has no single token for the choice {choice!r}")
        result.append(sorted(ids))
    return result


def shares(probabilities: Mapping[int, float], ids: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """The probability of each choice, summed over its tokens, normalised over the choices; () where
    none of them has any, which says nothing."""
    sums = [sum(probabilities[i] for i in group) for group in ids]
    total = sum(sums)
    return tuple(s / total for s in sums) if total > 0 else ()


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one."""
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
