#!/usr/bin/env python3
"""Look at embeddings in the browser: maps, pictures, nearest neighbours, errors, search by picture.

  python view.py embeddings.parquet
  python view.py resnet50.parquet vit_small.parquet --port 8051
  python view.py embeddings.parquet --index index.db

Reads the Parquet files of npz_to_parquet.py and answers to this machine only; the page loads nothing from elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, messages

if TYPE_CHECKING:
    import numpy as np

    from viewer.explorer import Explorer, Near
    from viewer.parquet_rows import Points

ROOT = Path(__file__).resolve().parent
PAGE = 48  # pictures listed at a time
LARGE, SMALL = 640, 128  # pixels a side of pictures made from their source files


def variant(told: dict[str, Any]) -> list[str]:
    """Return the split and padding of a row, as far as it tells them."""
    padding = told.get("padding")
    return [" · ".join(str(part) for part in (told.get("split"), padding and f"padding {padding}") if part)]


def listed_tiles(view: Explorer, file: int, rows: Sequence[int]) -> list[Any]:
    """Return pictures of rows, framed as predicted right or wrong where that is known."""
    from viewer import page

    found = []
    for row in rows:
        told = view.files[file].row(row)
        name = str(told["label"]).rsplit("/", 1)[-1]
        lines = [str(told.get("crop_id") or f"row {row}").rsplit("/", 1)[-1], *variant(told)]
        key, pictured = int(view.keys[file][row]), view.files[file].is_pictured(row)
        found.append(page.tile(file, row, key, name, lines, told.get("correct"), pictured=pictured))
    return found


def near_tiles(view: Explorer, file: int, near: Sequence[Near], label: str | None) -> list[Any]:
    """Return pictures of similar rows, framed by whether they bear `label`."""
    from viewer import page

    found = []
    for one in near:
        name, lines = one.label.rsplit("/", 1)[-1], [f"similarity {one.similarity:.3f}"]
        right = None if label is None else one.label == label
        if one.row is None:
            found.append(page.bare_tile(name, [*lines, one.name]))
            continue
        lines += variant(view.files[file].row(one.row))
        key, pictured = int(view.keys[file][one.row]), view.files[file].is_pictured(one.row)
        found.append(page.tile(file, one.row, key, name, lines, right, pictured=pictured))
    return found


def make_app(view: Explorer, host: str) -> Any:
    """Return the Dash application; it answers pictures by file and row number and knows no paths."""
    from dash import Dash
    from flask import Response, abort, send_from_directory

    from common import images
    from viewer import local_server, page

    app = Dash(
        "view",
        assets_folder=str(ROOT / "viewer" / "assets"),
        serve_locally=True,
        title="Embeddings",
        update_title="",
    )
    app.index_string = app.index_string.replace("{%css%}", '<link rel="stylesheet" href="page.css">{%css%}').replace(
        "<html>", '<html lang="en">'
    )
    local_server.guard(app.server, host)

    def at(file: int, row: int) -> Points:
        if file >= len(view.files) or row >= view.files[file].n:
            abort(404)
        return view.files[file]

    @app.server.route("/picture/<int:file>/<int:row>", defaults={"size": "small"})
    @app.server.route("/picture/<int:file>/<int:row>/<any(large):size>")
    def picture(file: int, row: int, size: str) -> Any:
        large = size == "large"
        data = at(file, row).picture(row, LARGE if large else SMALL, prefer_source=large)
        if data is None:
            abort(404)
        return Response(data, mimetype=images.kind_of(data), headers={"Cache-Control": "private, max-age=3600"})

    @app.server.route("/about/<int:file>/<int:row>")
    def about(file: int, row: int) -> Any:
        told = at(file, row).row(row)
        lines = [[str(told.get("crop_id") or f"row {row}"), ""], [variant(told)[0], ""]]
        if "correct" in told:
            lines.append(["✓ right", "up"] if told["correct"] else [f"✗ predicted {told.get('predicted')}", "down"])
        return {"label": told["label"], "lines": [line for line in lines if line[0]]}

    @app.server.route("/page.css")
    def style() -> Any:
        return send_from_directory(ROOT / "common", "page.css")

    app.layout = page.layout(*_title(view), _notes(view), *controls(view))
    _connect(app, view)
    return app


def controls(view: Explorer) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Return the options of the page's controls and their first values; a filter of less than two values has none."""
    only = {"wrong": "correct", "flips": "flip"}
    choices: dict[str, dict[Any, str]] = {
        "source-a": view.sources(),
        "source-b": {"": "nothing", **view.sources()},
        "colour": view.colours(),
        "dimensions": {2: "2-D", 3: "3-D"},
        "scope": view.scopes(),
        "among": view.references(),
        "only": {name: name for name, column in only.items() if any(column in one.columns for one in view.files)},
    }
    for name in ("label", "split", "padding"):
        values = view.names(name)
        choices[name] = {value: value for value in values} if len(values) > 1 else {}
    defaults = {name: next(iter(choices[name])) for name in ("source-a", "source-b", "colour", "dimensions", "among")}
    defaults["scope"] = "crops" if view.repeats else "all"
    return {
        name: [{"label": text, "value": value} for value, text in found.items()] for name, found in choices.items()
    }, defaults


