"""One validated RunConfig from YAML and the command line; every default is written here, once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from imagescope.errors import UserError
from imagescope.redaction import redact
from imagescope.registry import ENGINES, did_you_mean
from imagescope.yaml_file import read_yaml

PACKAGE = Path(__file__).parent
ROLES = ("captioner", "reasoner", "verifier", "evaluator")
Reading = Literal["tolerant", "paper"]
COMMIT = re.compile(r"[0-9a-f]{40}")
FLAGS = ("tau", "top_k", "alpha", "stages")  # methods' options that may stand by themselves
# options of single benchmarks that may stand by themselves; None: as the protocol has it
BENCHMARK_OPTIONS = ("exclude_reference", "first_round", "subset", "shared_concept")


def engine_name(name: str) -> str:
    """The name itself. Raises ValueError unless it is auto or one of registry.ENGINES."""
    names = ("auto", *ENGINES)
    if name not in names:
        raise ValueError(f"no engine is named {name}: {did_you_mean(name, names)}")
    return name


EngineName = Annotated[str, AfterValidator(engine_name)]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), populate_by_name=True
    )


class ModelConfig(_Model):
    """A role's checkpoint and how it runs. The first block determines answers, the second doesn't.

    template: a raw prompt with `{prompt}` in it; None: the checkpoint's chat template, one user
        message.  chat_template_options: variables of that chat template, such as
        {enable_thinking: false}.
    max_tokens: new tokens a request may use, unless the stage asks for fewer.  answer_tokens: those
        of a yes or no (verifier): 1, and more for a model that thinks before it answers.
    schema: the reasoner is held to the JSON that its prompt asks for, where the engine can
        (vllm, openai).
    """

    model: str
    revision: str | None = None
    engine: EngineName | None = None  # None: the run's
    dtype: str = "auto"
    quantization: str | None = None
    template: str | None = None
    chat_template_options: dict[str, Any] = {}
    max_tokens: int = Field(default=2048, gt=0)
    answer_tokens: int = Field(default=1, gt=0)
    json_schema: bool = Field(default=False, alias="schema")  # pydantic has a `schema` of its own
    repetition_penalty: float = Field(default=1.0, gt=0)
    stop: tuple[str, ...] = ()
    max_model_len: int | None = None
    trust_remote_code: bool = False
    served_as: str | None = None  # openai: the weights behind the name, where they may differ

    batch_size: int = Field(default=16, gt=0)  # transformers: requests a forward pass
    chunk_size: int = Field(default=256, gt=0)  # answers stored in one transaction, at most
    deterministic: bool = False  # vllm, on GPUs that can: no answer depends on others of its batch
    max_num_seqs: int | None = None
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    tensor_parallel_size: int = Field(default=1, gt=0)
    enforce_eager: bool = False
    # openai: the endpoint, the variable that holds the key, seconds that an answer and a connection
    # may take, how often a request that met a busy or silent server is repeated
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    timeout: float = Field(default=600.0, gt=0)
    connect_timeout: float = Field(default=10.0, gt=0)
    retries: int = Field(default=5, ge=0)
    retry_timeouts: bool = True  # False where somebody sits waiting

    @field_serializer("base_url", when_used="json")
    def _without_userinfo(self, value: str | None) -> str | None:
        return value and redact(value)  # what is written down holds no password

    @model_validator(mode="after")
    def _one_template(self) -> ModelConfig:
        if self.template is not None and self.chat_template_options:
            raise ValueError(
                "chat_template_options are for the checkpoint's chat template: leave `template` out"
            )
        return self

    @model_validator(mode="after")
    def _pinned(self) -> ModelConfig:
        """A checkpoint's own code runs only where nobody can change it meanwhile."""
        if not self.trust_remote_code:
            return self
        folder = any(path.is_dir() for path in checkpoint_folders(self.model))
        if folder and self.revision:
            raise ValueError(
                f"a folder {self.model} would run in place of the hub's revision: name the folder "
                f"./{self.model} and leave revision out, or work where there is no such folder"
            )
        if not folder and not COMMIT.fullmatch(self.revision or ""):
            raise ValueError(
                f"trust_remote_code runs the code that {self.model} brings: pin what you have read "
                "of it, `revision: COMMIT` with a commit's 40 digits "
                f"(https://huggingface.co/{self.model}/commits/main)"
            )
        return self


