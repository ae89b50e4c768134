"""One contract, run on every engine with real (tiny) checkpoints; then what is each one's own."""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Endpoint, Handler
from PIL import Image

from imagescope.config import ModelConfig
from imagescope.engines import choose, open_engine
from imagescope.engines.base import Pair, Picture, Request, Response, collect
from imagescope.engines.child import Child, EngineDied
from imagescope.engines.text import cut, neutral, neutraliser, shares, wrap
from imagescope.engines.transformers import Transformers
from imagescope.errors import UserError
from imagescope.methods.prompts import fill, load_prompts
from imagescope.models import device
from imagescope.registry import ENGINES
from imagescope_tiny.language import holds, question, random_claim
from imagescope_tiny.scenes import draw, random_scene

MODELS = Path(__file__).parents[2] / "data" / "tiny" / "models"
TEMPLATES = {"verifier": "{prompt}", "captioner": "USER:<image>\n{prompt}\nASSISTANT:"}
ASK = "Answer the question with Yes or No. {}"


def synthesis(instruction: str) -> str:
    """What the reasoner is asked in a run."""
    reference = "a large blue circle at the top left on a white background"
    prompt = load_prompts("tiny", "CIRR")["synthesis"]
    return fill(prompt, INSTRUCTION=instruction, REF_IMAGE_DESC=reference)


def configured(role: str, **settings: Any) -> ModelConfig:
    if not (MODELS / role).is_dir():
        pytest.skip(f"no tiny {role} here")
    base = {"model": str(MODELS / role), "max_num_seqs": 32, "template": TEMPLATES.get(role)}
    return ModelConfig(**base | {"max_model_len": 1024} | settings)


class Served(Endpoint):
    """An endpoint with a real model behind it."""

    def __init__(self, role: str):
        super().__init__(self.ask)
        self.engine, self.one = Transformers(configured(role)), threading.Lock()

    def ask(self, handler: Handler) -> None:
        body = handler.body
        content = body["messages"][0]["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        with tempfile.TemporaryDirectory() as folder, self.one:
            images = []
            for part in parts[:-1]:
                data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
                path = Path(folder) / f"{len(images)}.png"
                path.write_bytes(base64.b64decode(data))
                images.append(Picture(str(path)))
            request = Request(
                parts[-1]["text"],
                tuple(images),
                body["max_tokens"],
                stop=tuple(body.get("stop", ())),
                choices=("yes", "no") if body.get("logprobs") else (),
            )
            (found,) = collect(self.engine, [request])
        if found.error:
            handler.reply(400, {"error": {"message": found.error}})
            return
        choice: dict[str, Any] = {"finish_reason": found.finish}
        if found.probabilities:
            named = zip(("Yes", " no"), found.probabilities, strict=True)
            top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in named]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        usage = {"prompt_tokens": found.prompt_tokens, "completion_tokens": found.output_tokens}
        handler.answer(content=found.text, choice=choice, whole={"usage": usage})

    def close(self) -> None:
        self.__exit__()
        self.engine.close()


KINDS = ["transformers", "openai", "vllm"]


class Opened:
    """The engines of one kind, each opened when a test first wants it."""

    def __init__(self, kind: str):
        self.kind = kind
        self.engines: dict[str, Any] = {}
        self.endpoints: dict[str, Served] = {}

    def __call__(self, role: str) -> Any:
        if role not in self.engines:
            config = configured(role)
            if self.kind == "openai":
                self.endpoints[role] = Served(role)
                self.endpoints[role].__enter__()
                config = ModelConfig(model=role, base_url=self.endpoints[role].url)
            # one model in memory at a time, as in a run
            for other in self.engines.values():
                other.close()
            self.engines[role] = open_engine(config, self.kind)  # type: ignore[arg-type]
        return self.engines[role]

    def close(self) -> None:
        for opened in [*self.engines.values(), *self.endpoints.values()]:
            opened.close()


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    package = ENGINES.load(request.param).package or request.param
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed here")
    engines = Opened(request.param)
    yield engines
    engines.close()


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Request, bool]]:
    """Forty questions about ten unseen scenes, half of them to be answered with yes."""
    folder, rng, found = tmp_path_factory.mktemp("scenes"), Random(5), []
    for n in range(10):
        scene = random_scene(rng, "benchmark")
        path = folder / f"{n}.png"
        draw(scene).save(path)
        for truth in (True, False, True, False):
            claim = random_claim(scene, rng)
            while holds(claim, scene) != truth:
                claim = random_claim(scene, rng)
            ask = ASK.format(question(claim))
            found.append((Request(ask, (Picture(str(path)),), 1, choices=("yes", "no")), truth))
    return found