def _title(view: Explorer) -> tuple[str, str]:
    n = sum(one.n for one in view.files)
    sets = view.names("dataset_name")
    models = view.names("model")
    dims = dict.fromkeys(f"{one.dim:,} numbers" for one in view.files if one.dim)
    facts = [", ".join(one.name for one in view.files), *models[:3], *dims]
    return f"{messages.count(n, 'embedding')}{f' of {sets[0]}' if len(sets) == 1 else ''}", " · ".join(facts)


def _notes(view: Explorer) -> list[str]:
    """Return what must be said about the files as a whole."""
    notes = [text for one in view.files if not one.has_map and (text := one.map(2)[1])]
    return notes + [
        f"{one.name} shows pictures from where they were, and the first is not there ({lost}). Make it anew with --data_root, "
        "or with --thumbnails, which keeps them in the file."
        for one in view.files
        if (lost := one.lost_picture())
    ]


def _connect(app: Any, view: Explorer) -> None:
    """Let the page's controls do what they say."""
    import base64

    import numpy as np
    from dash import ClientsideFunction, Input, Output, State, dcc, no_update

    from common import images
    from common.images import kind_of
    from viewer import map_data, page

    filters = [Input(name, "value") for name in ("label", "split", "padding", "only", "text")]

    def wanted(label: Any, split: Any, padding: Any, only: Any, text: Any) -> map_data.Filters:
        return map_data.Filters(
            label or (), split or (), padding or (), "wrong" in (only or ()), "flips" in (only or ()), text or ""
        )

    def part(source: str) -> tuple[int, str | None]:
        file, _, id = source.partition("|")
        return int(file), id or None

    @app.callback(
        *(Output(f"scene-{name}", "data") for name in "ab"),
        *(Output(f"title-{name}", "children") for name in "ab"),
        *(Output(f"count-{name}", "children") for name in "ab"),
        Output("figure-b", "hidden"),
        Output("maps", "className"),
        Output("groups", "data"),
        Output("status", "children"),
        Output("notes", "children"),
        Input("source-a", "value"),
        Input("source-b", "value"),
        Input("colour", "value"),
        Input("dimensions", "value"),
        *filters,
    )
    def draw(a: str, b: str, colour: str, dimensions: int, *rest: Any) -> Any:
        chosen = wanted(*rest)
        texts, limit = view.sources(), map_data.LIMITS[dimensions]
        parts, notes, totals = [], [], []
        for source in filter(None, (a, b)):
            file, id = part(source)
            points = view.files[file]
            keep = map_data.passing(points, id, chosen)
            rows = map_data.sampled(points, keep, limit)
            parts.append((file, points, rows))
            totals.append(
                (
                    int(keep.sum()),
                    points.n if id is None else int((points.codes("id")[0] == points.codes("id")[1].index(id)).sum()),
                )
            )
            if points.has_map and (said := points.map(dimensions)[1]):
                notes.append(said)
            if len(rows) < keep.sum():
                notes.append(
                    f"{keep.sum():,} points pass; the map shows {len(rows):,}, a sample in which every label keeps its share. "
                    f"Filter to see all of fewer, or see all at once with `{atlas(points)}`"
                )
        legend, codes = map_data.grouped([(points, rows) for _, points, rows in parts], colour)
        drawn = [
            {"file": file, **map_data.scene(points, rows, code, view.keys[file], legend, dimensions)}
            for (file, points, rows), code in zip(parts, codes, strict=True)
        ]
        shown, total = sum(one["n"] for one in drawn[:1]), totals[0][1]
        status = (
            f"{messages.count(shown, 'point')} of {total:,} shown"
            if shown < total
            else f"{messages.count(total, 'point')}, all shown"
        )
        two = len(drawn) == 2
        titles = [texts[a], texts.get(b, "")]
        counts = [messages.count(one["n"], "point") for one in drawn] + [""] * (2 - len(drawn))
        return (
            drawn[0], drawn[1] if two else None, *titles, *counts, not two, "maps two" if two else "maps",
            {"column": colour, "groups": [asdict(one) for one in legend]},
            status, [page.banner(text) for text in dict.fromkeys(notes)],
        )  # fmt: skip

    show = ClientsideFunction("view", "show")
    for name in "ab":
        app.clientside_callback(
            show, Output(f"shown-{name}", "children"), Input(f"scene-{name}", "data"), State(f"map-{name}", "id")
        )
    legend = ClientsideFunction("view", "legend")
    app.clientside_callback(legend, Output("legend-done", "children"), Input("groups", "data"))
    app.clientside_callback(
        ClientsideFunction("view", "mark"), Output("marked", "children"), Input("near", "data"), Input("focus", "data")
    )

    @app.callback(Output("chosen", "children"), Input("focus", "data"), prevent_initial_call=True)
    def choose(focus: Any) -> Any:
        file, row = view.place(focus["file"], focus["row"])
        points = view.files[file]
        return page.detail(file, row, points.row(row), pictured=points.is_pictured(row))

    @app.callback(
        Output("near-box", "hidden"),
        Output("near-said", "children"),
        Output("neighbours", "children"),
        Output("near", "data"),
        Input("focus", "data"),
        Input("scope", "value"),
        prevent_initial_call=True,
    )
    def surround(focus: Any, scope: str) -> Any:
        if not focus:
            return no_update
        file, row = view.place(focus["file"], focus["row"])
        label = view.files[file].row(row)["label"]
        try:
            near, said = view.near(file, row, scope)
        except messages.UserError as error:
            near, said = [], str(error)
        marks = [{"file": file, "row": one.row, "key": int(view.keys[file][one.row])} for one in near]
        same = sum(one.label == label for one in near)
        said = f"{same} of {len(near)} have its label. {said}" if near else said
        return False, said, near_tiles(view, file, near, label), marks

    def listed(selection: Any, a: str, chosen: map_data.Filters) -> tuple[int, np.ndarray, bool]:
        """Return (file, rows, selected): the lasso's rows, else those that pass."""
        if selection and selection.get("rows"):
            file, _ = view.place(selection["file"], 0)
            rows = np.unique(np.array(selection["rows"], np.int64))
            return file, rows[(rows >= 0) & (rows < view.files[file].n)], True
        file, id = part(a)
        return file, np.flatnonzero(map_data.passing(view.files[file], id, chosen)), False

    @app.callback(
        Output("gallery", "children"),
        Output("listed", "children"),
        Output("more-box", "hidden"),
        Output("clear", "hidden"),
        Input("selection", "data"),
        Input("more", "n_clicks"),
        Input("source-a", "value"),
        *filters,
    )
    def gallery(selection: Any, more: Any, a: str, *rest: Any) -> Any:
        file, rows, selected = listed(selection, a, wanted(*rest))
        shown = rows[: PAGE * ((more or 0) + 1)]
        said = f"Selection: {messages.count(len(rows), 'point')}" if selected else f"Points: {len(rows):,}"
        return listed_tiles(view, file, shown.tolist()), said, len(shown) == len(rows), not selected

    @app.callback(
        Output("download", "data"),
        Input("export", "n_clicks"),
        State("selection", "data"),
        State("source-a", "value"),
        *(State(one.component_id, "value") for one in filters),
        prevent_initial_call=True,
    )
    def export(_: Any, selection: Any, a: str, *rest: Any) -> Any:
        file, rows, _selected = listed(selection, a, wanted(*rest))
        frame = view.files[file].frame(rows)
        frame.insert(0, "row", rows)
        return dcc.send_string(frame.to_csv(index=False), "selection.csv")

    @app.callback(
        Output("upload-said", "children"),
        Output("upload-found", "children"),
        Input("upload", "data"),
        Input("among", "value"),
        Input("votes", "value"),
        prevent_initial_call=True,
    )
    def upload(given: Any, among: str, k: int) -> Any:
        if not given:
            return no_update, no_update
        name = str(given.get("name"))[:120]
        try:
            data = base64.b64decode(str(given.get("content")), validate=True)
            found = view.look_up(data, among, int(k))
        except (images.ImageError, ValueError) as error:
            return f"{name}: {error}; choose another picture.", []
        except messages.UserError as error:
            return str(error), []
        picture = f"data:{kind_of(data) or 'image/*'};base64,{given['content']}"
        tiles = near_tiles(view, 0, found.near, None)
        return name, page.answer(picture, found.label, found.votes, found.said, tiles)