Side = Literal["query", "gallery"]


class EncoderConfig(_Model):
    """What embeds images and texts. library: a name of registry.ENCODERS, which loads it.

    preprocessing: the processor's own, or target_pad before it (encoders/pixels.py).
    instruction_query, instruction_gallery: what is said beside an item of that side, where the
    library takes instructions.
    """

    model: str
    revision: str | None = None
    library: str = "transformers"
    preprocessing: Literal["processor", "target_pad"] = "processor"
    instruction_query: str = ""
    instruction_gallery: str = ""
    dtype: str = "float32"
    batch_size: int = Field(default=64, gt=0)
    chunk_size: int = Field(default=1024, gt=0)
    max_length: int = Field(default=77, gt=0)  # text tokens, special ones included

    def instruction(self, side: Side) -> str:
        return self.instruction_query if side == "query" else self.instruction_gallery


class ModelSet(_Model):
    """configs/models/<name>.yaml: the encoder, the roles, and the prompts they need, if any. A set
    may leave roles out: methods that ask no language model need none."""

    captioner: ModelConfig | None = None
    reasoner: ModelConfig | None = None
    verifier: ModelConfig | None = None
    evaluator: ModelConfig | None = None
    encoder: EncoderConfig
    prompts: str | None = None
    note: str = ""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that the set has a model for."""
        return tuple(name for name in ROLES if getattr(self, name) is not None)

    def role(self, name: str) -> ModelConfig:
        """A role's model. Raises UserError where the set has none."""
        config: ModelConfig | None = getattr(self, name)
        if config is None:
            there = ", ".join((*self.roles, "encoder"))
            raise UserError(f"the models have no {name} (only: {there}): give another --models")
        return config


class RunConfig(_Model):
    """Everything that one run is made of.

    method, options: a name of registry.METHODS, and what differs from the defaults of its own
    options; those of FLAGS may stand outside `options`, too.  keep: names kept of a ranking in the
    results (targets' ranks are exact beyond).  reading: how models' answers are read: tolerant, or
    as the authors' code reads them (docs/deviations.md).  fail_on_error: the share of a step's
    requests, in [0, 1], that may stay without an answer before the run fails.
    """

    dataset: str
    split: Literal["val", "test"] = "val"
    data_root: Path = Path("data")
    image_db: Path = Path("image_db")
    runs: Path = Path("runs")
    run_name: str = "default"
    models: ModelSet
    models_name: str = "custom"
    prompts: str = "general"
    engine: EngineName = "auto"
    protocol: Literal["paper", "official"] = "paper"
    exclude_reference: bool | None = None
    first_round: int | None = Field(default=None, ge=0, le=1)
    subset: bool | None = None
    shared_concept: bool | None = None
    dataset_options: dict[str, Any] = {}  # of the benchmark (benchmarks.Spec.options)
    keep: int = Field(default=100, gt=0)
    method: str = "imagescope"
    options: dict[str, Any] = {}
    reading: Reading = "tolerant"
    fail_on_error: float = Field(default=0.05, ge=0, le=1)
    preflight: bool = True  # look at all that is needed before anything is asked
    limit: int | None = Field(default=None, gt=0)  # only the first so many queries
    cache: Path | None = None  # None: IMAGESCOPE_CACHE, else <image_db>/responses.sqlite
    replay: Path | None = None
    ray_address: str | None = None
    seed: int = 0  # of the bootstrap

    @field_validator("split", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return {"test1": "test", "valid": "val"}.get(str(value), value)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: dict[str, Any]) -> dict[str, Any]:
        return _gathered(values)


