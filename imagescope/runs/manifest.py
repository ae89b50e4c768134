"""A run's manifest.json as its readers see it: any may be partial, or from another version."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imagescope.encoders.family import family
from imagescope.errors import UserError
from imagescope.files import parse_json
from imagescope.methods.base import Description
from imagescope.methods.imagescope import ImageScope

METHOD = TypeAdapter(Description)


class Manifest(dict[str, Any]):
    """What a run wrote down of itself. Readers take from it by `part` and `config`, in which what
    is absent or odd is not there."""

    @classmethod
    def read(cls, folder: Path, lenient: bool = False) -> Manifest:
        """A run folder's. Raises UserError where there is none that can be read; lenient: an empty
        one then."""
        path = folder / "manifest.json"
        try:
            manifest = parse_json(path.read_bytes())
            if isinstance(manifest, dict):
                return cls(manifest)
            why = f"{path}: not a run's manifest: no JSON object"
        except OSError as error:
            why = f"{folder}: no run folder: {error.strerror} (manifest.json)"
        except ValueError as error:
            why = f"{path}: not a run's manifest: {error}"
        if lenient:
            return cls()
        raise UserError(why)

    def part(self, *names: str) -> dict[str, Any]:
        """The mapping at a path of names, {} where there is none."""
        part: Any = self
        for name in names:
            part = part.get(name) if isinstance(part, Mapping) else None
        return dict(part) if isinstance(part, Mapping) else {}

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration, with the defaults of its day."""
        return self.part("config")

    @property
    def encoder_family(self) -> str:
        """The family of the encoder's weights, "" where unknown. Older runs have not written it."""
        model = str(self.part("config", "models", "encoder").get("model", ""))
        return str(self.get("encoder_family") or family(model) or "")

    @property
    def method(self) -> Description:
        """The method that ran. Runs from before there were several are ImageScope's."""
        try:
            return METHOD.validate_python(self["method"])
        except (KeyError, ValidationError):
            settings = self.config | self.part("config", "options")
            options = {k: settings[k] for k in ImageScope.Options.model_fields if k in settings}
            return Description(ImageScope.name, ImageScope.label, options, ImageScope.stages)

    @property
    def started(self) -> datetime | None:
        """When the run began; None where it does not say."""
        try:
            return datetime.fromisoformat(str(self.get("started"))).astimezone()
        except ValueError:
            return None

    @property
    def status(self) -> str:
        """How the run ended: "finished", "finished with warnings", "failed: why", "interrupted"; or
        "running", "unknown". A run of this machine whose process is gone was interrupted, though
        none could say so."""
        status, process = str(self.get("status", "unknown")), self.part("process")
        if status == "running" and process.get("host") == platform.node():
            return "running" if running(process.get("pid")) else "interrupted"
        return status

    @property
    def finished(self) -> bool:
        return self.status.startswith("finished")

    def as_started(self, path: str | Path) -> Path:
        """A path of the run's configuration, seen from the folder in which the run was started; as
        it is, where it is not there (any more)."""
        started = Path(str(self.get("folder", "")), path)
        return started if started.exists() else Path(path)


def running(pid: Any) -> bool:
    """Whether a process with this number runs on this machine."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # somebody else's
        return True
    except (OSError, ValueError, TypeError, OverflowError):
        return False
    return True
