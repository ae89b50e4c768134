"""The vLLM engine. It does not give memory back while its process lives: see child.py."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from imagescope.config import ModelConfig
from imagescope.engines.base import (
    Answers,
    EngineClass,
    Pair,
    Picture,
    Request,
    Requests,
    Response,
    Source,
)
from imagescope.engines.batches import Batch, failed, pictures, showable
from imagescope.engines.text import neutral, neutraliser, shares, variants, wrap
from imagescope.errors import UserError
from imagescope.models import device
from imagescope.models.ahead import read_ahead
from imagescope.models.checkpoints import fetch, read_config
from imagescope.models.images import prepare

MAX_NUM_SEQS = 256  # that vLLM works on at least, on a GPU, where the configuration does not say
PART, AHEAD = 32, 2  # requests that are read at a time; parts whose pictures are decoded ahead


class VLLM(EngineClass):
    """See engines/base.py. On a GPU in the checkpoint's own dtype, on a CPU in float32."""

    summary = "many requests at once, on GPUs; on a CPU with AVX2, too"
    licence = "Apache-2.0"
    package = "vllm"
    own_process = True

    def __init__(self, config: ModelConfig):
        self.config = config
        self.width = (config.max_num_seqs or MAX_NUM_SEQS) if device.visible_gpus() else 1
        self.loads, self.load_seconds = 0, 0.0
        self._llm: Any = None
        self._room = 1  # requests that vLLM may have at a time; known when it is loaded

    @cached_property
    def identity(self) -> dict[str, Any]:
        return device.identity("vllm", self.config)

    def generate(self, requests: Requests) -> Iterator[Answers]:
        """vLLM has twice the requests that it works on, so that it is never short of one; the
        pictures of AHEAD further PARTs are decoded meanwhile. A request that it refuses gets a
        response with the error."""
        source, places = Source(requests), count()
        numbered = (
            [(next(places), request) for request in source.take(PART)]
            for _ in iter(lambda: source.ended, True)
        )
        parts = read_ahead(numbered, pictures, prepare, ahead=AHEAD)
        flying: dict[str, tuple[int, Request]] = {}
        ended = False
        try:
            while flying or not ended:
                part: Batch | None = None
                if not ended and len(flying) < self._room:
                    part, pixels = next(parts, (None, {}))
                    ended = part is None
                if part:
                    self._load()
                    if refused := self._add(part, pixels, flying):
                        yield refused
                elif not flying:
                    yield {}
                elif answers := self._step(flying):
                    yield answers
        finally:
            if flying:  # nobody waits for these
                self._llm.llm_engine.abort_request(list(flying))

    def close(self) -> None:
        if self._llm is None:
            return
        self._llm = None
        gc.collect()

    def _load(self) -> None:
        if self._llm is not None:
            return
        start, config = time.monotonic(), self.config
        folder = fetch(config.model, config.revision, config.trust_remote_code)
        on_gpu = bool(device.visible_gpus())
        _quiet(on_gpu, config.tensor_parallel_size)
        if config.deterministic:
            os.environ["VLLM_BATCH_INVARIANT"] = "1"
        try:
            import vllm.exceptions
        except Exception as error:
            raise UserError(
                f"vLLM is installed but does not import ({error}); --engine transformers does "
                "without it"
            ) from error
        if config.deterministic and not _batch_invariant():
            raise UserError(
                f"{config.model}: `deterministic: true` needs a GPU of compute capability 8.0 or "
                "more (docs/engines.md); leave it out here"
            )
        described = read_config(config.model, config.revision)
        options: dict[str, Any] = {
            "quantization": config.quantization,
            "max_model_len": _context(config.max_model_len, described),
            "max_num_seqs": config.max_num_seqs,
            "tensor_parallel_size": config.tensor_parallel_size,
            "gpu_memory_utilization": config.gpu_memory_utilization if on_gpu else None,
        }
        if config.tensor_parallel_size > 1:
            options["distributed_executor_backend"] = "mp"  # its processes, also inside Ray's
        self._sees = "vision_config" in described
        if self._sees:
            options["limit_mm_per_prompt"] = {"image": 1}
        try:
            self._llm = vllm.LLM(
                folder,
                dtype=device.resolve_dtype(config),
                enforce_eager=config.enforce_eager or not on_gpu,
                trust_remote_code=config.trust_remote_code,
                load_format="safetensors",
                seed=0,
                # with any whitespace a weak model can fill its budget with blanks
                structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
                **{name: value for name, value in options.items() if value is not None},
            )
        except Exception as error:  # vLLM raises many kinds; all are about checkpoint or settings
            why = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"vLLM cannot load {config.model}: {why[:500]}") from error
        self._refusals = (ValueError, vllm.exceptions.VLLMClientError)
        self._tokenizer = self._llm.get_tokenizer()
        self._control = neutraliser(self._tokenizer)
        if config.template is None and not (
            getattr(self._tokenizer, "chat_template", None)
            or any(
                Path(folder, name).exists()
                for name in ("chat_template.jinja", "chat_template.json")
            )
        ):
            raise UserError(f"{config.model} has no chat template: give its role a `template`")
        self._room = 2 * self._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
        self.loads += 1
        self.load_seconds += time.monotonic() - start

    def _add(
        self,
        part: Batch,
        pixels: Mapping[Picture | Pair, Any],
        flying: dict[str, tuple[int, Request]],
    ) -> Answers:
        """Gives requests to vLLM; answers those that it cannot take."""
        shown, refused = showable(self.config.model, part, pixels if self._sees else None)
        for i, request in shown:
            parameters = [self._parameters(request)]
            try:
                if self.config.template is None:
                    (name,) = self._llm.enqueue_chat(
                        [self._messages(request, pixels)],
                        parameters,
                        use_tqdm=False,
                        chat_template_kwargs=self.config.chat_template_options or None,
                    )
                else:
                    prompt = self._prompt(self.config.template, request, pixels)
                    (name,) = self._llm.enqueue([prompt], parameters, use_tqdm=False)
            except self._refusals as error:
                refused[i] = failed(self.config.model, error)
            else:
                flying[name.partition("-")[0]] = i, request  # vLLM adds a random part of its own
        return refused

    def _step(self, flying: dict[str, tuple[int, Request]]) -> Answers:
        """One step of the model, and what it finished."""
        answers: Answers = {}
        for output in self._llm.llm_engine.step():
            if output.finished:
                i, request = flying.pop(output.request_id)
                answers[i] = self._response(request, output)
        return answers

    def _messages(
        self, request: Request, pixels: Mapping[Picture | Pair, Any]
    ) -> list[dict[str, Any]]:
        prompt = neutral(request.prompt, self._control)
        content: Any = prompt
        if request.images:
            content = [
                {"type": "image_pil", "image_pil": pixels[image], "uuid": image.content or None}
                for image in request.images
            ]
            content.append({"type": "text", "text": prompt})
        return [{"role": "user", "content": content}]

    def _prompt(
        self, template: str, request: Request, pixels: Mapping[Picture | Pair, Any]
    ) -> dict[str, Any]:
        text = wrap(template, neutral(request.prompt, self._control))
        if not request.images:
            return {"prompt": text}
        return {
            "prompt": text,
            "multi_modal_data": {"image": [pixels[image] for image in request.images]},
            "multi_modal_uuids": {"image": [image.content or None for image in request.images]},
        }

    def _parameters(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        choices = variants(request.choices, self._tokenizer)
        schema = None
        if request.schema is not None:
            schema = StructuredOutputsParams(json=request.schema)
        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed if request.temperature else None,
            max_tokens=request.max_tokens,
            repetition_penalty=request.repetition_penalty,
            stop=list(request.stop),
            logprob_token_ids=[i for ids in choices for i in ids] or None,
            structured_outputs=schema,
        )

    def _response(self, request: Request, output: Any) -> Response:
        first = output.outputs[0]
        chosen: tuple[float, ...] = ()
        if request.choices:
            probabilities = {i: math.exp(entry.logprob) for i, entry in first.logprobs[0].items()}
            chosen = shares(probabilities, variants(request.choices, self._tokenizer))
        return Response(
            first.text,
            len(output.prompt_token_ids or ()),
            len(first.token_ids),
            "length" if first.finish_reason == "length" else "stop",
            chosen,
        )


def _context(limit: int | None, described: dict[str, Any]) -> int | None:
    """The context to ask for: vLLM refuses more than the checkpoint knows positions for."""
    text = described.get("text_config") or described.get("llm_config") or described
    positions = text.get("max_position_embeddings")
    stretched = "factor" in (text.get("rope_scaling") or text.get("rope_parameters") or {})
    return limit if limit is None or not positions or stretched else min(limit, positions)


def _batch_invariant() -> bool:
    """Whether this machine can compute each answer independently of the others in its batch."""
    from vllm.platforms import current_platform

    return bool(not current_platform.is_cpu() and current_platform.has_device_capability(80))


def _quiet(on_gpu: bool, tensor_parallel_size: int) -> None:
    """vLLM's settings by environment, where the user has not set them; before it is imported."""
    settings = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    if not on_gpu:
        settings["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
    if tensor_parallel_size == 1:
        settings["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process, which ends as a whole
    for name, value in settings.items():
        os.environ.setdefault(name, value)
