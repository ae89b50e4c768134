"""The tiny checkpoints: what they are trained on is what they will see, and they master it."""

from pathlib import Path
from random import Random

import pytest
import torch

from imagescope.errors import UserError
from imagescope.methods.prompts import VERIFICATION, load_prompts
from imagescope.models.images import canvas
from imagescope_tiny import captioner, encoder, evaluator, reasoner, verifier, vision, wishes
from imagescope_tiny.language import judgement, satisfied
from imagescope_tiny.learning import IGNORED, Muon, batch_texts, renamed
from imagescope_tiny.scenes import random_scene, split_of
from imagescope_tiny.tokens import word_tokenizer
from imagescope_tiny.train import evaluate_all, train_all

MODELS = Path(__file__).parents[2] / "data" / "tiny" / "models"


def test_checkpoints_are_small() -> None:
    files = [file for file in MODELS.rglob("*") if file.is_file()]
    assert {file.parent.name for file in files} >= {"encoder", "captioner", "verifier", "evaluator"}
    assert sum(file.stat().st_size for file in files) <= 30e6


def test_encoder_finds_most_images_but_not_all_near_twins() -> None:
    figures = encoder.evaluate_encoder(MODELS / "encoder", count=400, threads=1)
    assert figures["recall_at_1"] >= 0.6
    assert figures["recall_at_1_look_alikes"] <= 0.95  # else verification has nothing to do


def test_captioner_names_every_attribute() -> None:
    figures = captioner.evaluate_captioner(MODELS / "captioner", count=48, threads=1)
    assert figures["all_attributes_right"] >= 0.9


def test_verifier_answers() -> None:
    figures = verifier.evaluate_verifier(MODELS / "verifier", count=240, threads=1)
    assert figures["accuracy_yes"] >= 0.9
    assert figures["accuracy_no"] >= 0.9
    assert figures["well_formed"] == 1


def test_reasoner_reasons() -> None:
    figures = reasoner.evaluate_reasoner(MODELS / "reasoner", count=96, threads=1)
    assert figures["json"] >= 0.97
    assert min(figures["edits"], figures["descriptions"]) >= 0.9
    assert min(figures["questions"], figures["caption edit"]) >= 0.9


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_muon_moves_as_torch_s_does(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(shape))
    theirs = torch.nn.Parameter(ours.detach().clone())
    start = ours.detach().clone()
    optimizers = (
        Muon([ours], 0.1),
        torch.optim.Muon([theirs], 0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved = (theirs - start).norm()
    assert moved > 0.5 and (ours - theirs).norm() < 0.03 * moved  # bfloat16 has 8 bits


def test_training_writes_a_checkpoint_that_answers(tmp_path: Path) -> None:
    said: list[tuple[str, int]] = []
    reasoner.train_reasoner(
        tmp_path / "r",
        steps=2,
        lookups=3,
        threads=1,
        progress=lambda what, step, steps, loss: said.append((what, step)),
    )
    drilled = [("look-ups", step) for step in (1, 2, 3)]
    assert said == [*drilled, ("reasoner", 1), ("reasoner", 2)]
    figures = reasoner.evaluate_reasoner(tmp_path / "r", count=4, threads=1)
    assert figures["answers"] == 4
    assert not any(figures.get(task) for task in reasoner.MIX)  # it has learned nothing yet


def test_evaluator_decides() -> None:
    figures = evaluator.evaluate_evaluator(MODELS / "evaluator", count=64, threads=1)
    assert figures["accuracy"] >= 0.85
    assert figures["well_formed"] == 1


def test_models_are_asked_in_training_as_in_the_product() -> None:
    prompts = load_prompts("tiny", "CIRR")
    assert prompts["caption"] == captioner.REQUEST
    assert evaluator.ASK.format(instruction="[[INSTRUCTION]]") == prompts["evaluation"]
    assert verifier.PROMPT == VERIFICATION


def test_a_pool_of_canvases_holds_the_pixels_of_real_ones() -> None:
    _, processor = evaluator.build()
    pool = evaluator.make_pool(2, processor.image_processor, Random(3))
    images = vision.pictures(pool.scenes)
    real = processor.image_processor([canvas(images[1], images[5])], return_tensors="pt")
    left, right, thumbnail = real["pixel_values"]
    assert torch.equal(pool.left[1], left) and torch.equal(pool.right[5], right)
    made = pool.thumbnail([1], [5])[0]
    outside = [*range(31), *range(33, 64)]  # of the two columns where the halves touch
    assert torch.equal(made[..., outside], thumbnail[..., outside])
    assert (made - thumbnail).abs().max() < 0.2  # of values in about [-2, 2]


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("fulfilled", [True, False])
def test_wishes_have_the_wanted_truth(reference: bool, fulfilled: bool) -> None:
    rng = Random(4)
    for _ in range(30):
        scene = random_scene(rng)
        wish = wishes.any_wish(scene, rng, reference, fulfilled)
        assert satisfied(wish.claims, scene) == fulfilled
        assert judgement(wish.claims, scene).endswith("Yes" if fulfilled else "No")


def test_evaluation_cases_are_balanced_and_held_out() -> None:
    cases = wishes.cases(80, Random(5))
    assert sum(case.expected for case in cases) == 40
    assert all(split_of(case.right) == "benchmark" for case in cases)


def test_questions_have_the_wanted_answer_and_are_about_everything() -> None:
    rng, asked = Random(6), set()
    for expected in (True, False):
        asked |= {verifier.random_question(random_scene(rng), rng, expected) for _ in range(300)}
    words = set(" ".join(asked).replace("?", "").split())
    assert words >= {"background", "small", "object", "cross", "purple", "left", "bottom"}


def test_labels_are_what_follows() -> None:
    ids, mask, labels = batch_texts([[5, 6, 7], [5]], [[8, 9], [4]], pad=0)
    assert ids.tolist() == [[5, 6, 7, 8], [5, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert labels.tolist() == [[IGNORED, IGNORED, 8, 9], [4, IGNORED, IGNORED, IGNORED]]


def test_every_word_is_one_token_and_nothing_is_unknown() -> None:
    tokenizer = word_tokenizer(["a large orange triangle"], special=["<pad>"], pad_token="<pad>")
    assert len(tokenizer("a large orange triangle")["input_ids"]) == 4
    strange = "Zürich, 東京\n\tok"
    assert tokenizer.decode(tokenizer(strange)["input_ids"]) == strange


def test_renaming_takes_the_first_match() -> None:
    assert renamed("a.b", {"a.": "a.c."}) == "a.c.b"
    assert renamed("x.a.b", {"a.": "a.c."}) == "x.a.b"


def test_unknown_roles_and_missing_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint: reranker"):
        train_all(tmp_path, ["reranker"])
    with pytest.raises(UserError, match="tiny train"):
        evaluate_all(tmp_path, ["encoder"])
