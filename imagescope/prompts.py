"""Prompt sets: four text files, checked when they load, filled in one pass.

A set is a folder. Its files carry our names or those of the paper's release; a subfolder named
after a dataset (or a FashionIQ category) overrides single files, so a folder of such folders, one
a dataset, is a set too. Ours are stripped; the release's are sent byte for byte, as its authors
sent them (raw templates see outer blanks).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from imagescope.config import config_path
from imagescope.errors import UserError
from imagescope.records import Edit

# kind -> (the paper's file name, the placeholders that the text must hold)
KINDS: dict[str, tuple[str, frozenset[str]]] = {
    "caption": ("caption.txt", frozenset()),
    "synthesis": ("prompt1_stage1_reasoner.txt", frozenset({"INSTRUCTION", "REF_IMAGE_DESC"})),
    "questions": ("prompt2_stage2_reasoner.txt", frozenset({"INSTRUCTION", "ATOMIC_INST"})),
    "evaluation": ("prompt3_stage3_evaluator.txt", frozenset({"INSTRUCTION"})),
}
VERIFICATION = "Answer the question with Yes or No. {question}"
_PLACEHOLDER = re.compile(r"\[\[([A-Z_]+)\]\]")


@dataclass(frozen=True)
class PromptSet:
    """The four prompts of a run, as text with their placeholders."""

    caption: str
    synthesis: str
    questions: str
    evaluation: str

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each prompt, for manifests."""
        return {k: hashlib.sha256(v.encode()).hexdigest()[:16] for k, v in asdict(self).items()}


def fill(prompt: str, **values: str) -> str:
    """The prompt with each [[NAME]] replaced once; placeholders inside values stay as they are."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), prompt)


def atomic_instructions(edits: Sequence[Edit]) -> str:
    """[[ATOMIC_INST]]: a newline, then a line `   (i) Type: text` for each edit."""
    return "\n" + "\n".join(f"   ({i}) {e.type}: {e.text}" for i, e in enumerate(edits, 1))


def load_prompts(name: str | Path, dataset: str) -> PromptSet:
    """The set `name` (packaged, or a folder) as `dataset` uses it.

    Raises UserError for a missing file, or a placeholder that is missing or unknown.
    """
    folder = config_path(name, "prompts")
    if not folder.is_dir():
        raise UserError(f"{folder}: a prompt set is a folder with {', '.join(KINDS)}.txt")
    wanted = {_plain(dataset), _plain(dataset.rsplit("-", 1)[-1]), _plain(dataset.split("-")[0])}
    own = [f for f in sorted(folder.iterdir()) if f.is_dir() and _plain(f.name) in wanted]
    own.sort(key=lambda f: -len(f.name))  # FashionIQ-dress before FashionIQ
    return PromptSet(**{kind: _read(kind, [*own, folder]) for kind in KINDS})


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _read(kind: str, folders: Sequence[Path]) -> str:
    paper_name, required = KINDS[kind]
    for path in (f / n for f in folders for n in (f"{kind}.txt", paper_name)):
        if path.is_file():
            break
    else:
        raise UserError(
            f"prompt set {folders[-1]}: no {kind}.txt (the paper's name, {paper_name}, would do)"
        )
    names = {name for name, _ in KINDS.values()} - {f"{kind}.txt" for kind in KINDS}
    release = any((path.parent / name).is_file() for name in names)  # caption.txt: in both
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as UTF-8 text: {error}") from None
    found = set(_PLACEHOLDER.findall(text))
    if found != required:
        faults = [f"[[{p}]] is missing" for p in sorted(required - found)]
        faults += [f"[[{p}]] is unknown here" for p in sorted(found - required)]
        raise UserError(f"{path}: " + "; ".join(faults))
    if not text.strip():
        raise UserError(f"{path}: the prompt is empty")
    return text if release else text.replace("\r\n", "\n").replace("\r", "\n").strip()
