"""Pictures for reports, and a browser to open these in."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import ABSENT, BROKEN, GALLERY
from synthetic_run import draw_images


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Drawn scenes; one has no file and one holds no image."""
    found = draw_images(tmp_path_factory.mktemp("images"), GALLERY)
    del found[ABSENT]
    found[BROKEN].write_bytes(b"no image")
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    pytest.importorskip("selenium", reason="the browser is driven by selenium")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs Chromium and its driver (apt-get install chromium chromium-driver)")
    script = Path(__file__).parents[2] / "script" / "screenshot.py"
    spec = importlib.util.spec_from_file_location("screenshot", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    opened = module.open_browser()
    yield opened
    opened.quit()