def test_yes_and_no_have_probabilities(
    opened: Opened, questions: list[tuple[Request, bool]]
) -> None:
    responses = collect(opened("verifier"), [r for r, _ in questions])
    right = 0
    for response, (_, truth) in zip(responses, questions, strict=True):
        assert response.error is None
        yes, no = response.probabilities
        assert 0 <= yes <= 1 and yes + no == pytest.approx(1)
        right += ("yes" in response.text.lower()) == truth
        if abs(yes - no) > 0.02:
            assert ("yes" in response.text.lower()) == (yes > no)
        assert response.output_tokens == 1 and response.prompt_tokens > 16
    assert right >= 34  # the engine; test_tiny_models.py asks how good the model is


def test_one_bad_request_spoils_no_other(
    opened: Opened, questions: list[tuple[Request, bool]], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no image")
    good = [r for r, _ in questions[:3]]
    bad = replace(good[0], images=(Picture(str(tmp_path / "bad.png")),))
    gone = replace(good[0], images=(Picture(str(tmp_path / "gone.png")),))
    long = replace(good[0], prompt="is there a circle? " * 2000)
    found = collect(opened("verifier"), [bad, good[0], long, good[1], gone, good[2]])
    assert [bool(r.error) for r in found] == [True, False, True, False, True, False]
    assert "bad.png" in str(found[0].error) and "gone.png" in str(found[4].error)
    assert [r.finish for r in found if r.error] == ["error"] * 3
    alone = collect(opened("verifier"), good)
    for a, b in zip([found[1], found[3], found[5]], alone, strict=True):
        assert a.text == b.text
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-3)


def test_control_tokens_in_a_prompt_are_text(
    opened: Opened, questions: list[tuple[Request, bool]]
) -> None:
    request = questions[0][0]
    hostile = [replace(request, prompt=f"{t} {request.prompt}") for t in ("<image>", "<eos>")]
    for response in collect(opened("verifier"), hostile):
        assert response.error is None and response.output_tokens == 1


def test_every_request_is_answered_once(
    opened: Opened, questions: list[tuple[Request, bool]]
) -> None:
    requests = [r for r, _ in questions]
    pairs = [pair for answers in opened("verifier").generate(requests) for pair in answers.items()]
    assert sorted(i for i, _ in pairs) == list(range(len(requests)))
    assert list(opened("verifier").generate([])) == []


def test_text_limits_and_stops(opened: Opened) -> None:
    engine, request = opened("reasoner"), Request(synthesis("make the circle red"), (), 12)
    (free,) = collect(engine, [request])
    assert free.error is None and free.text
    assert 0 < free.output_tokens <= 12
    assert free.finish == ("length" if free.output_tokens == 12 else "stop")
    (short,) = collect(engine, [replace(request, max_tokens=3)])
    assert free.text.startswith(short.text) and short.output_tokens == 3
    assert short.finish == "length"
    word = free.text.split()[-2]
    (stopped,) = collect(engine, [replace(request, stop=("@never@", word))])
    assert stopped.text == free.text[: free.text.index(word)]
    assert stopped.finish == "stop"


def test_what_a_text_model_says_to_an_image(opened: Opened, tmp_path: Path) -> None:
    draw(random_scene(Random(0))).save(tmp_path / "a.png")
    image = Picture(str(tmp_path / "a.png"))
    found = collect(opened("reasoner"), [Request("a", (image,), 3), Request("a", (), 3)])
    assert found[0].error and not found[1].error


def test_a_pair_is_laid_side_by_side(opened: Opened, tmp_path: Path) -> None:
    rng = Random(1)
    paths = [str(tmp_path / f"{n}.png") for n in range(2)]
    for path in paths:
        draw(random_scene(rng, "benchmark")).save(path)
    requests = [
        Request("make the circle red", (Pair(left, paths[1]),), 60) for left in (paths[0], None)
    ]
    for response in collect(opened("evaluator"), requests):
        assert response.error is None and response.text and response.prompt_tokens > 8


def test_memory_is_given_back_and_the_engine_used_again(
    opened: Opened, questions: list[tuple[Request, bool]]
) -> None:
    engine, (request, _) = opened("verifier"), questions[0]
    before = collect(engine, [request])
    loads = engine.loads
    engine.close()
    assert [r.text for r in collect(engine, [request])] == [r.text for r in before]
    assert engine.loads == (0 if opened.kind == "openai" else loads + 1)


