"""Prompt sets: four text files, checked when they load, filled in one pass.

A set is a folder. Its files carry our names or those of the paper's release; a subfolder named
after a dataset (or a FashionIQ category) overrides single files, so a folder of such folders, one
a dataset, is a set too. Ours are stripped; the release's are sent byte for byte, as its authors
sent them (raw templates see outer blanks).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagescope.config import config_path
from imagescope.errors import UserError
from imagescope.records import Edit


@dataclass(frozen=True, slots=True)
class PromptKind:
    """A prompt that a method needs.

    placeholders: the [[NAME]]s that its text must hold, and no others.  release_name: its file's
    name in the authors' release, where there is one.  text: what is used where no set has a file
    for it, as with a method of another package.
    """

    placeholders: frozenset[str] = frozenset()
    release_name: str = ""
    text: str = ""


CAPTION = PromptKind(release_name="caption.txt")
KINDS: dict[str, PromptKind] = {  # ImageScope's
    "caption": CAPTION,
    "synthesis": PromptKind(
        frozenset({"INSTRUCTION", "REF_IMAGE_DESC"}), "prompt1_stage1_reasoner.txt"
    ),
    "questions": PromptKind(
        frozenset({"INSTRUCTION", "ATOMIC_INST"}), "prompt2_stage2_reasoner.txt"
    ),
    "evaluation": PromptKind(frozenset({"INSTRUCTION"}), "prompt3_stage3_evaluator.txt"),
}
VERIFICATION = "Answer the question with Yes or No. {question}"
FASHION = ("dress", "shirt", "toptee")  # sets for which a method's own set is `fashion`
_PLACEHOLDER = re.compile(r"\[\[([A-Z_]+)\]\]")


class Prompts(dict[str, str]):
    """The prompts of a run by kind, as text with their placeholders."""

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each prompt, for manifests."""
        return {k: hashlib.sha256(v.encode()).hexdigest()[:16] for k, v in self.items()}


def fill(prompt: str, **values: str) -> str:
    """The prompt with each [[NAME]] replaced once; placeholders inside values stay as they are."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), prompt)


def atomic_instructions(edits: Sequence[Edit]) -> str:
    """[[ATOMIC_INST]]: a newline, then a line `   (i) Type: text` for each edit."""
    return "\n" + "\n".join(f"   ({i}) {e.type}: {e.text}" for i, e in enumerate(edits, 1))


def load_prompts(
    name: str | Path,
    dataset: str,
    kinds: Mapping[str, PromptKind] = KINDS,
    method: str = "imagescope",
) -> Prompts:
    """The set `name` (packaged, or a folder) as a method uses it on `dataset`.

    A file that the set lacks is the method's own, else PromptKind.text. Raises UserError where
    there is none, and for a placeholder that is missing or unknown.
    """
    folder = config_path(name, "prompts")
    if not folder.is_dir():
        raise UserError(f"{folder}: a prompt set is a folder with {', '.join(kinds)}.txt")
    wanted = {_plain(dataset), _plain(dataset.rsplit("-", 1)[-1]), _plain(dataset.split("-")[0])}
    own = [f for f in sorted(folder.iterdir()) if f.is_dir() and _plain(f.name) in wanted]
    own.sort(key=lambda f: -len(f.name))  # FashionIQ-dress before FashionIQ
    packaged = config_path("general", "prompts").parent / method
    sets = (folder.name, "fashion" if folder.name in FASHION else "general", "general")
    folders = [*own, folder / method, folder, *(packaged / name for name in sets)]
    return Prompts({name: _read(name, kind, folder, folders) for name, kind in kinds.items()})


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _read(name: str, kind: PromptKind, chosen: Path, folders: Sequence[Path]) -> str:
    release_name, required = kind.release_name, kind.placeholders
    for path in (f / n for f in folders for n in (f"{name}.txt", release_name)):
        if path.is_file():
            break
    else:
        if kind.text:
            return kind.text
        also = f" (the release's name, {release_name}, would do)" if release_name else ""
        raise UserError(f"prompt set {chosen}: no {name}.txt{also}")
    names = {known.release_name for known in KINDS.values()} - {f"{kind}.txt" for kind in KINDS}
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
