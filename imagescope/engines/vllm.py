"""The vLLM engine. It does not give memory back while its process lives: see child.py."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from imagescope.config import ModelConfig
from imagescope.engines.base import EngineClass, Pair, Picture, Request, Response
from imagescope.engines.batches import Batch, answers, pictures
from imagescope.engines.text import neutral, neutraliser, shares, variants, wrap
from imagescope.errors import UserError
from imagescope.models import device
from imagescope.models.ahead import read_ahead
from imagescope.models.checkpoints import fetch, read_config
from imagescope.models.images import prepare

BATCH = 256  # requests with images given to vLLM at once


class VLLM(EngineClass):
    """See engines/base.py. On a GPU in the checkpoint's own dtype, on a CPU in float32."""

    summary = "many requests at once, on GPUs; on a CPU with AVX2, too"
    licence = "Apache-2.0"
    package = "vllm"
    own_process = True

    def __init__(self, config: ModelConfig):
        self.config = config
        self.loads, self.load_seconds = 0, 0.0
        self._llm: Any = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        return device.identity("vllm", self.config)

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        """Requests with images go to vLLM in BATCHes, so that the next one's are read meanwhile;
        others all together: vLLM batches them itself. A request it refuses gets a response with
        the error; the others are answered."""
        if not requests:
            return
        self._load()
        numbered = list(enumerate(requests))
        size = BATCH if any(request.images for request in requests) else len(requests)
        batches = [numbered[first : first + size] for first in range(0, len(numbered), size)]
        for batch, pixels in read_ahead(batches, pictures, prepare):
            shown = pixels if self._sees else None
            yield from answers(
                self.config.model, batch, shown, partial(self._answer, pixels), self._refusals
            )

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
        try:
            import vllm.exceptions
        except Exception as error:
            raise UserError(
                f"vLLM is installed but does not import ({error}); --engine transformers does "
                "without it"
            ) from error
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
        self.loads += 1
        self.load_seconds += time.monotonic() - start

    def _answer(self, pixels: Mapping[Picture | Pair, Any], batch: Batch) -> list[Response]:
        requests = [request for _, request in batch]
        parameters = [self._parameters(request) for request in requests]
        if self.config.template is None:
            outputs = self._llm.chat(
                [self._messages(request, pixels) for request in requests],
                parameters,
                use_tqdm=False,
                chat_template_kwargs=self.config.chat_template_options or None,
            )
        else:
            prompts = [self._prompt(self.config.template, r, pixels) for r in requests]
            outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        return [self._response(r, output) for r, output in zip(requests, outputs, strict=True)]

    def _messages(
        self, request: Request, pixels: Mapping[Picture | Pair, Any]
    ) -> list[dict[str, Any]]:
        prompt = neutral(request.prompt, self._control)
        content: Any = prompt
        if request.images:
            content = [{"type": "image_pil", "image_pil": pixels[i]} for i in request.images]
            content.append({"type": "text", "text": prompt})
        return [{"role": "user", "content": content}]

    def _prompt(
        self, template: str, request: Request, pixels: Mapping[Picture | Pair, Any]
    ) -> dict[str, Any]:
        text = wrap(template, neutral(request.prompt, self._control))
        images = [pixels[image] for image in request.images]
        return {"prompt": text} | ({"multi_modal_data": {"image": images}} if images else {})

    def _parameters(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        choices = variants(request.choices, self._tokenizer)
        schema = None
        if request.schema is not None:
            schema = StructuredOutputsParams(json=request.schema)
        return SamplingParams(
            temperature=0,
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


def _quiet(on_gpu: bool, tensor_parallel_size: int) -> None:
    """vLLM's settings by environment, where the user has not set them; before it is imported."""
    settings = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    if not on_gpu:
        settings["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
    if tensor_parallel_size == 1:
        settings["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process, which ends as a whole
    for name, value in settings.items():
        os.environ.setdefault(name, value)
