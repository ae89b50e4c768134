"""The engine for endpoints, and what becomes of a search and a run when one misbehaves."""

from __future__ import annotations

import base64
import json
import logging
import math
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from benchmark_files import small_cirr
from fakes import (
    Behaviour,
    Endpoint,
    Handler,
    completion,
    content,
    echoes,
    endless,
    fails,
    first,
    half,
    hangs_up,
    loops,
    refuses,
    replies,
    says,
    silence,
    slow_headers,
)

from imagescope.cli.app import main
from imagescope.config import ROLES, ModelConfig, load_models
from imagescope.engines import open_engine
from imagescope.engines.base import Request, Response, collect
from imagescope.engines.completion import probabilities
from imagescope.engines.openai import OpenAI
from imagescope.errors import UserError
from imagescope.redaction import redact
from imagescope.store.cache import Cache
from imagescope_tiny.scenes import draw, random_scene

ENCODER = Path(__file__).parents[2] / "data" / "tiny" / "models" / "encoder"
KEY = "sk-a-key-that-nobody-may-see"
USER, PASSWORD = "somebody", "a-password-that-nobody-may-see"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagescope.engines.openai.PAUSE", 0.001)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("OPENAI_BASE_URL", "IMAGESCOPE_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is warned of, whichever way the log's lines go."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("imagescope").addHandler(handler)
    yield messages
    logging.getLogger("imagescope").removeHandler(handler)


def engine(fake: Endpoint, **settings: Any) -> OpenAI:
    return OpenAI(ModelConfig(**{"model": "m", "base_url": fake.url, "timeout": 5} | settings))


ASK = Request("a")


def ask(fake: Endpoint, request: Request = ASK, **settings: Any) -> Response:
    (response,) = collect(engine(fake, **settings), [request])
    return response


# What is sent, and what comes back


def test_what_is_sent(fake: Endpoint) -> None:
    options = {"enable_thinking": False}
    request = Request(
        "h\ud800i", (), 5, 1.05, ("a", "b", "c", "d", "e"), ("yes", "no"), '{"type": "object"}'
    )
    ask(fake, request, chat_template_options=options)
    (body,) = fake.seen
    assert body["messages"] == [{"role": "user", "content": "h?i"}]
    assert (body["temperature"], body["max_tokens"]) == (0, 5)
    assert body["stop"] == ["a", "b", "c", "d"]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    assert body["repetition_penalty"] == 1.05
    assert body["chat_template_kwargs"] == options
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_an_identity_is_what_is_served_not_where() -> None:
    config = ModelConfig(model="m", base_url="http://127.0.0.1:1/v1")
    assert OpenAI(config).identity == {"engine": "openai", "model": "m"}
    other = config.model_copy(update={"base_url": "http://127.0.0.1:2/v1"})
    assert open_engine(other).declared == open_engine(config).declared
    named = config.model_copy(update={"served_as": "Qwen3-8B-AWQ"})
    assert OpenAI(named).identity["served_as"] == "Qwen3-8B-AWQ"
    assert open_engine(named).declared["served_as"] == "Qwen3-8B-AWQ"
    options = {"enable_thinking": False}
    told = config.model_copy(update={"chat_template_options": options})
    assert OpenAI(told).identity["chat_template_options"] == options


