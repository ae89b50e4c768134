"""A gallery's captions in a folder: captions.jsonl, and a manifest that says what made them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagescope.errors import UserError
from imagescope.files import parse_json, replacing, write_json
from imagescope.gallery.vectors import FORMAT, read_manifest

log = logging.getLogger("imagescope")


def read_captions(path: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """sha256 of an image -> its caption; {} where the file is missing or damaged."""
    try:
        text = path.read_bytes()
        if manifest.get("sha256", content := hashlib.sha256(text).hexdigest()) != content:
            raise ValueError("not what was written")
        rows = [parse_json(line) for line in text.split(b"\n") if line]
        return {str(row["sha256"]): str(row["caption"]) for row in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: damaged, made again (%s)", path, error)
        return {}


def write_captions(
    folder: Path,
    made_by: Mapping[str, Any],
    rows: Mapping[str, tuple[str, str]],
    lost: Mapping[str, Mapping[str, str]],
) -> None:
    """captions.jsonl, rows of name -> (sha256, caption), and its manifest; only what is new."""
    lines = [
        json.dumps({"name": name, "sha256": sha, "caption": caption}, ensure_ascii=False)
        for name, (sha, caption) in rows.items()
    ]
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
    manifest = {
        "format": FORMAT,
        "made_by": made_by,
        "sha256": hashlib.sha256(text).hexdigest(),
        "prompt_sha256": hashlib.sha256(made_by["prompt"].encode()).hexdigest(),
        "count": len(rows),
        "captioned": sum(bool(caption) for _, caption in rows.values()),
        **lost,
    }
    path = folder / "captions.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != text:
            with replacing(path) as file:
                file.write_bytes(text)
        if read_manifest(folder, made_by) != json.loads(json.dumps(manifest)):
            write_json(folder / "manifest.json", manifest)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