def _gathered(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run that are not None, with those of FLAGS among the method's options."""
    given = {name: value for name, value in values.items() if value is not None}
    flags = {name: given.pop(name) for name in FLAGS if name in given}
    options = given.setdefault("options", {})
    if isinstance(options, Mapping):  # else RunConfig says that it must be one
        given["options"] = {**options, **flags}
    return given


def checkpoint_folders(model: str | Path) -> list[Path]:
    """Where a checkpoint that is a folder may lie: as it is named, else in a clone, else in the
    package imagescope-tiny, which brings data/tiny/models."""
    roots = [Path(), PACKAGE.parent]
    tiny = find_spec("imagescope_tiny")
    if tiny and tiny.origin:
        roots.append(Path(tiny.origin).parent)
    return [root / Path(model).expanduser() for root in roots]


def config_path(name: str | Path, folder: str = "") -> Path:
    """Where a config file or prompt set lies: the path itself, else inside the packaged configs/.

    `configs/CIRR.yaml` works from any working folder; so does a bare `tiny` with folder "models".
    """
    name = Path(name)
    if not name.name:
        raise UserError(f"no such config: {str(name)!r}")
    roots = [PACKAGE / "configs", PACKAGE.parent / "configs"]  # installed, or a checkout
    inside = name.relative_to("configs") if name.parts[:1] == ("configs",) else name
    tries = [name] if name.is_absolute() or len(name.parts) > 1 or name.suffix else []
    for root in roots:
        tries += [root / folder / inside, root / folder / inside.with_suffix(".yaml")]
    tries.append(name)  # a bare folder or file of the user's, where nothing packaged has the name
    for path in tries:
        if os.path.exists(path):
            return path
    known = sorted(p.stem for r in roots if (r / folder).is_dir() for p in (r / folder).iterdir())
    raise UserError(f"no such config: {name} (packaged here: {', '.join(dict.fromkeys(known))})")


def explain(error: ValidationError, where: str) -> UserError:
    lines = [
        f"  {'.'.join(str(p) for p in e['loc']) or '(whole)'}: {e['msg']}"
        + (f" (got {e['input']!r:.100})" if _telling(e) else "")
        for e in error.errors()[:20]
    ]
    return UserError(redact(f"{where} is not a valid configuration:\n" + "\n".join(lines)))


def _telling(error: Any) -> bool:
    """Whether an error's input says more than its message: it is there, and not a whole role."""
    unknown = error["type"] in ("missing", "extra_forbidden")
    return not unknown and not isinstance(error["input"], dict)


def load_models(name: str | Path, checkpoints: Mapping[str, str] | None = None) -> ModelSet:
    """The set configs/models/<name>.yaml (or a file), with single roles' checkpoints replaced.

    `checkpoints` maps a role (captioner, reasoner, verifier, evaluator, encoder) to a model id or
    folder. Revision and trust belong to the checkpoint that is replaced and go with it.
    """
    path = config_path(name, "models")
    data = read_yaml(path)
    for role, model in (checkpoints or {}).items():
        config = data.get(role)
        if config is None:
            data[role] = {"model": model}
        elif isinstance(config, dict) and config.get("model") != model:
            kept = {k: v for k, v in config.items() if k not in ("revision", "trust_remote_code")}
            data[role] = {**kept, "model": model}
    try:
        return ModelSet.model_validate(data)
    except ValidationError as error:
        raise explain(error, str(path)) from None


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """name -> value of options written as name=value, the values as YAML writes them."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UserError(f"option {text!r}: expected name=value")
        try:
            options[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"option {text!r}: the value is not valid YAML: {error}") from None
    return options


def load_run(
    path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    checkpoints: Mapping[str, str] | None = None,
) -> RunConfig:
    """The run that a dataset's YAML describes, with options of the command line laid over it.

    An override of None leaves the file's value. `models` is the name of a set or a file's path.
    Prompts: the override's, else those the model set needs, else the dataset's. Options: the
    file's, for the file's method alone, and the overrides' over them.
    """
    source = config_path(path)
    data, given = _gathered(read_yaml(source)), _gathered(overrides or {})
    if not isinstance(data["options"], Mapping):
        raise UserError(f"{source}: options: expected name: value, got {data['options']!r:.100}")
    method = data.get("method", RunConfig.model_fields["method"].default)
    if given.get("method", method) == method:
        given["options"] = {**data["options"], **given["options"]}
    name = str(given.pop("models", None) or data.pop("models", "paper"))
    data.pop("models", None)
    models = load_models(name, checkpoints)
    if models.prompts and "prompts" not in given:
        data["prompts"] = models.prompts
    values = {**data, **given, "models": models.model_dump(), "models_name": Path(name).stem}
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise explain(error, f"{source} with the options given") from None
