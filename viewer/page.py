"""The page of view.py: its layout and the pieces that callbacks fill in, all Dash components; nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html

KEYS = (
    ("← ↑ → ↓", "move or turn"),
    ("+ −", "zoom"),
    ("N P", "next, previous point"),
    ("Enter", "open it"),
    ("Esc", "clear"),
)


def layout(
    title: str,
    about: str,
    notes: Sequence[str],
    choices: Mapping[str, list[dict[str, str]]],
    defaults: Mapping[str, Any],
) -> Any:
    """Return the whole page. `choices`: the options of the controls; `defaults`: their first values."""
    stores = ["scene-a", "scene-b", "focus", "near", "selection", "upload", "groups"]
    silent = ["shown-a", "shown-b", "legend-done", "marked"]
    return html.Div(
        [
            *(dcc.Store(id=name) for name in stores),
            *(html.Div(id=name, hidden=True) for name in silent),
            dcc.Download(id="download"),
            html.Header(
                [
                    html.P(about, className="eyebrow"),
                    html.H1(title),
                    *(banner(note) for note in notes),
                    html.Div(
                        [
                            _tab("tab-map", "panel-map", "Map", True),
                            _tab("tab-upload", "panel-upload", "Search by picture", False),
                        ],
                        role="tablist",
                        **_attributes({"aria-label": "What to do"}),
                    ),
                ],
                className="top",
            ),
            html.Main([_map_panel(choices, defaults), _upload_panel(choices, defaults)]),
        ]
    )


def _attributes(attributes: dict[str, str]) -> Any:
    """Return HTML attributes whose names have dashes, for `**`."""
    return attributes


def banner(text: str) -> Any:
    before, command, after = (*text.split("`"), "", "")[:3]
    return html.Div(
        [html.Span("Note"), html.P([before, html.Code(command) if command else "", after])], className="banner caution"
    )


def _tab(name: str, panel: str, text: str, on: bool) -> Any:
    attributes = {"aria-selected": str(on).lower(), "aria-controls": panel}
    return html.Button(
        text, id=name, role="tab", type="button", tabIndex="0" if on else "-1", **_attributes(attributes)
    )


def _field(text: str, control: Any) -> Any:
    return html.Div([html.Label(text, htmlFor=control.id), control], className="field")


def _map_panel(choices: Mapping[str, list[dict[str, str]]], defaults: Mapping[str, Any]) -> Any:
    def single(name: str, text: str) -> Any:
        return _field(
            text,
            dcc.Dropdown(
                choices[name], defaults.get(name), id=name, clearable=False, searchable=len(choices[name]) > 8
            ),
        )

    def several(name: str, text: str) -> Any:
        return _field(text, dcc.Dropdown(choices[name], [], id=name, multi=True, placeholder="any"))

    radio = dcc.RadioItems(
        choices["dimensions"], defaults["dimensions"], id="dimensions", inline=True, className="choice"
    )
    only = dcc.Checklist(choices["only"], [], id="only", inline=True, className="choice")
    filters = [
        several(name, text)
        for name, text in (("label", "Labels"), ("split", "Splits"), ("padding", "Paddings"))
        if choices[name]
    ]
    search = dcc.Input(id="text", type="search", placeholder="part of an id or file name", debounce=0.3)
    controls = html.Section(
        [
            single("source-a", "Show"),
            single("source-b", "Beside it"),
            single("colour", "Colour by"),
            html.Div(
                [html.Span("Map", className="label"), radio],
                className="field",
                role="group",
                **_attributes({"aria-label": "Map"}),
            ),
            *filters,
            _field("Search ids", search),
            *(
                [html.Div([html.Span("Only", className="label"), only], className="field")]
                if choices["only"]
                else [html.Div(only, hidden=True)]
            ),
        ],
        className="card controls",
        **_attributes({"aria-label": "What the map shows"}),
    )
    hidden = [
        html.Div(dcc.Dropdown(id=name, multi=True), hidden=True)
        for name in ("label", "split", "padding")
        if not choices[name]
    ]
    return html.Div(
        [controls, *hidden, html.Div([html.Div([_maps(), _points()]), _aside(choices, defaults)], className="work")],
        id="panel-map",
        role="tabpanel",
        **_attributes({"aria-labelledby": "tab-map"}),
    )


def _points() -> Any:
    def button(name: str, text: str) -> Any:
        return html.Button(text, id=name, type="button", className="button")

    bar = [html.H2("Points", id="listed"), button("clear", "Clear selection"), button("export", "Export CSV")]
    more = html.Div(button("more", "Show more"), id="more-box")
    return html.Section(
        [html.Div(bar, className="bar"), html.Ul(id="tiles", className="tiles"), more], className="card"
    )


def _aside(choices: Mapping[str, list[dict[str, str]]], defaults: Mapping[str, Any]) -> Any:
    scope = dcc.Dropdown(choices["scope"], defaults["scope"], id="scope", clearable=False, searchable=False)
    near = [
        _field("Nearest neighbours among", scope),
        html.P(id="near-said", className="small", role="status", style={"margin": "8px 0 0"}),
        html.Ul(id="neighbours", className="tiles"),
    ]
    chosen = html.Div(empty_detail(), id="chosen")
    return html.Aside(
        [chosen, html.Div(near, id="near-box", hidden=True)],
        id="detail",
        className="card detail",
        **_attributes({"aria-label": "The chosen point"}),
    )


def _maps() -> Any:
    def tool(name: str, text: str, label: str, pressed: bool | None = None) -> Any:
        attributes = {"aria-label": label} | ({} if pressed is None else {"aria-pressed": str(pressed).lower()})
        return html.Button(text, id=name, type="button", className="tool", title=label, **_attributes(attributes))

    def canvas(name: str, label: str) -> Any:
        caption = html.Figcaption([html.B(id=f"title-{name}"), html.Span(id=f"count-{name}")])
        attributes = {"aria-label": label, "aria-describedby": "keys"}
        return html.Figure(
            [
                caption,
                html.Div(
                    id=f"map-{name}", className="map", role="application", tabIndex="0", **_attributes(attributes)
                ),
            ],
            id=f"figure-{name}",
        )

    keys: list[Any] = [part for key, text in KEYS for part in (*(html.Kbd(sign) for sign in key.split()), f" {text}  ")]
    return html.Section(
        [
            html.Div(
                [
                    html.P("", id="status", className="status", role="status"),
                    tool("tool-move", "Move", "Drag moves the map", True),
                    tool("tool-lasso", "Lasso", "Drag draws a lasso; Shift and drag does so too", False),
                    tool("zoom-in", "+", "Zoom in"),
                    tool("zoom-out", "−", "Zoom out"),
                    tool("zoom-reset", "Reset", "Show the whole map"),
                ],
                className="bar",
            ),
            html.Div(id="notes"),
            html.Div(
                [canvas("a", "Map of the points"), canvas("b", "Second map of the points")], className="maps", id="maps"
            ),
            html.P(keys, className="keys", id="keys"),
            html.P(id="said", className="sr", **_attributes({"aria-live": "polite"})),
            html.Div(
                [
                    html.H2("Legend", id="legend-head"),
                    html.Button("All", id="legend-all", type="button", className="tool"),
                    html.Button("None", id="legend-none", type="button", className="tool"),
                ],
                className="legend-head",
            ),
            html.Div(id="legend", className="legend", role="group", **_attributes({"aria-labelledby": "legend-head"})),
        ],
        className="card",
        **_attributes({"aria-label": "Map"}),
    )


def _upload_panel(choices: Mapping[str, list[dict[str, str]]], defaults: Mapping[str, Any]) -> Any:
    among = dcc.Dropdown(choices["among"], defaults["among"], id="among", clearable=False, searchable=False)
    votes = dcc.Dropdown([1, 3, 5, 10, 20], 5, id="votes", clearable=False, searchable=False)
    return html.Div(
        html.Div(
            [
                html.Section(
                    [
                        html.Div(id="drop"),
                        html.Div(
                            [_field("Compare with", among), _field("Neighbours that vote", votes)], className="controls"
                        ),
                    ],
                    className="card",
                ),
                html.Section(
                    [
                        html.P(
                            "Choose a picture: its most similar rows and the label they vote for appear here.",
                            id="upload-said",
                            role="status",
                            className="empty",
                        ),
                        html.Div(id="upload-found"),
                    ],
                    className="card",
                ),
            ],
            className="upload",
        ),
        id="panel-upload",
        role="tabpanel",
        hidden=True,
        **_attributes({"aria-labelledby": "tab-upload"}),
    )


def tile(
    file: int, row: int, key: int, name: str, lines: Sequence[str], right: bool | None = None, *, pictured: bool = True
) -> Any:
    """Return a picture that opens its point when pressed; `right` adds a frame and a sign."""
    role = {None: "", True: " right", False: " wrong"}[right]
    none = html.Span("no picture", className="missing")
    frame: list[Any] = [html.Img(src=f"picture/{file}/{row}", alt="") if pictured else none]
    if right is not None:
        frame.append(
            html.Span(
                "✓" if right else "✗",
                className="sign",
                **_attributes({"aria-label": "same label" if right else "other label"}),
            )
        )
    caption = html.Figcaption([html.B(name, title=name), *(html.Span(line, title=line) for line in lines)])
    attributes = {"data-file": str(file), "data-row": str(row), "data-key": str(key)}
    figure = html.Figure([html.Div(frame, className="frame"), caption], className=f"thumb{role}")
    return html.Li(html.Button(figure, type="button", className="tile", **_attributes(attributes)))


def bare_tile(name: str, lines: Sequence[str]) -> Any:
    """Return a result that is in no file of this page, and so has no picture."""
    frame = html.Div(html.Span("not in these files", className="missing"), className="frame")
    return html.Li(
        html.Figure([frame, html.Figcaption([html.B(name, title=name), *map(html.Span, lines)])], className="thumb")
    )


def variant(values: Mapping[str, Any]) -> list[str]:
    """Return [the split and padding of a row], [] where it tells neither."""
    padding = values.get("padding")
    text = " · ".join(str(part) for part in (values.get("split"), padding and f"padding {padding}") if part)
    return [text] if text else []


def empty_detail() -> list[Any]:
    text = "Press a point of the map, or a picture below it: its picture, its facts and its nearest neighbours appear here."
    return [html.H2("No point chosen"), html.P(text, className="empty")]


def detail(file: int, row: int, values: Mapping[str, Any], *, pictured: bool) -> list[Any]:
    """Return the chosen point: picture, verdict, facts."""
    verdict = []
    if "correct" in values:
        right = bool(values["correct"])
        margin = f", margin {values['margin']:.3f}" if isinstance(values.get("margin"), float) else ""
        text = "✓ predicted right" if right else f"✗ predicted {values.get('predicted') or 'otherwise'}"
        verdict = [html.P([html.B(text, className="up" if right else "down"), margin], className="verdict")]
    source = f"picture/{file}/{row}/large"
    picture = [html.Img(src=source, alt=f"picture of {values['label']}", className="picture")] if pictured else []
    left = ("label", "correct", "predicted", "margin", "projection_x", "projection_y", "projection_z")
    facts = [(name, value) for name, value in values.items() if name not in left and not name.startswith("class_")]
    return [
        html.H2(values["label"]),
        *picture,
        *verdict,
        html.Dl(
            [html.Div([html.Dt(name.replace("_", " ")), html.Dd(str(value))]) for name, value in facts],
            className="about",
        ),
    ]


def answer(picture: str, label: str, votes: str, compared: str, hits: Sequence[Any]) -> list[Any]:
    """Return what a picture that was uploaded is like. `picture`: a data URL."""
    facts = [
        html.Span("k-NN label", className="eyebrow"),
        html.Span(label, className="number", id="knn-label"),
        html.Span(votes, className="small"),
    ]
    return [
        html.Div([html.Img(src=picture, alt="the picture you chose"), html.Div(facts)], className="answer"),
        html.P(compared, className="small"),
        html.Ul(list(hits), className="tiles", id="hits"),
    ]