def test_the_identity_is_the_checkpoints_content(opened: Opened, tmp_path: Path) -> None:
    if opened.kind == "openai":
        assert opened("reasoner").identity["engine"] == "openai"
        return
    config = configured("reasoner")
    shutil.copytree(MODELS / "reasoner", tmp_path / "copy")

    def identity(**changes: Any) -> dict[str, Any]:
        changed = config.model_copy(update=changes)
        return open_engine(changed, opened.kind).identity  # type: ignore[arg-type]

    first = identity()
    assert json.loads(json.dumps(first)) == first
    assert first["engine"] == opened.kind and first["dtype"] == "float32"
    assert identity(model=str(tmp_path / "copy"), batch_size=3, max_num_seqs=1) == first
    for change in ({"dtype": "bfloat16"}, {"template": "{prompt}"}, {"max_model_len": 100}):
        assert identity(**change) != first
    (tmp_path / "copy" / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert identity(model=str(tmp_path / "copy")) != first


def test_a_missing_checkpoint_is_said_before_anything_is_loaded(opened: Opened) -> None:
    if opened.kind == "openai":
        pytest.skip("an endpoint has its own")
    engine = open_engine(ModelConfig(model="/no/such"), opened.kind)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="/no/such"):
        _ = engine.identity


# transformers


def test_company_does_not_change_a_text() -> None:
    engine = Transformers(configured("reasoner", batch_size=3))
    requests = [
        Request(synthesis(" and ".join(["make the circle red"] * (n % 5 + 1))), (), 8)
        for n in range(8)
    ]
    together = [r.text for r in collect(engine, requests)]
    engine.close()
    single = Transformers(configured("reasoner", batch_size=1))
    assert [r.text for r in collect(single, requests)] == together
    assert [r.text for r in collect(single, requests[::-1])] == together[::-1]


def test_a_small_model_takes_one_thread_and_gives_the_others_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    engine, counts, usual = Transformers(configured("reasoner")), [], torch.get_num_threads()
    collect(engine, [Request("a", (), 1)])
    generate = engine._model.generate

    def counted(*inputs: Any, **options: Any) -> Any:
        counts.append(torch.get_num_threads())
        return generate(*inputs, **options)

    monkeypatch.setattr(engine._model, "generate", counted)
    torch.set_num_threads(3)
    try:
        collect(engine, [Request("a", (), 1)])
        monkeypatch.setattr(device, "SMALL", 1_000)
        collect(engine, [Request("a", (), 1)])
        assert counts == [1, 3] and torch.get_num_threads() == 3
        with pytest.raises(ValueError), device.threads_for(parameters=10):
            raise ValueError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(usual)


def test_quantisation_needs_vllm() -> None:
    with pytest.raises(UserError, match="fp8"):
        collect(Transformers(configured("reasoner", quantization="fp8")), [Request("a")])


def test_a_template_without_a_place_for_the_prompt() -> None:
    with pytest.raises(UserError, match="no \\{prompt\\}"):
        collect(Transformers(configured("reasoner", template="x")), [Request("a")])


def test_an_unknown_dtype() -> None:
    with pytest.raises(UserError, match="float23"):
        collect(Transformers(configured("reasoner", dtype="float23")), [Request("a")])


def test_a_schema_that_transformers_passes_over_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Transformers(configured("reasoner"))
    for _ in range(2):
        collect(engine, [Request("a", (), 1, schema="{}")])
    assert ["schema: true" in record.message for record in caplog.records] == [True]


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    engine, sizes = Transformers(configured("reasoner")), list[int]()
    forward = engine._forward

    def small(requests: list[Request], *rest: Any) -> list[Response]:
        sizes.append(len(requests))
        if len(requests) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return forward(requests, *rest)

    monkeypatch.setattr(engine, "_forward", small)
    assert not any(r.error for r in collect(engine, [Request(str(n), (), 2) for n in range(10)]))
    assert sizes == [10, 5, 2, 3, 5, 2, 3]