def atlas(points: Points) -> str:
    """Return the command that shows a whole file in embedding-atlas."""
    import shlex

    flags = [
        " --vector embedding" if points.dim else "",
        " --x projection_x --y projection_y" if points.has_map else "",
    ]
    flags += [
        " --neighbors neighbors" if points.has_neighbours else "",
        " --image image" if points.has_pictures else "",
    ]
    return f"embedding-atlas {shlex.quote(str(points.path))}{''.join(flags)}"


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE.parquet",
        help="made by npz_to_parquet.py; several for several models",
    )
    add("--host", default="127.0.0.1", help="address to answer at; any but this machine's own is open to others")
    add("--port", type=cli.whole(0, 65535), default=8050, help="port to answer at; 0 takes a free one")
    add(
        "--index", metavar="URI", help="index of search.py to search pictures in: a file index.db, or http://host:19530"
    )
    add("--collection", metavar="NAME", help="the index's name there (default: the only one)")
    add(
        "--model",
        metavar="SPEC",
        help="the model for pictures that are searched (default: the one that the file names)",
    )
    return parser


@contextlib.contextmanager
def opened(uri: str, name: str | None, files: Sequence[Points]) -> Iterator[Any]:
    """Yield an index of search.py. Raises UserError where there is none, or where another model made it than the first file."""
    from indexes.milvus_index import Index
    from indexes.milvus_store import Store

    with Store(uri, token=os.environ.get("MILVUS_TOKEN", "")) as store:
        names = [one for one in store.names() if "__" not in one]
        if name is None and len(names) != 1:
            raise messages.UsageError(
                f"{uri} has the collections {', '.join(names) or 'none'}; name one with --collection"
            )
        index = Index(store, name or names[0])
        models = [model.get("fingerprint") for model in (index.model, files[0].model)]
        if all(models) and models[0] != models[1]:
            raise messages.UserError(
                f"{index.source} and {files[0].path} come from different models; name files of one model"
            )
        yield index


def run(args: argparse.Namespace) -> None:
    from viewer import local_server
    from viewer.explorer import Explorer
    from viewer.parquet_rows import Points

    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(local_server.bind(args.host, args.port))
        files = [Points(path) for path in args.files]
        index = stack.enter_context(opened(args.index, args.collection, files)) if args.index else None
        app = make_app(Explorer(files, model=args.model, index=index), args.host)
        host, port = listening.getsockname()[:2]
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
        messages.note(f"{messages.count(sum(one.n for one in files), 'row')}; Ctrl-C ends")
        threading.Thread(
            target=importlib.import_module, args=["torch"], daemon=True
        ).start()  # the first click needs it
        local_server.serve(app.server, listening)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
