"""What happens on the page, panel by panel: the map, the chosen point, the list of points, the uploaded picture.

Every value comes from a browser and is checked: what this page cannot have sent is answered with 400.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, no_update
from flask import abort

from common import table_files
from common.messages import UserError, count
from imaging import images
from imaging.images import kind_of
from viewer import map_data, page
from viewer.map_data import Filters
from viewer.viewer_data import Neighbour, PictureSearch, ViewerData

PAGE = 48  # pictures listed at a time
PAGES = 40  # shown at most
FILTERS = ("label", "split", "padding", "only", "text")
_OF_MAPS = (("scene", "data"), ("title", "children"), ("count", "children"))


def connect_map(app: Dash, data: ViewerData) -> None:
    """Draw the maps, their titles and their legend as the controls say."""

    @app.callback(
        *(Output(f"{part}-{name}", key) for part, key in _OF_MAPS for name in "ab"),
        Output("figure-b", "hidden"),
        Output("maps", "className"),
        Output("groups", "data"),
        Output("status", "children"),
        Output("notes", "children"),
        *(Input(name, "value") for name in ("source-a", "source-b", "colour", "dimensions", *FILTERS)),
    )
    def draw(a: Any, b: Any, colour: Any, dimensions: Any, *filters: Any) -> Any:
        chosen, shown = _filters(*filters), [a, b] if b else [a]
        sources = [_source(data, value) for value in shown]
        _require(colour, data.colours())
        _require(dimensions, map_data.LIMITS)
        maps = [map_data.Map(data.files[file], data.keys[file], id, chosen, dimensions) for file, id in sources]
        legend, groups = map_data.grouped([(part.file, part.rows) for part in maps], colour)
        scenes = [
            {"file": file, **part.scene(codes, legend)}
            for (file, _), part, codes in zip(sources, maps, groups, strict=True)
        ]
        titles, counts = [data.sources()[value] for value in shown], [count(len(part.rows), "point") for part in maps]
        return (
            *_pair(scenes, None),
            *_pair(titles, ""),
            *_pair(counts, ""),
            len(maps) < 2,
            "maps two" if len(maps) == 2 else "maps",
            {"column": colour, "groups": [asdict(group) for group in legend]},
            maps[0].status(),
            [page.banner(note) for note in dict.fromkeys(note for part in maps for note in part.notes())],
        )

    for name in "ab":
        show = ClientsideFunction("view", "show")
        map_id = State(f"map-{name}", "id")
        app.clientside_callback(show, Output(f"shown-{name}", "children"), Input(f"scene-{name}", "data"), map_id)
    legend_of = ClientsideFunction("view", "legend")
    app.clientside_callback(legend_of, Output("legend-done", "children"), Input("groups", "data"))
    mark = ClientsideFunction("view", "mark")
    app.clientside_callback(mark, Output("marked", "children"), Input("near", "data"), Input("focus", "data"))


def _pair(values: Sequence[Any], nothing: Any) -> tuple[Any, Any]:
    """Return the values of the first and of the second map, `nothing` where there is one map only."""
    return values[0], values[1] if len(values) > 1 else nothing


def connect_detail(app: Dash, data: ViewerData) -> None:
    """Show the chosen point and its nearest neighbours."""

    @app.callback(Output("chosen", "children"), Input("focus", "data"), prevent_initial_call=True)
    def choose(focus: Any) -> Any:
        file, row = _place(data, focus)
        rows = data.files[file]
        return page.detail(file, row, rows.row(row), pictured=rows.pictures.has(row))

    @app.callback(
        Output("near-box", "hidden"),
        Output("near-said", "children"),
        Output("neighbours", "children"),
        Output("near", "data"),
        Input("focus", "data"),
        Input("scope", "value"),
        prevent_initial_call=True,
    )
    def show_neighbours(focus: Any, scope: Any) -> Any:
        if not focus:
            return no_update
        file, row = _place(data, focus)
        _require(scope, data.scopes())
        label = data.files[file].row(row)["label"]
        try:
            neighbours, sentence = data.neighbours(file, row, scope)
        except UserError as error:
            neighbours, sentence = [], str(error)
        marks = [{"file": file, "row": other.row, "key": int(data.keys[file][other.row])} for other in neighbours]
        same = sum(other.label == label for other in neighbours)
        sentence = f"{same} of {len(neighbours)} have its label. {sentence}" if neighbours else sentence
        return False, sentence, _neighbour_tiles(data, file, neighbours, label), marks


def connect_tiles(app: Dash, data: ViewerData, *, spreadsheet_safe: bool) -> None:
    """List the points that pass the filters, or those of the lasso, and export them; see common.table_files."""

    def listed(selection: Any, source: Any, filters: Sequence[Any]) -> tuple[int, np.ndarray, bool]:
        """Return (file, rows, selected): the lasso's rows, else those that pass the filters."""
        if selected := _selected_rows(selection):
            file, _ = data.clamp(_whole(selection.get("file")), 0)
            rows = np.unique(np.array(selected, np.int64))
            return file, rows[(rows >= 0) & (rows < data.files[file].n)], True
        file, id = _source(data, source)
        return file, np.flatnonzero(map_data.passing(data.files[file], id, _filters(*filters))), False

    @app.callback(
        Output("tiles", "children"),
        Output("listed", "children"),
        Output("more-box", "hidden"),
        Output("clear", "hidden"),
        Input("selection", "data"),
        Input("more", "n_clicks"),
        Input("source-a", "value"),
        *(Input(name, "value") for name in FILTERS),
    )
    def show(selection: Any, more: Any, source: Any, *filters: Any) -> Any:
        file, rows, selected = listed(selection, source, filters)
        pages = min(PAGES, 1 + max(0, _whole(more or 0)))
        shown = rows[: PAGE * pages]
        head = f"Selection: {count(len(rows), 'point')}" if selected else f"Points: {len(rows):,}"
        tiles = [_row_tile(data, file, row) for row in shown.tolist()]
        return tiles, head, len(shown) == len(rows) or pages == PAGES, not selected

    @app.callback(
        Output("download", "data"),
        Input("export", "n_clicks"),
        State("selection", "data"),
        State("source-a", "value"),
        *(State(name, "value") for name in FILTERS),
        prevent_initial_call=True,
    )
    def export(_: Any, selection: Any, source: Any, *filters: Any) -> Any:
        file, rows, _selected = listed(selection, source, filters)
        frame = data.files[file].frame(rows)
        frame.insert(0, "row", rows)
        return dcc.send_string(table_files.frame_text(frame, spreadsheet_safe=spreadsheet_safe), "selection.csv")