def test_a_fault_of_our_own_is_no_bad_request(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Transformers(configured("reasoner"))
    for kind in (TypeError, IndexError, KeyError):

        def broken(*_: Any, kind: type[Exception] = kind) -> list[Response]:
            raise kind("ours")

        monkeypatch.setattr(engine, "_forward", broken)
        with pytest.raises(kind, match="ours"):
            collect(engine, [Request("a", (), 2)])


def test_a_token_outside_the_models_tables_is_that_requests_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch says so by an IndexError."""
    engine = Transformers(configured("reasoner"))
    collect(engine, [Request("a", (), 2)])
    vocabulary = len(engine._tokenizer)
    tokenizer = engine._tokenizer

    def wrong(texts: list[str], **options: Any) -> Any:
        inputs = tokenizer(texts, **options)
        rows = [n for n, text in enumerate(texts) if "bad" in text]
        inputs["input_ids"][rows, -1] = vocabulary + 10_000
        return inputs

    for name in ("get_vocab", "decode", "apply_chat_template"):
        setattr(wrong, name, getattr(tokenizer, name))
    wrong.chat_template = tokenizer.chat_template  # type: ignore[attr-defined]
    monkeypatch.setattr(engine, "_tokenizer", wrong)
    found = collect(engine, [Request("good", (), 2), Request("bad", (), 2)])
    assert [bool(r.error) for r in found] == [False, True]


def test_vllm_is_kept_full_and_reads_images_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever batch an image falls into, its own request is answered with it."""
    from imagescope.engines import vllm

    paths = [str(tmp_path / f"{n}.png") for n in range(7)]
    for n, path in enumerate(paths):
        Image.new("RGB", (n + 1, 1)).save(path)
    Path(paths[2]).write_text("no image")

    class Model:
        """Takes requests as vLLM does, and answers two at a step."""

        def __init__(self) -> None:
            self.waiting, self.most, self.count, self.llm_engine = list[Any](), 0, count(), self

        def enqueue(self, prompts: list[Any], parameters: list[Any], use_tqdm: bool) -> list[str]:
            name = str(next(self.count))
            self.waiting.append(SimpleNamespace(request_id=name, finished=True, said=prompts[0]))
            self.most = max(self.most, len(self.waiting))
            return [f"{name}-of-its-own"]

        def step(self) -> list[Any]:
            done, self.waiting = self.waiting[:2], self.waiting[2:]
            return done

    engine, model = vllm.VLLM(configured("verifier")), Model()

    def prompt(_: str, request: Request, pixels: Any) -> str:
        return str(pixels[request.images[0]].width)

    monkeypatch.setattr(vllm, "PART", 2)
    for name, value in {
        "_load": lambda: None,
        "_llm": model,
        "_sees": True,
        "_room": 3,
        "_refusals": (ValueError,),
        "_parameters": lambda request: None,
        "_prompt": prompt,
        "_response": lambda request, output: Response(output.said),
    }.items():
        monkeypatch.setattr(engine, name, value, raising=False)
    found = collect(engine, [Request("", (Picture(path),)) for path in [*paths, paths[0]]])
    assert [r.text for r in found] == ["1", "2", "", "4", "5", "6", "7", "1"]
    assert [i for i, r in enumerate(found) if r.error] == [2]
    assert model.most == 3  # it is given two more whenever it has fewer than three


# A child process


def test_a_child_that_is_killed_says_so_and_starts_again() -> None:
    child = Child("transformers", configured("reasoner"))
    try:
        expected = collect(child, [Request("a", (), 4)])
        assert child._process is not None
        os.kill(child._process.pid, signal.SIGKILL)
        with pytest.raises(EngineDied, match="SIGKILL"):
            collect(child, [Request("a", (), 4)])
        assert collect(child, [Request("a", (), 4)]) == expected
        assert child.loads == 2 and child.load_seconds > 0
    finally:
        child.close()


def test_a_childs_error_reaches_the_reader() -> None:
    child = Child("transformers", configured("reasoner", template="x"))
    with pytest.raises(UserError, match="no \\{prompt\\}"):
        collect(child, [Request("a")])
    assert child._process is None


PARENT = """
import sys
from imagescope.config import ModelConfig
from imagescope.engines.base import Request, collect
from imagescope.engines.child import Child
child = Child("transformers", ModelConfig(model=sys.argv[1]))
collect(child, [Request("a", (), 2)])
print(child._process.pid, flush=True)
for _ in child.generate([Request(str(n), (), 200) for n in range(5000)]): pass
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_child_dies_with_its_parent() -> None:
    command = [sys.executable, "-c", PARENT, configured("reasoner").model]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(pid)


def test_the_chat_templates_options_are_part_of_the_identity() -> None:
    options = {"enable_thinking": False}
    local = configured("reasoner", chat_template_options=options)
    assert device.identity("vllm", local)["chat_template_options"] == options
    assert "chat_template_options" not in device.identity("vllm", configured("reasoner"))
    assert open_engine(local).declared["chat_template_options"] == options
    assert "chat_template_options" not in open_engine(configured("reasoner")).declared


# vLLM


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here")
def test_a_schema_is_followed() -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    child = Child("vllm", configured("reasoner"))
    try:
        request = Request(synthesis("make it red"), (), 40, schema=json.dumps(schema))
        (found,) = collect(child, [request])
        assert json.loads(found.text)["colour"] in ("red", "blue")
    finally:
        child.close()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here")
@pytest.mark.parametrize("role", ["captioner", "verifier", "evaluator", "reasoner"])
def test_vllm_and_transformers_say_the_same(role: str, tmp_path: Path) -> None:
    rng, requests = Random(2), []
    for n in range(20):
        paths = [str(tmp_path / f"{n}-{side}.png") for side in "lr"]
        for path in paths:
            draw(random_scene(rng, "benchmark")).save(path)
        images = {
            "captioner": (Picture(paths[0]),),
            "verifier": (Picture(paths[0]),),
            "evaluator": (Pair(paths[0], paths[1]),),
        }.get(role, ())
        ask = {"captioner": "Describe the image.", "verifier": ASK.format("is there a circle?")}
        requests.append(Request(ask.get(role, synthesis(f"make circle {n} red")), images, 40))
    found = []
    for kind in ("transformers", "vllm"):
        engine = Child(kind, configured(role))
        found.append([r.text for r in collect(engine, requests)])
        engine.close()
    same = sum(a == b for a, b in zip(*found, strict=True))
    # PaliGemma's mask over the question differs between the two: see docs/engines.md
    assert same >= (18 if role == "verifier" else 20)


# Choosing, and text


def test_who_chooses_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    works = [True]
    monkeypatch.setattr("imagescope.engines.vllm_works", lambda: works[0])
    config = ModelConfig(model="m")
    assert choose(config) == "vllm"
    works[0] = False
    assert choose(config) == "transformers"
    assert choose(config, "openai") == "openai"
    assert choose(config.model_copy(update={"engine": "transformers"}), "vllm") == "transformers"
    assert choose(config.model_copy(update={"base_url": "http://x"})) == "openai"
    monkeypatch.setattr("imagescope.engines.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        choose(config, "vllm")


def test_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    present = [Path(f"/dev/nvidia{n}") for n in (2, 0, 1)]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(present))
    monkeypatch.setattr(device, "_gpu_build", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device.visible_gpus() == ["0", "1", "2"]
    for value, expected in {
        "1": ["1"],
        "2, 0": ["2", "0"],
        "": [],
        "-1": [],
        "0,-1,2": ["0"],
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert device.visible_gpus() == expected
    monkeypatch.setattr(device, "_gpu_build", lambda: False)
    assert device.visible_gpus() == []


def test_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(model="m")
    monkeypatch.setattr(device, "read_config", lambda *_: {"text_config": {"dtype": "bfloat16"}})
    assert device.resolve_dtype(config, on_gpu=False) == "float32"
    assert device.resolve_dtype(config, on_gpu=True) == "bfloat16"
    monkeypatch.setattr(device, "read_config", lambda *_: {"torch_dtype": "float16"})
    assert device.resolve_dtype(config, on_gpu=True) == "float16"
    assert device.resolve_dtype(config.model_copy(update={"dtype": "float32"}), True) == "float32"


def test_text_helpers() -> None:
    class Tokenizer:
        all_special_tokens: Sequence[str] = ("<s>", "<image>", "\n")

    control = neutraliser(Tokenizer())
    assert neutral("a <image> <s>\n", control) == "a < image> < s>\n"
    assert wrap("U: {prompt} {x}", "{y}{prompt}") == "U: {y}{prompt} {x}"
    assert cut("abc|def", ("x", "|", "f")) == ("abc", True)
    assert cut("abc", ()) == ("abc", False)
    assert shares({1: 0.2, 2: 0.1, 3: 0.1}, [[1, 2], [3]]) == pytest.approx((0.75, 0.25))
    assert shares({1: 0.0, 3: 0.0}, [[1], [3]]) == ()
    assert shares({1: float("nan"), 3: 0.5}, [[1], [3]]) == ()


def test_nothing_is_looked_up_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("imagescope.engines.choose", never)
    engine = open_engine(ModelConfig(model="/no/such"))
    assert engine.declared["model"] == "/no/such" and engine.declared["engine"] == "auto"
    assert engine.loads == 0 and engine.load_seconds == 0
    engine.close()
