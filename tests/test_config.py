"""Configuration: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from imagescope.cli.app import normalise
from imagescope.config import (
    PACKAGE,
    ROLES,
    ModelConfig,
    config_path,
    load_models,
    load_run,
    parse_options,
)
from imagescope.engines import is_remote
from imagescope.errors import UserError
from imagescope.methods.base import open_method

DATASETS = [
    "CIRCO", "CIRR", "FashionIQ-dress", "FashionIQ-shirt", "FashionIQ-toptee",
    "Flickr30K", "MSCOCO", "VisDial",
]  # fmt: skip

SETS = sorted(path.stem for path in (PACKAGE.parent / "configs" / "models").glob("*.yaml"))


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("models", SETS)
def test_every_packaged_pair_is_valid(dataset: str, models: str) -> None:
    run = load_run(f"configs/{dataset}.yaml", {"models": models})
    assert run.dataset == dataset and run.models_name == models
    options = open_method(run.method, run.options).options
    assert (options.tau, options.top_k, options.alpha) == (0.15, 20, 3)
    assert options.stages == ("s1", "s2", "s3")
    assert run.protocol == "paper" and run.exclude_reference is run.first_round is None


def test_default_splits() -> None:
    splits = {d: load_run(f"configs/{d}.yaml").split for d in DATASETS}
    assert splits == {d: "val" if d[:3] in ("Fas", "Vis") else "test" for d in DATASETS}


def test_the_papers_models_and_their_decoding() -> None:
    models = load_models("paper")
    assert models.captioner.model == "llava-hf/llava-v1.6-vicuna-7b-hf"
    assert models.captioner.template == "USER:<image>\n{prompt}\nASSISTANT:"
    assert (models.captioner.max_tokens, models.captioner.repetition_penalty) == (256, 1.05)
    assert models.reasoner.model == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert (models.reasoner.max_tokens, models.reasoner.max_model_len) == (2048, 4096)
    assert models.verifier.model == "google/paligemma-3b-mix-224"
    assert models.verifier.template == "{prompt}"
    assert models.evaluator.model == "OpenGVLab/InternVL2-8B" and models.evaluator.trust_remote_code
    assert (models.evaluator.max_tokens, models.evaluator.max_model_len) == (4096, 8192)
    assert set(models.evaluator.stop) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|end|>"}
    assert models.encoder.model == "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
    assert models.encoder.dtype == "float32"
    assert models.reasoner.template is None and models.evaluator.template is None


def test_only_the_evaluator_of_the_paper_runs_remote_code_and_it_is_pinned() -> None:
    for name in SETS:
        models = load_models(name)
        for role in ("captioner", "reasoner", "verifier", "evaluator"):
            config = models.role(role)
            if config.trust_remote_code:
                assert (role, config.revision is not None) == ("evaluator", True)


def test_a_laptop_needs_two_checkpoints_without_code_of_their_own() -> None:
    models = load_models("laptop")
    roles = [models.role(name) for name in ROLES]
    assert all(role == roles[0] for role in roles)  # loaded once
    assert not roles[0].trust_remote_code and not is_remote(roles[0])
    assert models.note.startswith("Not run where this project was developed")


def test_every_example_of_a_server_is_a_valid_set(tmp_path: Path) -> None:
    text = (PACKAGE.parent / "configs" / "models" / "server.yaml").read_text()
    rest = text[text.index("reasoner:") :]
    examples = re.findall(r"^(?:# )?captioner: .*\n(?:(?:# )?  .*\n)+", text, re.MULTILINE)
    assert len(examples) == 4
    addresses = set()
    for example in examples:
        path = tmp_path / "mine.yaml"
        path.write_text(re.sub("^# ", "", example, flags=re.MULTILINE) + rest)
        models = load_models(path)
        assert all(is_remote(models.role(name)) for name in ROLES)
        addresses.add(models.role("verifier").base_url)
    assert len(addresses) == 4 and load_models("server").role("reasoner").base_url in addresses


def test_a_set_may_have_an_encoder_alone(tmp_path: Path) -> None:
    path = tmp_path / "encoder.yaml"
    path.write_text("encoder: {model: e}\n")
    models = load_models(path)
    assert models.roles == ()
    with pytest.raises(UserError, match="the models have no reasoner"):
        models.role("reasoner")
    assert load_models(path, {"captioner": "c"}).role("captioner").model == "c"
    run = load_run("configs/CIRR.yaml", {"models": path, "method": "text-only"})
    assert run.models.roles == ()


def test_what_a_role_may_ask_of_a_thinking_model(tmp_path: Path) -> None:
    path = tmp_path / "set.yaml"
    common = "captioner: &a {model: a}\nverifier: *a\nevaluator: *a\nencoder: {model: e}\n"
    options = "answer_tokens: 9, schema: true, chat_template_options: {enable_thinking: false}"
    path.write_text(f"{common}reasoner: {{model: a, {options}}}\n")
    run = load_run("configs/CIRR.yaml", {"models": path})
    reasoner = run.models.reasoner
    assert (reasoner.answer_tokens, reasoner.json_schema) == (9, True)
    assert reasoner.chat_template_options == {"enable_thinking": False}
    assert not run.models.verifier.json_schema and not run.models.verifier.chat_template_options
    path.write_text(f"{common}reasoner: {{model: a, template: '{{prompt}}', {options}}}\n")
    with pytest.raises(UserError, match="leave `template` out"):
        load_models(path)


PIN = "6fb9ad6924f69424e57fab2ab061d707688f0296"


def test_a_replaced_checkpoint_is_not_trusted_for_the_one_before() -> None:
    for other in ("some/model", "OpenGVLab/InternVL2-26B", "data/tiny/models/evaluator"):
        evaluator = load_models("paper", {"evaluator": other}).evaluator
        assert (evaluator.model, evaluator.revision) == (other, None)
        assert not evaluator.trust_remote_code
        assert evaluator.max_tokens == 4096  # the rest of the role stays
    same = load_models("paper", {"evaluator": "OpenGVLab/InternVL2-8B"}).evaluator
    assert same.trust_remote_code and same.revision == PIN


@pytest.mark.parametrize("revision", [None, "main", "v1.0", PIN[:12], "refs/pr/3"])
def test_code_from_the_hub_is_pinned_to_a_commit(revision: str | None) -> None:
    """A branch or a tag can be moved, and the first digits of a commit can be a branch's name."""
    settings = {"model": "some/model", "trust_remote_code": True, "revision": revision}
    with pytest.raises(ValidationError, match=r"some/model brings: pin .* `revision: COMMIT`"):
        ModelConfig.model_validate(settings)


