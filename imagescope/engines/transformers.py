"""The transformers engine: any checkpoint of the generic text and image-text classes, in batches.

Runs in this process; on a CPU in float32, on one GPU in the checkpoint's own dtype.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Any

from imagescope.config import ModelConfig
from imagescope.engines.ahead import Remembering, prepare_small
from imagescope.engines.base import Answers, EngineClass, Request, Requests, Response, blocks
from imagescope.engines.batches import Batch, answers, pictures, showable
from imagescope.engines.sampling import sampler
from imagescope.engines.text import cut, neutral, neutraliser, shares, variants, wrap
from imagescope.errors import UserError
from imagescope.models import device
from imagescope.models.ahead import read_ahead
from imagescope.models.checkpoints import fetch

log = logging.getLogger("imagescope")


class Transformers(EngineClass):
    """See engines/base.py. loads, load_seconds: how often the model was loaded, and for how long.

    schema is not enforced here. A RuntimeError or ValueError (out of memory, a shape that does not
    fit) halves a batch; a request that fails alone gets a response with the error.
    """

    summary = "any checkpoint of transformers, on a CPU or one GPU, in batches"
    licence = "Apache-2.0"
    package = "transformers"

    def __init__(self, config: ModelConfig):
        self.config = config
        self.loads, self.load_seconds = 0, 0.0
        self._told = False  # that a schema is not enforced
        self._model: Any = None
        self._processor: Any = None
        self._tokenizer: Any = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        return device.identity("transformers", self.config)

    def generate(self, requests: Requests) -> Iterator[Answers]:
        """Answers in batches of config.batch_size, cut from all that are there in a fixed order: by
        length where there are no images (less padding), else as given (images stay together)."""
        for block in blocks(requests):
            if block:
                yield from self._answers(block)
            else:
                yield {}

    def _answers(self, block: Batch) -> Iterator[Answers]:
        self._load()
        if not self._told and any(request.schema for _, request in block):
            self._told = True
            log.warning(
                "%s: `schema: true` needs the engine vllm or openai: it is passed over here",
                self.config.model,
            )
        texts = {i: self._text(request) for i, request in block}
        size = self.config.batch_size
        batches = [
            part[start : start + size]
            for part in self._alike(block, texts)
            for start in range(0, len(part), size)
        ]
        for batch, pixels in read_ahead(batches, pictures, prepare_small):

            def ask(part: Batch, pixels: Any = pixels) -> list[Response]:
                return self._forward(
                    [request for _, request in part],
                    [texts[i] for i, _ in part],
                    [pixels[image] for _, request in part for image in request.images],
                )

            model = self.config.model
            shown, refused = showable(model, batch, pixels if self._sees else None)
            yield refused | dict(answers(model, shown, ask, (RuntimeError, ValueError)))

    def close(self) -> None:
        if self._model is None:
            return
        self._model = self._processor = self._tokenizer = None
        gc.collect()
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @device.transformers_quiet()
    def _load(self) -> None:
        if self._model is not None:
            return
        start, config = time.monotonic(), self.config
        if config.quantization:
            raise UserError(
                f"{config.model}: quantization {config.quantization!r} is vLLM's; with the "
                "transformers engine use a checkpoint that is stored quantised, or none"
            )
        import torch

        transformers = device.import_transformers()
        trusted = config.trust_remote_code
        folder = fetch(config.model, config.revision, trusted)
        trust = {"trust_remote_code": True} if trusted else {}
        try:
            described = transformers.AutoConfig.from_pretrained(folder, **trust)
            self._sees = hasattr(described, "vision_config")
            kind: Any
            if self._sees:
                kind = transformers.AutoModelForImageTextToText
                self._processor = transformers.AutoProcessor.from_pretrained(folder, **trust)
                self._tokenizer = self._processor.tokenizer
                self._processor.image_processor = Remembering(self._processor.image_processor)
            else:
                kind = transformers.AutoModelForCausalLM
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **trust)
            dtype = getattr(torch, device.resolve_dtype(config), None)
            if not isinstance(dtype, torch.dtype):
                raise UserError(f"{config.model}: unknown dtype {config.dtype!r}")
            model = kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, **trust).eval()
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise UserError(
                f"transformers cannot load {config.model}: {str(error).strip().splitlines()[0]} "
                "(one that brings its own code needs trust_remote_code and a pinned revision, "
                "docs/engines.md, and may run with engine: vllm)"
            ) from error
        self._model = model.to("cuda" if device.visible_gpus() else "cpu")
        self._prepare_decoding(transformers)
        self.loads += 1
        self.load_seconds += time.monotonic() - start

    def _prepare_decoding(self, transformers: Any) -> None:
        tokenizer, text = self._tokenizer, self._model.config.get_text_config()
        tokenizer.padding_side = "left"
        stored = self._model.generation_config.eos_token_id
        if stored is None:
            stored = tokenizer.eos_token_id
        self._eos = {stored} if isinstance(stored, int) else set(stored or ())
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id in self._eos:
            # Padding counts as seen for the repetition penalty: it must not be an end token.
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        self._control = neutraliser(tokenizer)
        self._context = min(
            self.config.max_model_len or 1 << 30,
            getattr(text, "max_position_embeddings", None) or 1 << 30,
        )
        self._vocabulary = tokenizer.get_vocab()
        self._decoding = partial(
            transformers.GenerationConfig,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
        # of its own: a checkpoint's sampling settings do not concern greedy decoding
        self._model.generation_config = self._decoding()

    def _text(self, request: Request) -> str:
        """The request's prompt in its template, with one image token per image."""
        prompt = neutral(request.prompt, self._control)
        if self.config.template is not None:
            text = wrap(self.config.template, prompt)
        else:
            speaker = self._processor or self._tokenizer
            if not getattr(speaker, "chat_template", None) and not self._tokenizer.chat_template:
                raise UserError(
                    f"{self.config.model} has no chat template: give its role a `template`"
                )
            content: Any = prompt
            if self._sees:
                content = [{"type": "image"} for _ in request.images]
                content.append({"type": "text", "text": prompt})
            text = speaker.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=False,
                add_generation_prompt=True,
                **self.config.chat_template_options,
            )
        mark = getattr(self._processor, "image_token", "")
        if request.images and mark and mark not in text:
            text = mark * len(request.images) + text
        return str(text)

    def _alike(self, block: Batch, texts: Mapping[int, str]) -> list[Batch]:
        """Requests grouped by what a batch must share."""
        groups: dict[tuple[Any, ...], list[tuple[int, Request]]] = {}
        for i, r in block:
            sampling = r.temperature, r.top_p
            key = (r.max_tokens, r.repetition_penalty, r.stop, r.choices, *sampling, len(r.images))
            groups.setdefault(key, []).append((i, r))
        for (*_, images), batch in groups.items():
            if not images:  # (by the text itself, so that it does not matter which was there first)
                batch.sort(key=lambda item: (len(texts[item[0]]), texts[item[0]]))
        return list(groups.values())

    def _forward(
        self, requests: list[Request], texts: list[str], pixels: list[Any]
    ) -> list[Response]:
        import torch

        first = requests[0]
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        if pixels:
            inputs = self._processor(images=pixels, text=texts, **options)
        else:
            raw = self.config.template is not None  # a chat template writes the BOS token itself
            inputs = self._tokenizer(texts, add_special_tokens=raw, **options)
        inputs.pop("labels", None)
        lengths = inputs["attention_mask"].sum(1).tolist()
        room = [self._context - length for length in lengths]
        if min(room) <= 0:
            if len(requests) > 1:
                raise ValueError("a prompt is longer than the context")
            raise ValueError(f"the prompt has {lengths[0]} tokens, the context {self._context}")
        limits = [min(r, first.max_tokens) for r in room]
        inputs = inputs.to(self._model.device)
        for name, value in inputs.items():
            if torch.is_floating_point(value):
                inputs[name] = value.to(self._model.dtype)
        stop_ids, stops = self._stops(first.stop)
        with torch.inference_mode(), device.threads_for(self._model.num_parameters()):
            try:
                # as one object: settings by name make transformers build the model's default
                # configuration, for a check, at every call
                decoding = self._decoding(
                    max_new_tokens=max(limits),
                    repetition_penalty=first.repetition_penalty,
                    eos_token_id=sorted(self._eos | stop_ids) or None,
                    stop_strings=stops or None,
                    return_dict_in_generate=True,
                    output_logits=bool(first.choices),
                )
                drawn = []
                if first.temperature:
                    seeds = [request.seed for request in requests]
                    drawn = [sampler(first.temperature, first.top_p, seeds)]
                out = self._model.generate(
                    **inputs,
                    generation_config=decoding,
                    logits_processor=drawn,
                    tokenizer=self._tokenizer if stops else None,
                )
            except IndexError as error:  # a token or position outside the model's tables
                raise ValueError(str(error)) from error
        width = inputs["input_ids"].shape[1]
        chosen: list[tuple[float, ...]] = [()] * len(requests)
        if first.choices:
            ids = variants(first.choices, self._tokenizer)
            table = out.logits[0].float().softmax(-1).cpu().tolist()
            chosen = [shares(dict(enumerate(row)), ids) for row in table]
        return [
            self._response(tokens[:limit], length, self._eos | stop_ids, first.stop, probabilities)
            for tokens, limit, length, probabilities in zip(
                out.sequences[:, width:].tolist(), limits, lengths, chosen, strict=True
            )
        ]

    def _stops(self, stop: tuple[str, ...]) -> tuple[set[int], list[str]]:
        """Stop strings that are one token end a text as that token; the others as strings."""
        vocabulary = self._vocabulary
        ids = {vocabulary[s] for s in stop if s in vocabulary}
        return ids, [s for s in stop if s not in vocabulary]

    def _response(
        self,
        tokens: list[int],
        prompt_tokens: int,
        ends: set[int],
        stop: tuple[str, ...],
        probabilities: tuple[float, ...],
    ) -> Response:
        end = next((n for n, token in enumerate(tokens) if token in ends), None)
        kept = tokens if end is None else tokens[:end]
        text, stopped = cut(self._tokenizer.decode(kept, skip_special_tokens=True), stop)
        return Response(
            text,
            prompt_tokens,
            len(kept) + (end is not None),
            "stop" if stopped or end is not None else "length",
            probabilities,
        )
