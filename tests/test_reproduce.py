"""docs/reproduce.md says what the code and the published figures say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from imagescope import benchmarks
from imagescope.benchmarks.published import read
from imagescope.cli.app import main
from imagescope.methods.imagescope import ImageScope

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
COMMANDS = {
    "CIRCO": "run_CIRCO.sh",
    "CIRR": "run_CIRR.sh",
    "CIRR subset": "run_CIRR.sh --subset",
    "FashionIQ": "run_FashionIQ.sh",
    "Flickr30K": "run_Flickr30K.sh",
    "MSCOCO": "run_MSCOCO.sh",
}


def cells(start: str) -> list[str]:
    """The cells of the table's row that starts so."""
    (row,) = [line for line in PAGE.split("\n") if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in row.strip("| ").split("|")]


@pytest.mark.parametrize("benchmark", COMMANDS)
def test_expected_figures_are_the_published_ones(benchmark: str) -> None:
    row = read().rows[0]
    assert (row.method, row.encoder, row.weights) == ("ImageScope", "ViT-L/14", "laion2b")
    shown = cells(f"`bash script/{COMMANDS[benchmark]}`")[-1]
    assert [float(figure) for figure in shown.split()] == list(row.figures[benchmark])


def test_settings_are_the_defaults_and_their_flags_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ImageScope.Options()
    assert float(cells("weight of captions, tau")[1]) == options.tau
    assert int(cells("candidates verified, K")[1].split(";")[0]) == options.top_k
    assert int(cells("candidates compared, alpha")[1]) == options.alpha
    models = yaml.safe_load((ROOT / "configs/models/paper.yaml").read_text(encoding="utf-8"))
    for role in ("captioner", "reasoner", "verifier", "evaluator"):
        _, said, flags = cells(role)
        assert said.split(",")[0].lower() in models[role]["model"].lower()
        for key in ("max_tokens", "max_model_len", "repetition_penalty"):
            if f"`{key}`" in flags:
                assert f"{models[role][key]:,}" in said, (role, key)
    assert main(["run", "-h"]) == 0
    known = capsys.readouterr().out
    for flag in set(re.findall(r"`(--[a-z-]+)`", PAGE.split("## All settings")[1])):
        assert f"{flag} " in known, flag


def test_requests_follow_from_the_counts() -> None:
    queries, gallery = benchmarks.spec("CIRR").splits["test"]
    counts = [int(cell.replace(",", "")) for cell in cells("CIRR test")[1:]]
    assert counts == [gallery, queries, 2 * queries, 20 * queries, 3 * queries]