def connect_upload(app: Dash, data: ViewerData, search: PictureSearch) -> None:
    """Say what an uploaded picture is like."""

    @app.callback(
        Output("upload-said", "children"),
        Output("upload-found", "children"),
        Input("upload", "data"),
        Input("among", "value"),
        Input("votes", "value"),
        prevent_initial_call=True,
    )
    def upload(picture: Any, among: Any, k: Any) -> Any:
        if not picture:
            return no_update, no_update
        _require(among, search.references())
        if not isinstance(picture, Mapping):
            abort(400)
        name, content = _text(picture.get("name"))[:120], _text(picture.get("content"))
        try:
            encoded = base64.b64decode(content, validate=True)
            answer = search.look_up(encoded, among, min(100, max(1, _whole(k))))
        except (images.ImageError, ValueError) as error:
            return f"{name}: {error}; choose another picture.", []
        except UserError as error:
            return str(error), []
        url = f"data:{kind_of(encoded) or 'image/*'};base64,{content}"
        tiles = _neighbour_tiles(data, 0, answer.neighbours, None)
        return name, page.answer(url, answer.label, answer.votes, answer.compared, tiles)


def _row_tile(data: ViewerData, file: int, row: int) -> Any:
    """Return the picture of a row, framed as predicted right or wrong where that is known."""
    rows = data.files[file]
    values, key = rows.row(row), int(data.keys[file][row])
    name = str(values["label"]).rsplit("/", 1)[-1]
    lines = [str(values.get("crop_id") or f"row {row}").rsplit("/", 1)[-1], *page.variant(values)]
    return page.tile(file, row, key, name, lines, values.get("correct"), pictured=rows.pictures.has(row))


def _neighbour_tiles(data: ViewerData, file: int, neighbours: Sequence[Neighbour], label: str | None) -> list[Any]:
    """Return pictures of similar rows, framed by whether they bear `label`."""
    rows, tiles = data.files[file], []
    for other in neighbours:
        name, lines = other.label.rsplit("/", 1)[-1], [f"similarity {other.similarity:.3f}"]
        right = None if label is None else other.label == label
        if other.row is None:
            tiles.append(page.bare_tile(name, [*lines, other.name]))
            continue
        lines += page.variant(rows.row(other.row))
        key, pictured = int(data.keys[file][other.row]), rows.pictures.has(other.row)
        tiles.append(page.tile(file, other.row, key, name, lines, right, pictured=pictured))
    return tiles


# What comes from a browser, checked


def _require(value: Any, allowed: Collection[Any]) -> None:
    if not isinstance(value, (str, int)) or value not in allowed:
        abort(400)


def _text(value: Any) -> str:
    """Return a text, without the halves of surrogate pairs that JSON may hold and no other text can."""
    if not isinstance(value, str):
        abort(400)
    return value.encode("utf-8", "ignore").decode()


def _whole(value: Any) -> int:
    if type(value) is not int:
        abort(400)
    return value


def _source(data: ViewerData, value: Any) -> tuple[int, str | None]:
    """Return (file, ID or None for all) of a control that chooses what is shown."""
    _require(value, data.sources())
    file, _, id = value.partition("|")
    return int(file), id or None


def _place(data: ViewerData, focus: Any) -> tuple[int, int]:
    """Return (file, row) of a chosen point."""
    if not isinstance(focus, Mapping):
        abort(400)
    return data.clamp(_whole(focus.get("file")), _whole(focus.get("row")))


def _selected_rows(selection: Any) -> list[int]:
    """Return the rows of a lasso, [] where there is none."""
    rows = selection.get("rows") if isinstance(selection, Mapping) else None if selection is None else abort(400)
    if not isinstance(rows or [], list) or not all(type(row) is int and abs(row) < 2**31 for row in rows or []):
        abort(400)
    return rows or []


def _filters(label: Any, split: Any, padding: Any, only: Any, text: Any) -> Filters:
    names = [value or [] for value in (label, split, padding, only)]
    if not all(isinstance(value, list) and all(isinstance(name, str) for name in value) for value in names):
        abort(400)
    labels, splits, paddings, kinds = names
    return Filters(labels, splits, paddings, "wrong" in kinds, "flips" in kinds, _text(text or "")[:1000])