def test_the_endpoint_of_the_environment(fake: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
    assert ask(fake, base_url=None).text
    assert len(fake.seen) == 1


def test_openai_itself_wants_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(UserError, match="NO_KEY"):
        collect(OpenAI(ModelConfig(model="m", api_key_env="NO_KEY")), [Request("a")])


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "No, never."}]}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": [THOUGHT, {"type": "text", "text": "A "}, {"text": "cat"}]}, "A cat"),
        ({"content": ["A ", THOUGHT, "cat"]}, "A cat"),
        ({"content": "Yes", "reasoning_content": "No"}, "Yes"),
        ({"content": "Yes", "reasoning": "No"}, "Yes"),
        ({"content": "a\ud800b\u0000"}, "a?b"),
        ({"content": ""}, ""),
    ],
)
def test_the_answer_is_the_text_alone(
    fake: Endpoint, message: dict[str, Any], expected: str
) -> None:
    fake.behave = says(**message)
    assert ask(fake) == Response(expected, 7, 3)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"content": None, "reasoning_content": "Let me think"}, "reasoning"),
        ({"content": "", "reasoning": "Let me think"}, "reasoning"),
        ({"content": [THOUGHT]}, "no text"),
        ({"content": 7}, "no text"),
        ({"content": None, "tool_calls": [{"function": {"name": "look"}}]}, "look"),
        ({"content": None, "refusal": "I will not"}, "refused: I will not"),
        ({"choice": {"finish_reason": "content_filter"}}, "refused: "),
        ({"choice": {"message": None}}, "no text"),
        ({"choice": {"message": None, "error": {"message": "engine died"}}}, "engine died"),
        ({"whole": {"choices": []}}, "no text"),
        ({"whole": {"choices": ["x"]}}, "no text"),
    ],
)
def test_a_choice_without_text_is_an_error(
    fake: Endpoint, message: dict[str, Any], words: str
) -> None:
    fake.behave = says(**message)
    response = ask(fake)
    assert response.finish == "error" and words in str(response.error)


@pytest.mark.parametrize(
    "usage",
    [None, "many", [1], {}, {"prompt_tokens": "7", "completion_tokens": -3}],
)
def test_absent_and_odd_counts_are_0(fake: Endpoint, usage: Any) -> None:
    fake.behave = says(content="a", whole={"usage": usage})
    assert ask(fake) == Response("a", 0, 0)


def test_a_count_of_more_digits_than_python_reads_is_a_count(fake: Endpoint) -> None:
    def huge(h: Handler) -> None:
        h.reply(200, json.dumps(completion(h.body)).replace(": 7,", f": {'9' * 5000},"))

    fake.behave = huge
    assert ask(fake).prompt_tokens == 0 and not ask(fake).error


def named(*entries: Any) -> dict[str, Any]:
    return {"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": list(entries)}]}


def test_probabilities_are_summed_over_spellings() -> None:
    entries = [{"token": t, "logprob": math.log(p)} for t, p in (("Yes", 0.4), (" yes", 0.2))]
    yes, no = probabilities(
        named(*entries, {"token": "NO", "logprob": math.log(0.2)}), ("yes", "no")
    )
    assert (yes, no) == (pytest.approx(0.75), pytest.approx(0.25))
    yes, no = probabilities(named(*entries), ("yes", "no"))
    assert yes > 0.99999 and 0 < no < 1e-5
    assert probabilities(named(), ("yes", "no"))[0] > 0.99999  # the sampled token alone is named


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        "-0.1",
        [],
        {},
        {"content": None},
        {"content": []},
        {"content": [None]},
        {"content": [{"top_logprobs": {"Yes": -0.1}}]},
        {"tokens": ["Yes"], "token_logprobs": [-0.1], "top_logprobs": [{"Yes": -0.1}]},
        named({"token": "maybe", "logprob": -0.1}),
        named(None, 3, {"token": 3, "logprob": -0.1}, {"token": "yes"}),
        named({"token": "yes", "logprob": "-0.1"}, {"token": "no", "logprob": None}),
        named({"token": "yes", "logprob": float("nan")}),
        named({"token": "yes", "logprob": float("-inf")}),
        named({"token": "yes", "logprob": 800}, {"token": "no", "logprob": -(10**400)}),
    ],
)
def test_unknown_probabilities_are_none(logprobs: Any) -> None:
    assert probabilities(logprobs, ("yes", "no")) == ()


# Parameters


