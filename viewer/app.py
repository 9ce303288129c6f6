"""The application of view.py: the page, what it says of its files, and the pictures that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dash import Dash
from flask import Response, abort, request, send_from_directory

from common.messages import count
from imaging.images import kind_of
from viewer import local_server, page, panels
from viewer.viewer_data import PictureSearch, ViewerData

if TYPE_CHECKING:
    from flask import Flask

ROOT = Path(__file__).resolve().parent
LARGE, SMALL = 640, 128  # pixels a side of pictures made from their source files
ONLY = {"wrong": "correct", "flips": "flip"}  # filters that need a column


def make_app(data: ViewerData, search: PictureSearch, host: str, *, spreadsheet_safe: bool = False) -> Dash:
    """Return the Dash application; it answers pictures by file and row number and knows no paths."""
    app = Dash("view", assets_folder=str(ROOT / "assets"), serve_locally=True, title="Embeddings", update_title="")
    style = '<link rel="stylesheet" href="page.css">{%css%}'
    app.index_string = app.index_string.replace("{%css%}", style).replace("<html>", '<html lang="en">')
    local_server.guard(app.server, host)
    _serve_rows(app.server, data)
    title, facts = _title(data)
    app.layout = page.layout(title, facts, _notes(data), *controls(data, search.references()))
    panels.connect_map(app, data)
    panels.connect_detail(app, data)
    panels.connect_tiles(app, data, spreadsheet_safe=spreadsheet_safe)
    panels.connect_upload(app, data, search)
    _check_callbacks(app)
    return app


def _check_callbacks(app: Dash) -> None:
    """Answer 400 where a callback is asked for with other parts than the page sends: Dash itself would fail in the middle."""

    def names(parts: Any) -> list[tuple[Any, Any]]:
        return [(part["id"], part["property"]) for part in parts]

    @app.server.before_request
    def check() -> None:
        if request.path != "/_dash-update-component" or request.method != "POST":
            return
        try:
            body: Any = request.get_json(silent=True)
            callback = app.callback_map[body["output"]]
            outputs = body["outputs"] if isinstance(body["outputs"], list) else [body["outputs"]]
            written = [f"{id}.{key}" for id, key in names(outputs)]
            sound = body["output"] in (written[0], f"..{'...'.join(written)}..")
            for part in ("inputs", "state"):
                values = body.get(part, [])
                sound = sound and isinstance(values, list) and names(values) == names(callback[part])
            sound = sound and "callback" in callback  # others run in the browser
            changed = body.get("changedPropIds", [])
            sound = sound and isinstance(changed, list) and all(isinstance(name, str) for name in changed)
        except (AttributeError, KeyError, IndexError, TypeError, RecursionError):
            sound = False
        if not sound:
            abort(400)


def _serve_rows(server: Flask, data: ViewerData) -> None:
    """Answer the picture and the facts of a row, and the style of the page."""

    def require(file: int, row: int) -> None:
        if file >= len(data.files) or row >= data.files[file].n:
            abort(404)

    @server.route("/picture/<int:file>/<int:row>", defaults={"size": "small"})
    @server.route("/picture/<int:file>/<int:row>/<any(large):size>")
    def picture(file: int, row: int, size: str) -> Any:
        require(file, row)
        large = size == "large"
        content = data.files[file].pictures.read(row, LARGE if large else SMALL, prefer_source=large)
        if content is None:
            abort(404)
        return Response(content, mimetype=kind_of(content), headers={"Cache-Control": "private, max-age=3600"})

    @server.route("/about/<int:file>/<int:row>")
    def about(file: int, row: int) -> Any:
        require(file, row)
        values = data.files[file].row(row)
        lines = [[str(values.get("crop_id") or f"row {row}"), ""], *([line, ""] for line in page.variant(values))]
        if "correct" in values:
            right = ["✓ right", "up"]
            lines.append(right if values["correct"] else [f"✗ predicted {values.get('predicted')}", "down"])
        return {"label": values["label"], "lines": lines}

    @server.route("/page.css")
    def style() -> Any:
        return send_from_directory(ROOT.parent / "common", "page.css")


def controls(data: ViewerData, references: Mapping[str, str]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Return the options of the page's controls and their first values; a filter of less than two values has none."""
    columns = {column for file in data.files for column in file.columns}
    choices: dict[str, Mapping[Any, str]] = {
        "source-a": data.sources(),
        "source-b": {"": "nothing", **data.sources()},
        "colour": data.colours(),
        "dimensions": {2: "2-D", 3: "3-D"},
        "scope": data.scopes(),
        "among": references,
        "only": {name: name for name, column in ONLY.items() if column in columns},
    }
    for name in ("label", "split", "padding"):
        values = data.names(name)
        choices[name] = {value: value for value in values} if len(values) > 1 else {}
    defaults = {name: next(iter(choices[name])) for name in ("source-a", "source-b", "colour", "dimensions", "among")}
    defaults["scope"] = "crops" if data.repeats else "all"
    options = {
        name: [{"label": text, "value": value} for value, text in values.items()] for name, values in choices.items()
    }
    return options, defaults


def _title(data: ViewerData) -> tuple[str, str]:
    """Return the page's head and the line above it."""
    n, sets = sum(file.n for file in data.files), data.names("dataset_name")
    dims = dict.fromkeys(f"{file.dim:,} numbers" for file in data.files if file.dim)
    facts = [", ".join(file.name for file in data.files), *data.names("model")[:3], *dims]
    return f"{count(n, 'embedding')}{f' of {sets[0]}' if len(sets) == 1 else ''}", " · ".join(facts)


def _notes(data: ViewerData) -> list[str]:
    """Return what must be said about the files as a whole."""
    notes = [text for file in data.files if not file.has_map and (text := file.map(2)[1])]
    return notes + [f"{file.name} shows {lost}." for file in data.files if (lost := file.pictures.lost())]