def test_a_set_that_trusts_without_a_pin_is_refused_in_its_own_words(tmp_path: Path) -> None:
    models = yaml.safe_load(config_path("tiny", "models").read_text())
    models["verifier"] |= {"model": "some/model", "trust_remote_code": True}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(models))
    with pytest.raises(
        UserError, match=r"mine.yaml.*\n  verifier: .*some/model/commits/main"
    ) as error:
        load_models(path)
    assert "got {" not in str(error.value)


def test_a_folder_does_not_stand_in_for_a_pinned_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValidationError, match="a folder some/model would run in place"):
        ModelConfig(model="some/model", trust_remote_code=True, revision=PIN)
    assert ModelConfig(model="./some/model", trust_remote_code=True).trust_remote_code


def test_a_role_can_be_replaced() -> None:
    run = load_run("configs/CIRR.yaml", None, {"verifier": "some/model", "encoder": "a/clip"})
    assert run.models.verifier.model == "some/model"
    assert run.models.verifier.template == "{prompt}"  # the rest of the role stays
    assert run.models.encoder.model == "a/clip"


def test_prompts_follow_option_then_models_then_dataset() -> None:
    assert load_run("configs/CIRR.yaml", {"models": "paper"}).prompts == "general"
    assert load_run("configs/CIRR.yaml", {"models": "tiny"}).prompts == "tiny"
    assert load_run("configs/CIRR.yaml", {"models": "tiny", "prompts": "dress"}).prompts == "dress"


# nine levels of nine aliases each
LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: CIRR\ntau_: 1", "tau_"),
        ("dataset: CIRR\noptions: 3", "options: expected name: value, got 3"),
        ("dataset: CIRR\nsplit: train", "split"),
        ("tau: 0.1", "dataset"),
        ("[1, 2]", "expected options"),
        ("a: [", "not valid YAML"),
        ("[" * 20_000, "nested too deep"),
        ("{a: " * 500 + "1" + "}" * 500, "nested too deep"),
        ("a: &a [*a]", "more than 10000 values"),
        ("a: &a {b: *a}", "more than 10000 values"),
        (LAUGHS, "more than 10000 values"),
        (LAUGHS.replace("[", "{<<: [").replace("]", "]}"), "more than 10000 values"),
        ("#" * 70_000, "longer than 64 KiB"),
        ("dataset: " + "9" * 5000, "not valid YAML"),
        ("dataset: 2024-99-99", "not valid YAML"),
        ("dataset: !!int ''", "not valid YAML"),
        ("dataset: !!bool perhaps", "not valid YAML"),
        ("dataset: !!timestamp x", "not valid YAML"),
        ("dataset: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("dataset: CIRR\n" + "\n".join(f"x{n}: 1" for n in range(2000)), "x0: Extra"),
        ("dataset: CIRR\nkeep: " + "x" * 5000, "keep: .*got 'xxx"),
    ],
)
def test_bad_configs_name_the_option(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"(?s)run.yaml.*{message}") as error:
        load_run(path)
    assert len(str(error.value)) < 8000


