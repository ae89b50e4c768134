"""An index without captions: the encoder alone searches, and captions come later."""

from __future__ import annotations

import json
import logging
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from own_oracle import ASKED, MODELS, oracle, scenes

from imagescope import ImageScope
from imagescope.config import ModelConfig
from imagescope.errors import UserError
from imagescope.own import library
from imagescope.own.ask import answering, ask, state
from imagescope.own.conversation import Conversation
from imagescope.own.desk import Desk
from imagescope.own.forecast import forecast
from imagescope.own.indexing import build, caption, prepare
from imagescope.own.models import requirements

__all__ = ["oracle"]
ENCODER = "encoder: {model: oracle-encoder, library: words}\n"


@pytest.fixture
def captions(oracle: str, tmp_path: Path) -> list[str]:
    """Twenty scenes, indexed as 'n' without captions."""
    texts = scenes(tmp_path / "in", 20)
    assert not build(tmp_path / "in", "n", oracle, captions=False).manifest.captioned
    return texts


def test_words_and_pictures_find_without_a_question(captions: list[str]) -> None:
    with ImageScope.open("n") as scope:
        (answer,) = scope.stages(captions[4], top=3, glance=True)
        assert (answer.stage, answer.method, answer.upcoming) == ("s0", "text-only", "")
        assert answer[0].name == "004.png" and answer[0].explanation.caption == ""
        assert answer[0].score == pytest.approx(1, abs=1e-3)
        other = scope.search(captions[7], reference="004.png", top=20)
        assert (other.stage, other.method) == ("s0", "image+text")
        assert "004.png" not in {result.name for result in other}
        assert scope.search("red", stages="s0").stage == "s0"
    assert not ASKED


def test_what_needs_captions_says_how_to_get_them(captions: list[str]) -> None:
    with ImageScope.open("n") as scope, pytest.raises(UserError, match="imagescope caption n "):
        scope.search("red", stages="s1")
    with ImageScope.open("n", method="cirevl") as scope, pytest.raises(UserError, match="cirevl"):
        scope.search("red", reference="000.png")
    with ImageScope.open("n", method="text-only") as scope:  # asks no language model
        assert scope.search("red").stage == "s1"


def test_a_dialogue_goes_on_from_the_words_alone(captions: list[str]) -> None:
    conversation = Conversation()
    with ImageScope.open("n") as scope:
        *_, first = conversation.say(scope, "red")
        *_, second = conversation.say(scope, "circle")
    assert (first.carried, second.carried) == ("red", "red, circle")


def test_an_update_stays_without_captions_until_they_are_wished(
    captions: list[str], tmp_path: Path
) -> None:
    scenes(tmp_path / "in", 21)
    update = build(tmp_path / "in", "n")
    assert update.changes.new == ["020.png"] and not update.manifest.captioned and not ASKED
    before = library.read_vectors("n", update.manifest).copy()

    manifest = caption("n").manifest
    assert manifest.captioned and len(ASKED) == 21
    assert [entry.caption for entry in manifest.pictures.values()][:20] == captions
    width = before.shape[1] // 2
    assert np.array_equal(library.read_vectors("n", manifest)[:, :width], before[:, :width])
    with ImageScope.open("n") as scope:
        assert scope.search(captions[4])[0].name == "004.png" and scope.lacking == ""
        ASKED.clear()
        assert scope.search("red", stages="s0").method == "text-only" and not ASKED
    assert build(tmp_path / "in", "n").manifest.captioned  # and with them from then on


def test_models_with_an_encoder_alone(oracle: str, tmp_path: Path) -> None:
    models = tmp_path / "encoder.yaml"
    models.write_text(ENCODER)
    texts = scenes(tmp_path / "in", 6)
    build(tmp_path / "in", "n", str(models))
    with ImageScope.open("n") as scope:
        assert scope.search(texts[2])[0].name == "002.png"
    with pytest.raises(UserError, match="the models have no captioner"):
        caption("n")
    with pytest.raises(UserError, match="no captioner"):
        build(tmp_path / "in", "other", str(models), captions=True)
    (tmp_path / "more.yaml").write_text(MODELS.replace("oracle-encoder", "another-encoder"))
    manifest = caption("n", str(tmp_path / "more.yaml")).manifest
    assert manifest.captioned and manifest.models.encoder.model == "oracle-encoder"
    with ImageScope.open("n", str(models)) as scope:  # captions, but nobody to ask
        assert scope.search(texts[2]).stage == "s0"
        with pytest.raises(UserError, match="no captioner, reasoner, verifier, evaluator"):
            scope.search(texts[2], stages="s1")