@pytest.mark.parametrize(
    ("parameter", "message", "instead"),
    [
        (
            "max_tokens",
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "max_completion_tokens",
        ),
        ("temperature", "Unsupported value: 'temperature' does not support 0 with this model.", ""),
        ("logprobs", "You are not allowed to request logprobs from this model.", ""),
        ("top_logprobs", "top_logprobs must be less than or equal to 5", ""),
        ("stop", "Unrecognized request argument supplied: stop", ""),
        ("response_format", "`response_format` of type json_schema is not supported", ""),
        ("repetition_penalty", 'Unknown name "repetition_penalty": Cannot find field.', ""),
    ],
)
def test_a_refused_parameter_is_renamed_or_left_out_once_and_for_all(
    fake: Endpoint,
    warnings: list[str],
    parameter: str,
    message: str,
    instead: str,
) -> None:
    fake.behave = refuses(parameter, message)
    opened = engine(fake, max_num_seqs=1)
    requests = [Request(f"{n}", (), 5, 1.1, ("x",), ("yes", "no"), "{}") for n in range(3)]
    assert not any(response.error for response in collect(opened, requests))
    assert [parameter in body for body in fake.seen] == [True, False, False, False]
    assert not instead or fake.seen[-1][instead] == 5
    (told,) = warnings
    assert parameter in told and message in told


def test_fastapis_words_for_a_refused_parameter(fake: Endpoint) -> None:
    entry = {"loc": ["body", "repetition_penalty"], "msg": "Extra inputs are not permitted"}
    refusal = replies(422, {"detail": [entry]})
    fake.behave = lambda h: refusal(h) if "repetition_penalty" in h.body else h.answer()
    assert not ask(fake, Request("a", (), 5, 1.1)).error


def test_options_of_the_template_that_are_refused_end_the_run(fake: Endpoint) -> None:
    fake.behave = fails(400, "Unrecognized request argument supplied: chat_template_kwargs")
    with pytest.raises(UserError, match="leave the role's chat_template_options out"):
        ask(fake, chat_template_options={"enable_thinking": False})
    assert len(fake.seen) == 1


@pytest.mark.parametrize(
    "message",
    [
        "'max_tokens' is too large: 4096. This model's maximum context length is 1024 tokens.",
        "Invalid prompt: your prompt was flagged",
    ],
)
def test_a_request_that_is_refused_for_itself(fake: Endpoint, message: str) -> None:
    fake.behave = fails(400, message, param="max_tokens")
    assert ask(fake).error == f"refused: {message}"
    assert len(fake.seen) == 1


# Patience


