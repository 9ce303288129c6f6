#!/usr/bin/env python3
"""Look at embeddings in the browser: maps, pictures, nearest neighbours, errors, search by picture.

  python view.py embeddings.parquet
  python view.py resnet50.parquet vit_small.parquet --port 8051
  python view.py embeddings.parquet --index index.faiss

Reads the Parquet files of npz_to_parquet.py and answers to this machine only; the page loads nothing from elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, messages
from imaging.colors import add_background

if TYPE_CHECKING:
    from retrieval.items import References
    from viewer.parquet_rows import ParquetRows


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__, __file__)
    add = parser.add_argument
    files = "made by npz_to_parquet.py; several for several models"
    add("files", nargs="+", type=Path, metavar="FILE.parquet", help=files)
    add("--host", default="127.0.0.1", help="address to answer at; any other address exposes the page to the network")
    add("--port", type=cli.whole(0, 65535), default=8050, help="port to answer at; 0 takes a free one")
    text = "read pictures that the files name below these folders only (default: the working folder and the files' own)"
    add("--data_root", type=Path, nargs="+", metavar="DIR", help=text)
    index = "index of search.py to search pictures in: index.faiss, index.db, or http://host:19530"
    add("--index", metavar="URI", help=index)
    add("--collection", metavar="NAME", help="the index's name there (default: the only one)")
    add(
        "--model",
        metavar="SPEC",
        help="model for the pictures that are searched (default: the one that the file names)",
    )
    cli.add_engine(parser, "the file")
    add_background(parser, None)
    cli.add_spreadsheet_safe(parser, "selection.csv")
    return parser


@contextlib.contextmanager
def opened_index(uri: str, name: str | None, file: ParquetRows) -> Iterator[References]:
    """Yield an index of search.py. Raises UserError where there is none, or where another model made it than the file."""
    from indexes.opening import open_index

    with open_index(uri, name) as index:
        fingerprints = [model.get("fingerprint") for model in (index.model, file.model)]
        if all(fingerprints) and fingerprints[0] != fingerprints[1]:
            raise messages.UserError(
                f"{index.source} and {file.path} come from different models; name files of one model"
            )
        yield index


def run(args: argparse.Namespace) -> None:
    from viewer import local_server
    from viewer.app import make_app
    from viewer.parquet_rows import ParquetRows
    from viewer.viewer_data import PictureSearch, ViewerData

    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(local_server.bind(args.host, args.port))
        files = [ParquetRows(path, args.data_root or ()) for path in args.files]
        index = stack.enter_context(opened_index(args.index, args.collection, files[0])) if args.index else None
        data = ViewerData(files)
        search = PictureSearch(data, args.model, index=index, background=args.background, engine=args.engine)
        app = make_app(data, search, args.host, spreadsheet_safe=args.spreadsheet_safe)
        host, port = listening.getsockname()[:2]
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
        messages.note(f"{messages.count(sum(file.n for file in files), 'row')}; Ctrl-C ends")
        # The first click needs torch, which takes seconds to import.
        threading.Thread(target=importlib.import_module, args=["torch"], daemon=True).start()
        local_server.serve(app.server, listening)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