def test_serve_answers_without_captions(captions: list[str]) -> None:
    opened = state("n")
    desk = Desk(lambda: ImageScope.open("n"))
    with answering(desk, opened):
        reply = ask("n", captions[3], None, None, 2)
    desk.close()
    assert reply and reply.answer.stage == "s0" and reply.answer[0].name == "003.png"


def test_a_plan_writes_and_asks_nothing(oracle: str, tmp_path: Path) -> None:
    scenes(tmp_path / "in", 5)
    lines = list(forecast(prepare(tmp_path / "in", "n", oracle)))
    assert not library.home().exists() and not ASKED
    assert lines[0] == f"n: 5 pictures below {tmp_path / 'in'}, 5 new or changed"
    assert "captions: at most 5, by oracle-captioner" in lines
    assert "vectors: at most 10, by oracle-encoder" in lines
    assert lines[-1].startswith("time: not known")
    alone = list(forecast(prepare(tmp_path / "in", "n", oracle, captions=False)))
    assert "vectors: at most 5, by oracle-encoder" in alone

    build(tmp_path / "in", "n", oracle)
    scenes(tmp_path / "in" / "more", 2, seed=9)
    lines = list(forecast(prepare(tmp_path / "in", "n")))
    assert lines[0].endswith("7 pictures below " + str(tmp_path / "in") + ", 2 new or changed")
    assert "captions: at most 2, by oracle-captioner" in lines
    assert lines[-1].startswith("time: a few seconds")  # as the first five told
    build(tmp_path / "in", "n")
    *_, last = forecast(prepare(tmp_path / "in", "n"))
    assert last == "nothing to do: the index has them all"
    other = tmp_path / "other.yaml"
    other.write_text(MODELS.replace("oracle-encoder", "another-encoder"))
    lines = list(forecast(prepare(tmp_path / "in", "n", str(other))))
    assert "captions: at most 0, by oracle-captioner" in lines
    assert "vectors: at most 14, by another-encoder" in lines


def test_a_plan_without_the_checkpoints(
    oracle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing(*_: object, **__: object) -> int:
        return 4_300_000_000

    monkeypatch.setattr("imagescope.runs.preflight.available", nothing)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    scenes(tmp_path / "in", 5)
    lines = list(forecast(prepare(tmp_path / "in", "n", "laptop")))
    assert "captioner: Qwen/Qwen3-VL-2B-Instruct: nothing downloaded; 4.3 GB to download" in lines
    alone = "\n".join(forecast(prepare(tmp_path / "in", "n", "laptop", captions=False)))
    assert "captioner: Qwen" not in alone and "encoder: google/siglip2" in alone

    monkeypatch.setattr("imagescope.own.indexing.fingerprint", nothing)  # as where there is a hub
    monkeypatch.setattr(logging.getLogger("imagescope"), "propagate", True)
    with caplog.at_level(logging.INFO, "imagescope"), pytest.raises(UserError, match="siglip2"):
        build(tmp_path / "in", "n", "laptop", captions=False)
    assert any(line.endswith("4.3 GB to download") for line in caplog.messages)
    assert not any("Qwen" in line for line in caplog.messages)


def test_memory_is_that_of_the_dtype_a_model_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"w": {"dtype": "BF16", "shape": [50_000_000], "data_offsets": [0, 100_000_000]}}
    header = json.dumps(weights).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 100_000_000)  # sparse
    (tmp_path / "config.json").write_text('{"text_config": {"dtype": "bfloat16"}}')
    (tmp_path / "tokenizer.json").write_text("{}")
    role = ModelConfig(model=str(tmp_path))
    for gpus, memory in (([], "0.2 GB"), ([0], "0.1 GB")):
        monkeypatch.setattr("imagescope.models.device.visible_gpus", lambda gpus=gpus: gpus)
        ((check, text),) = requirements([("reasoner", role), ("verifier", role)])
        assert check.state == "ok"
        expected = f"reasoner, verifier: {tmp_path}: in place; about {memory} of memory"
        assert text == expected


def test_a_first_batch_says_how_long_the_rest_takes(
    oracle: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("imagescope"), "propagate", True)
    models = tmp_path / "small.yaml"
    text = MODELS.replace("max_tokens: 96", "max_tokens: 96, batch_size: 2")
    models.write_text(text.replace("library: words", "library: words, batch_size: 2"))
    scenes(tmp_path / "in", 12)
    with caplog.at_level(logging.INFO, "imagescope"):
        build(tmp_path / "in", "n", str(models))
    told = dict.fromkeys(line for line in caplog.messages if "by the first ones" in line)
    assert [re.sub(": .* for", " for", line) for line in told] == [
        "captions for 8 pictures, by the first ones",
        "vectors for 12 pictures, by the first ones",
    ]
    assert len(ASKED) == 12  # the first ones are not asked again