def test_configs_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_run("configs/CIRR.yaml").dataset == "CIRR"
    assert config_path("CIRR").name == "CIRR.yaml"
    with pytest.raises(UserError, match=r"no such config: configs/None\.yaml.*CIRR"):
        load_run("configs/None.yaml")
    with pytest.raises(UserError, match="no such config: xxx"):
        load_run("x" * 5000)  # longer than a file's name can be
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "CIRR.yaml").write_text("dataset: CIRR\ntau: 0.5")
    options = load_run("configs/CIRR.yaml").options
    assert options == {"tau": 0.5}  # the user's own file comes first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tau: 2", "tau.*less than or equal to 1.*got 2"),
        ("top_k: 0", "top_k"),
        ("options: {alpha: x}", "alpha.*got 'x'"),
        ("stages: s1 s3", "stages build on each other"),
        ("options: {topk: 3}", r"no option topk: did you mean top_k\? \(there are tau, top_k"),
        ("method: cirevl\ntau: 0.3", r"method cirevl has no option tau: there are cut_at_colon"),
        ("method: text-only\noptions: {x: 1}", "has no option x: there are none"),
        ("method: cirvel", r"no method is named cirvel: did you mean cirevl\? \(there are"),
    ],
)
def test_bad_options_of_a_method_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"dataset: CIRR\n{text}")
    with pytest.raises(UserError, match=f"(?s){message}"):
        run = load_run(path)
        open_method(run.method, run.options)


@pytest.mark.parametrize(
    ("text", "given", "options"),
    [
        ("tau: 0.5", {}, {"tau": 0.5}),
        ("options: {tau: 0.5}", {"tau": 0.2, "alpha": None}, {"tau": 0.2}),
        ("tau: 0.5\nalpha: 1", {"options": {"tau": 0.2}}, {"tau": 0.2, "alpha": 1}),
        ("tau: 0.5", {"method": "imagescope"}, {"tau": 0.5}),
        # what the file says of its method is not said of another
        ("tau: 0.5", {"method": "cirevl"}, {}),
        ("tau: 0.5", {"method": "cirevl", "options": {"cut_at_colon": True}},
         {"cut_at_colon": True}),
        ("method: cirevl\noptions:\n  cut_at_colon: true", {}, {"cut_at_colon": True}),
    ],
)  # fmt: skip
def test_options_of_the_command_line_are_laid_over_the_files(
    tmp_path: Path, text: str, given: dict[str, Any], options: dict[str, Any]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"dataset: CIRR\n{text}")
    run = load_run(path, given)
    assert run.options == options
    chosen = open_method(run.method, run.options)
    assert all(getattr(chosen.options, name) == value for name, value in options.items())


def test_options_are_read_as_yaml() -> None:
    texts = ["a=1", "b=0.5", "c=yes", "d=[x, 2]", "e=s1 s2", "f=", "g=x=y"]
    assert parse_options(texts) == {
        "a": 1, "b": 0.5, "c": True, "d": ["x", 2], "e": "s1 s2", "f": None, "g": "x=y",
    }  # fmt: skip
    for text in ("tau", "=1", "a=[", "a=2024-99-99"):
        with pytest.raises(UserError, match="option"):
            parse_options([text])


def test_command_lines_of_the_paper() -> None:
    assert normalise(
        ["run", "c.yaml", "--llm_path", "L", "--img_cap_model_path=C", "--mllm_path", "V",
         "--eval_mllm_path", "E", "--clip_path", "P", "--dataset_path", "D", "--top_k", "5",
         "--stages", "s1", "s2", "--run_name", "x_y"]
    ) == [
        "run", "c.yaml", "--reasoner", "L", "--captioner=C", "--verifier", "V", "--evaluator", "E",
        "--clip", "P", "--data-root", "D", "--top-k", "5", "--stages", "s1 s2", "--run-name", "x_y",
    ]  # fmt: skip


def test_global_options_work_anywhere() -> None:
    assert normalise(["run", "c", "--quiet", "--log_level", "debug", "--tau", "1"]) == [
        "--quiet", "--log-level", "debug", "run", "c", "--tau", "1",
    ]  # fmt: skip
    assert normalise(["run", "--stages", "s1 s2 s3", "c"]) == ["run", "--stages", "s1 s2 s3", "c"]
    assert normalise(["search", "n", "a dog", "--stages", "s1", "--top", "3"])[3:5] == [
        "--stages", "s1",
    ]  # fmt: skip
