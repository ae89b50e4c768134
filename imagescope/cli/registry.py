"""What there is by name: `imagescope methods | encoders | engines | benchmarks`."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from imagescope.errors import UserError
from imagescope.registry import BENCHMARKS, ENCODERS, ENGINES, METHODS, Registry
from imagescope.terminal import Terminal, print_json, say, table

console = Terminal()
Row = dict[str, Any]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def methods(
    name: Annotated[str | None, typer.Argument(help="One of them, in full.")] = None,
    as_json: Json = False,
) -> None:
    """List the methods, or show one: its stages, roles, prompts and options."""
    if name is None:
        _show([_row(METHODS, name, _method) for name in METHODS], as_json)
    elif as_json:
        print_json(_describe(name))
    else:
        _print_method(_describe(name))


def encoders(as_json: Json = False) -> None:
    """List the libraries that open encoders (`library` in configs/models)."""
    _show([_row(ENCODERS, name, _package) for name in ENCODERS], as_json)


def engines(as_json: Json = False) -> None:
    """List the engines that run language and vision models (--engine)."""
    _show([_row(ENGINES, name, _package) for name in ENGINES], as_json)


def benchmarks(
    data_root: Annotated[Path, typer.Option(help="Where the datasets lie.")] = Path("data"),
    as_json: Json = False,
) -> None:
    """List the benchmarks, and which of them lie here."""

    def describe(spec: Any) -> Row:
        from imagescope.benchmarks import folder_of

        folder = folder_of(spec, data_root) if data_root.is_dir() else None
        splits = ", ".join(f"{s}: {n:,} queries, {g:,} images" for s, (n, g) in spec.splits.items())
        here = f"yes: {folder}" if folder else f"no: there is no {data_root / spec.folder}"
        return {"what": splits, "licence": spec.licence, "source": spec.homepage, "here": here}

    _show([_row(BENCHMARKS, name, describe) for name in BENCHMARKS], as_json)


def _row(registry: Registry, name: str, describe: Any) -> Row:
    """What there is to say of a name; of one that cannot be imported, why not."""
    try:
        return {"name": name, **describe(registry.load(name))}
    except UserError as error:
        return {"name": name, "here": f"no: {error}"}


def _method(kind: Any) -> Row:
    asks = ", ".join(kind.roles) or "no model but the encoder"
    return {"what": kind.summary, "label": kind.label, "paper": kind.paper, "asks": asks}


def _package(kind: Any) -> Row:
    here = not kind.package or find_spec(kind.package) is not None
    missing = f"no: {kind.package} is not installed"
    return {"what": kind.summary, "licence": kind.licence, "here": "yes" if here else missing}


def _describe(name: str) -> Row:
    kind = METHODS.load(name)
    options = {
        option: {
            "type": _type(field.annotation),
            "default": field.default,
            "description": field.description or "",
            **(field.json_schema_extra or {}),
        }
        for option, field in kind.Options.model_fields.items()
    }
    line = f"imagescope run configs/CIRR.yaml --data-root data --method {name}"
    for option, settings in list(options.items())[:1]:
        line += f" --option {option}={_plain(settings['default'])}"
    return {
        "name": name,
        **_method(kind),
        "about": inspect.getdoc(inspect.getmodule(kind)) or "",
        "stages": [asdict(stage) for stage in kind.stages],
        "roles": list(kind.roles),
        "prompts": {name: sorted(kind.placeholders) for name, kind in kind.prompts.items()},
        "needs_reference": kind.needs_reference,
        "options": options,
        "example": line,
    }


def _type(annotation: Any) -> str:
    return annotation.__name__ if type(annotation) is type else str(annotation)


def _show(rows: list[Row], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[row.get(column, "") for column in columns] for row in rows]
    console.print(table(*columns, rows=cells, words=len(columns), whole=columns[:1]))


def _print_method(method: Row) -> None:
    paper = f" ({method['paper']})" if method["paper"] else ""
    lines = [f"{method['name']}: {method['what']}", f"{method['label']}{paper}"]
    lines += ["", method["about"], ""]
    for stage in method["stages"]:
        lines.append(f"{stage['id']}  {stage['title']}: {', '.join(stage['steps'])}")
    lines.append(f"asks: {method['asks']}")
    if method["needs_reference"]:
        lines.append("needs queries with a reference picture")
    for kind, placeholders in method["prompts"].items():
        marks = " ".join(f"[[{p}]]" for p in placeholders) or "no placeholders"
        lines.append(f"prompt {kind}: {marks}")
    for name, option in method["options"].items():
        paper = f"; the paper's: {option['paper']}" if "paper" in option else ""
        setting = f"{name}={_plain(option['default'])}"
        lines.append(f"--option {setting}  {option['type']}: {option['description']}{paper}")
    say(console, *lines, "", method["example"])


def _plain(value: Any) -> str:
    """A default as one would write it on the command line."""
    if isinstance(value, (tuple, list)):
        return '"' + " ".join(map(str, value)) + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)
