"""Model text to edits, descriptions, questions and decisions.

Nothing here raises on any text, and everything says how it coped: 'ok', 'repaired', or
'fallback: why' (the caller counts them). The rules are those of the paper's section 3, with the
deviations listed in docs/deviations.md.
"""

from __future__ import annotations

import json
import re
from typing import Any

from json_repair import repair_json

from imagescope.records import Edit, Question

OK, REPAIRED = "ok", "repaired"
LONGEST = 40_000  # characters of model text that are looked at; 2,048 tokens are far fewer
_FENCE = re.compile(r"```[ \t]*json\b(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def find_json(text: str) -> tuple[dict[str, Any] | None, str]:
    """The first fenced json block, else the first {...}; repaired if malformed.

    Returns (object or None, how).
    """
    text = text[:LONGEST]
    fenced = _FENCE.search(text)
    source = fenced[1] if fenced and "{" in fenced[1] else text
    start = source.find("{")
    if start < 0:
        return None, "fallback: no JSON"
    try:
        found, _ = json.JSONDecoder().raw_decode(source[start:])
        how = OK
    except (ValueError, RecursionError):
        end = source.rfind("}") + 1
        try:
            found = repair_json(source[start : end or None], return_objects=True)
        except Exception:  # a repairer meets any text; whatever it trips over is a fallback
            found = None
        how = REPAIRED
        if isinstance(found, list):  # text behind the object: the repairer returns several
            found = next((item for item in found if isinstance(item, dict)), None)
    if not isinstance(found, dict) or not found:
        return None, "fallback: no JSON object"
    return found, how


def parse_synthesis(
    text: str, instruction: str, description: str
) -> tuple[tuple[Edit, ...], tuple[str, ...], str]:
    """(edits, descriptions, how) of the reasoner's first answer.

    No edit: one Modification holding the whole instruction. No description: `description`, which
    is the reference's caption, the previous round's description, or the instruction itself.
    """
    found, how = find_json(text)
    found = found or {}
    given_edits, given = _listed(found.get("step1")), _listed(found.get("step2"))
    edits = tuple(
        Edit(_clean(pair[0]), _clean(pair[1])) for pair in given_edits if _is_pair(pair, str)
    )
    descriptions = tuple(_clean(d) for d in given if isinstance(d, str) and d.strip())
    if how == OK and (len(edits), len(descriptions)) != (len(given_edits), len(given)):
        how = REPAIRED
    if not edits:
        edits = (Edit("Modification", instruction),)
        how = how if how.startswith("fallback") else "fallback: no edits"
    if not descriptions:
        descriptions = (description,)
        how = how if how.startswith("fallback: no JSON") else "fallback: no description"
    return edits, descriptions, how


def parse_questions(text: str) -> tuple[tuple[Question, ...], str]:
    """(questions, how) of the reasoner's second answer; entries that are no pairs are dropped.

    Expected answers may be True, "True", "Yes" in any case, and their opposites.
    """
    found, how = find_json(text)
    if found is None:
        return (), how
    given = _listed(found.get("step2"))
    questions = tuple(
        Question(_clean(pair[0]), _TRUTH[str(pair[1]).strip().lower()])
        for pair in given
        if _is_pair(pair, str, bool) and str(pair[1]).strip().lower() in _TRUTH
    )
    if not questions:
        return (), "fallback: no question"
    return questions, how if len(questions) == len(given) else REPAIRED


def says_yes(text: str) -> bool:
    """The verifier's answer: True where it contains "yes" in any case."""
    return "yes" in text.lower()


def accepts(text: str) -> bool:
    """The evaluator's decision: yes if and only if `ANSWER: Yes` occurs, in this case."""
    return "ANSWER: Yes" in text


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [value] if isinstance(value, str) else []


def _is_pair(value: Any, *second: type) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and bool(value[0].strip())
        and isinstance(value[1], (str, *second))
        and bool(str(value[1]).strip())
    )


def _clean(text: str) -> str:
    """One line, without control characters and lone surrogates."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