def test_a_silent_server_is_told_of_once_and_asked_again(
    fake: Endpoint, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagescope.engines.openai.SLOW", 0.05)
    fake.behave = silence
    with pytest.raises(UserError, match=r"did not answer within 0\.2 s"):
        ask(fake, timeout=0.2, retries=1)
    assert len(fake.seen) == 2
    assert len(warnings) == 1 and "no answer for 0.05 s" in warnings[0]
    with pytest.raises(UserError, match=r"did not answer within 0\.2 s"):
        ask(fake, timeout=0.2, retries=5, retry_timeouts=False)
    assert len(fake.seen) == 3


def test_a_busy_server_is_asked_again(fake: Endpoint) -> None:
    fake.behave = first(3, lambda h: fails((503, 429, 500)[h.number - 1], "busy")(h))
    assert not ask(fake, retries=3).error
    fake.seen.clear()
    with pytest.raises(UserError, match="status 500: busy"):
        ask(fake, retries=2)
    assert len(fake.seen) == 3


def test_a_server_that_names_a_time(fake: Endpoint) -> None:
    fake.behave = first(1, replies(429, {"error": {"message": "slow"}}, Retry_After="0.01"))
    assert not ask(fake).error
    for wait in ("3600", "Fri, 01 Jan 2100 00:00:00 GMT"):
        fake.seen.clear()
        fake.behave = replies(429, {"error": {"message": "come tomorrow"}}, Retry_After=wait)
        with pytest.raises(UserError, match="come tomorrow"):
            ask(fake)
        assert len(fake.seen) == 1


def test_a_server_that_is_not_there() -> None:
    gone = ModelConfig(model="m", base_url="http://127.0.0.1:9/v1", retries=1)
    with pytest.raises(UserError, match=r"cannot be reached: .*Is the server up\?"):
        collect(OpenAI(gone), [Request("a")])


WAITING = """
import sys
from imagescope.config import ModelConfig
from imagescope.engines.base import Request, collect
from imagescope.engines.openai import OpenAI
print("asking", flush=True)
collect(OpenAI(ModelConfig(model="m", base_url=sys.argv[1])), [Request(str(n)) for n in range(4)])
"""


def test_nobody_waits_for_a_silent_server() -> None:
    """Ctrl-C ends a run that waits for an endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        line = [sys.executable, "-c", WAITING, url]
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as waiting:
            try:
                assert waiting.stdout and waiting.stdout.readline()
                connection, _ = silent.accept()
                waiting.send_signal(signal.SIGINT)
                assert waiting.wait(20) != 0
                connection.close()
            finally:
                waiting.kill()


# Proxies, certificates, addresses


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "nonsense://x", "http://[", "socks5://x"])
def test_this_machine_is_never_asked_through_a_proxy(
    fake: Endpoint, monkeypatch: pytest.MonkeyPatch, name: str, proxy: str
) -> None:
    monkeypatch.setenv(name, proxy)
    assert ask(fake).text
    assert ask(fake, base_url=fake.url.replace("127.0.0.1", "localhost")).text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "nonsense://x"),
        ("HTTPS_PROXY", "http://["),
        ("ALL_PROXY", f"nonsense://{USER}:{PASSWORD}@x"),
        ("SSL_CERT_FILE", "/no/such/file"),
        ("OPENAI_API_KEY", "sk-\u2026"),
        ("OPENAI_API_KEY", "two\nlines"),
    ],
)
def test_what_cannot_be_used_of_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    elsewhere = ModelConfig(model="m", base_url="https://models.invalid/v1", retries=0)
    with pytest.raises(UserError, match=name) as told:
        collect(OpenAI(elsewhere), [Request("a")])
    assert PASSWORD not in str(told.value)


@pytest.mark.parametrize("address", ["127.0.0.1:8000/v1", "ftp://x", "http://", "http://[", "x"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UserError, match="base_url"):
        collect(OpenAI(ModelConfig(model="m", base_url=address)), [Request("a")])


# Secrets


def test_what_is_redacted() -> None:
    text = f"GET http://{USER}:{PASSWORD}@host:1/v1?x=a@b: Bearer {KEY}"
    assert redact(text, [KEY, ""]) == "GET http://host:1/v1?x=a@b: Bearer ***"
    assert redact("none", ["none"]) == "none"  # a placeholder is no secret


def test_a_configuration_is_written_without_password(tmp_path: Path) -> None:
    url = f"https://{USER}:{PASSWORD}@host/v1"
    config = ModelConfig(model="m", base_url=url)
    assert config.base_url == url
    assert config.model_dump(mode="json")["base_url"] == "https://host/v1"
    assert PASSWORD not in config.model_dump_json()
    (tmp_path / "bad.yaml").write_text(
        f"captioner: {url}\nreasoner: {{model: m, base_url: [{url}]}}"
    )
    with pytest.raises(UserError) as told:
        load_models(tmp_path / "bad.yaml")
    assert PASSWORD not in str(told.value)


# The command line


@dataclass(frozen=True)
class Place:
    """A well-answered index of six pictures and a run's image database, to be copied."""

    home: Path
    image_db: Path
    data: Path
    captions: int  # of the image database, which a run takes over into its cache


def write_models(path: Path, url: str, **settings: Any) -> Path:
    """E.yaml: the language roles at an endpoint, the encoder here."""
    role = {"model": "m/x", "engine": "openai", "base_url": url, "timeout": 5, "retries": 1}
    encoder = {"model": str(ENCODER), "batch_size": 256}
    models = {**dict.fromkeys(ROLES, role | settings), "encoder": encoder, "prompts": "tiny"}
    path.write_text(json.dumps(models))
    return path


def run(place: Place, folder: Path, models: Path, *more: str) -> int:
    options = {
        "--data-root": place.data,
        "--models": models,
        "--runs": folder / "runs",
        "--image-db": folder / "image_db",
        "--cache": folder / "cache.sqlite",
    }
    words = ["--no-preflight", *(str(word) for pair in options.items() for word in pair)]
    return main(["run", "CIRR", "--split", "val", "--limit", "2", "--quiet", *words, *more])


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    if not ENCODER.is_dir():
        pytest.skip("no tiny encoder here")
    folder = tmp_path_factory.mktemp("endpoints")
    (folder / "pictures").mkdir()
    rng = Random(3)
    for n in range(6):
        draw(random_scene(rng), 96).save(folder / "pictures" / f"{n}.png")
    small_cirr(folder / "data")
    splits = folder / "data" / "CIRR" / "image_splits" / "split.rc2.val.json"
    for path in json.loads(splits.read_text()).values():
        (folder / "data" / "CIRR" / path).parent.mkdir(exist_ok=True)
        draw(random_scene(rng), 96).save(folder / "data" / "CIRR" / path)
    found = Place(folder / "home", folder / "image_db", folder / "data", 8)
    with Endpoint() as fake, pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGESCOPE_HOME", str(found.home))
        models = write_models(folder / "E.yaml", fake.url)
        pictures = str(folder / "pictures")
        assert main(["index", pictures, "--name", "six", "--models", str(models)]) == 0
        assert run(found, folder, models, "--stages", "s1") == 0
    return found


PAGE = "<html><title>Welcome</title></html>"


def latin_1(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode("latin-1")


NO_CHAT = "answered with no chat completion"
FINE: dict[str, Behaviour] = {
    "well": Handler.answer,
    "text parts": lambda h: h.answer(content=[THOUGHT, {"type": "text", "text": content(h.body)}]),
    "reasoning beside it": says(reasoning_content="No"),
    "no usage": says(whole={"usage": None}),
    "odd usage": says(whole={"usage": {"prompt_tokens": "7", "completion_tokens": -1}}),
    "no logprobs": says(choice={"logprobs": None}),
    "odd logprobs": says(choice={"logprobs": named({"token": "yes", "logprob": float("nan")})}),
    "choices twice": lambda h: h.answer(whole={"choices": completion(h.body)["choices"] * 2}),
    "Latin-1": lambda h: h.reply(200, latin_1(completion(h.body, system_fingerprint="\u00e9"))),
    "another charset": lambda h: h.reply(200, completion(h.body), "text/plain; charset=latin-1"),
    "500 at first": first(1, fails(500, "busy")),
    "429 at first": first(1, replies(429, "slow", Retry_After="0")),
    "quota at first": first(1, fails(200, "quota used up", code=429)),
    "closed at first": first(1, hangs_up),
    "no max_tokens": refuses("max_tokens", "Unsupported parameter: 'max_tokens'"),
    "no temperature": refuses("temperature", "'temperature' does not support 0", 422),
    "no logprobs asked": refuses("logprobs", "logprobs are not supported"),
}
BAD: dict[str, tuple[Behaviour, str]] = {
    "page": (replies(200, PAGE, "text/html"), f"{NO_CHAT} (status 200, text/html, begins <html>"),
    "other JSON": (replies(200, {"message": "hello"}), NO_CHAT),
    "list": (replies(200, [1, 2]), NO_CHAT),
    "empty": (replies(200, b""), f"{NO_CHAT} (status 200, application/json, empty)"),
    "204": (replies(204, b""), f"{NO_CHAT} (status 204"),
    "truncated": (replies(200, '{"choices": [{"message": {"con'), NO_CHAT),
    "binary": (replies(200, bytes(range(256)), "application/octet-stream"), NO_CHAT),
    "wrong charset": (replies(200, latin_1({"choices": "caf\u00e9"})), NO_CHAT),
    "deep": (replies(200, "[" * 100_000), NO_CHAT),
    "gzip garbage": (replies(200, b"no gzip", Content_Encoding="gzip"), NO_CHAT),
    "huge": (replies(200, b" " * (1 << 18)), "MiB"),
    "redirect loop": (loops, NO_CHAT),
    "redirect to a page": (replies(302, "", Location="/login"), NO_CHAT),
    "choices null": (says(whole={"choices": None}), NO_CHAT),
    "error in 200": (
        replies(200, {"choices": None, "error": {"message": "quota used up", "code": 429}}),
        "status 429: quota used up",
    ),
    "error of the old kind": (
        replies(200, {"object": "error", "message": "model is down", "code": 503}),
        "status 503: model is down",
    ),
    "error as text": (replies(200, {"error": "out of order"}), "out of order"),
    "choices empty": (says(whole={"choices": []}), "no text"),
    "message null": (says(choice={"message": None}), "no text"),
    "content null": (says(content=None), "no text"),
    "content number": (says(content=7), "no text"),
    "thought only": (says(content=None, reasoning_content="Hm"), "reasoning"),
    "tool calls": (says(content=None, tool_calls=[{"id": "x"}]), "no text"),
    "filtered": (says(choice={"finish_reason": "content_filter"}), "content filter"),
    "refusal": (says(content=None, refusal="I will not"), "refused: I will not"),
    "400": (fails(400, "image_url is no type"), "refused: image_url is no type"),
    "400 page": (replies(400, PAGE, "text/html"), f"{NO_CHAT} (status 400"),
    "401": (echoes(401), "refuses the key in OPENAI_API_KEY: bad header: Bearer ***"),
    "403": (echoes(403), "refuses the key in OPENAI_API_KEY"),
    "400 with the key": (echoes(400), "refused: bad header: Bearer ***"),
    "404": (fails(404, "no model m/x"), "no model m/x: is the model's name right?"),
    "429 always": (fails(429, "slow down"), "status 429: slow down"),
    "500 always": (replies(500, PAGE, "text/html"), f"{NO_CHAT} (status 500"),
    "silence": (silence, "did not answer within 0.3 s"),
    "slow headers": (slow_headers, "did not answer within 0.3 s"),
    "endless": (endless, "did not answer within 0.3 s"),
    "closed": (hangs_up, "cannot be reached"),
    "half": (half, "cannot be reached"),
}
SLOW = ("silence", "slow headers", "endless")


def check_cache(path: Path) -> int:
    """Opens a cache and reads all of it; how many responses it holds, none with an error."""
    with Cache.open(path) as cache:
        keys = [key for (key,) in cache.rows("SELECT key FROM responses")]
        responses = cache.responses(keys)
    assert len(responses) == len(keys) and not any(r.error for r in responses.values())
    return len(keys)


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that was said on stderr beside progress, which must hold no secret."""
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if not line.startswith("searching ")]
    assert line.startswith(("imagescope: http://127.0.0.1:", "imagescope: synthesis: "))
    assert KEY not in line and "Traceback" not in line
    return line


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, place: Place, tmp_path: Path) -> Path:
    """A folder with the run's image database; the index is at home."""
    monkeypatch.setenv("IMAGESCOPE_HOME", str(place.home))
    monkeypatch.setattr("imagescope.engines.endpoint.LARGEST", 1 << 17)
    shutil.copytree(place.image_db, tmp_path / "image_db")
    return tmp_path


@pytest.mark.parametrize("case", BAD)
def test_a_misbehaving_endpoint_ends_a_search_and_a_run_with_a_sentence(
    case: str, shown: Path, place: Place, fake: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.behave, words = BAD[case]
    models = write_models(
        shown / "E.yaml", fake.url, timeout=0.3 if case in SLOW else 5, connect_timeout=0.3
    )
    line = ["search", "six", f"a red circle, {case}", "--models", str(models), "--stages", "s1"]
    assert main(line) == 1
    assert words in sentence(capsys)
    asked = len(fake.seen)
    assert asked <= 6 and (asked == 1 or case not in SLOW)  # nobody waits for silence twice
    check_cache(place.home / "image_db" / "responses.sqlite")
    assert run(place, shown, models, "--stages", "s1", "--no-preflight") == 1
    assert words in sentence(capsys)
    assert check_cache(shown / "cache.sqlite") == place.captions
    (manifest,) = (shown / "runs").rglob("manifest.json")
    assert json.loads(manifest.read_text())["status"].startswith("failed: ")
    assert not list((shown / "runs").rglob("*_CIRR_val_*.json"))


@pytest.mark.parametrize("case", FINE)
def test_an_odd_endpoint_is_understood(
    case: str, shown: Path, place: Place, fake: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.behave = FINE[case]
    models = write_models(shown / "E.yaml", fake.url)
    line = ["search", "six", f"a red circle, {case}", "--models", str(models), "--json"]
    assert main(line) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["descriptions"] == ["A red circle."]
    fake.seen.clear()
    assert run(place, shown, models, "--stages", "s1") == 0
    assert "Traceback" not in capsys.readouterr().err
    assert check_cache(shown / "cache.sqlite") == place.captions + 2


def test_an_index_whose_captioner_never_answers_is_none(
    shown: Path, place: Place, fake: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.behave = says(content=None, refusal="I will not")
    models = write_models(shown / "E.yaml", fake.url)
    draw(random_scene(Random(9)), 96).save(shown / "new.png")
    assert main(["index", str(shown), "--name", "none", "--models", str(models)]) == 1
    assert "captions: 1 of 1 requests got no answer (1 refused)" in capsys.readouterr().err
    assert not (place.home / "indexes" / "none" / "index.json").exists()


def test_the_page_starts_whatever_the_environment_says_of_proxies(
    shown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi")
    from imagescope.own.desk import Desk
    from imagescope.own.scope import ImageScope
    from imagescope.own.web import serving

    for name, value in {"HTTP_PROXY": "http://127.0.0.1:9", "SSL_CERT_FILE": "/no/file"}.items():
        monkeypatch.setenv(name, value)
    desk = Desk(lambda: ImageScope.open("six"))
    with serving(desk, "127.0.0.1", 0, 4) as address:
        assert address.startswith("http://127.0.0.1:")
    desk.close()


def test_a_page_without_v1_in_its_address(fake: Endpoint) -> None:
    fake.behave = replies(200, PAGE, "text/html")
    with pytest.raises(UserError, match="base_url has no /v1"):
        ask(fake, base_url=fake.url.removesuffix("/v1"))
    with pytest.raises(UserError) as told:
        ask(fake)
    assert "has no /v1" not in str(told.value)


def test_secrets_are_in_no_file(
    shown: Path, place: Place, fake: Endpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server repeats what it was sent, in an answer and in an error; the address has a user."""

    def repeat(h: Handler) -> None:
        sent = f"{h.headers['Authorization']} {KEY} {USER}:{PASSWORD} {PASSWORD}"
        if h.number % 2:
            h.answer(content=json.dumps({"step2": [f"A red circle. {sent}"]}))
        else:
            fails(400, sent)(h)

    fake.behave = repeat
    url = fake.url.replace("//", f"//{USER}:{PASSWORD}@")
    models = write_models(shown / "E.yaml", url)
    assert run(place, shown, models, "--stages", "s1", "--fail-on-error", "1") == 0
    (folder,) = (shown / "runs").glob("CIRR/default/*")
    bundle = shown / "bundle.sqlite"
    options = [str(folder), "--output", str(bundle)]
    assert main(["cache", "export", *options]) == 0
    assert main(["search", "six", "in secret", "--models", str(models), "--stages", "s1"]) <= 1
    models.unlink()
    said = "".join(capfd.readouterr())
    secrets = [KEY, PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()]
    files = [p for root in (shown, place.home) for p in root.rglob("*") if p.is_file()]
    assert bundle in files and len(files) > 8
    for secret in secrets:
        assert secret not in said
        assert not [path for path in files if secret.encode() in path.read_bytes()]
