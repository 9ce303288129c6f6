"""Reading .npz files of unknown origin: nothing is executed, nothing is allocated that the file does not hold.

An .npz is a zip of .npy entries. numpy itself would trust a header that promises terabytes, and would run a pickle.
"""

from __future__ import annotations

import errno
import io
import math
import pickle
import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from common.messages import UserError

CHUNK = 1 << 22  # bytes
_ADMITTED = {
    *(("builtins", name) for name in ("dict", "list", "tuple", "set", "frozenset", "str", "int", "float", "bool")),
    ("collections", "OrderedDict"),
}


# CPython 3.11 counts the depth of all threads' syntax trees as one, and sometimes raises SystemError for a sound header.
_parsing = threading.Lock()


_DTYPE = re.compile(r"[<>=|]?([fiub][1248]|f16|c(8|16)|[SU]\d{1,7}|O8?|\?)")


class _Array:
    """Stands for numpy.ndarray inside a pickle, where nothing may call it with a shape of its own."""


class _Dtype:
    """Stands for numpy.dtype inside a pickle: made from its name and byte order only, as numpy itself trusts a crafted state."""

    def __init__(self, name: object = "", *_: object) -> None:
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"the type {str(name)[:40]!r}")
        self.dtype = np.dtype(name)

    def set(self, state: Any) -> None:
        order, parts = state[1], state[2:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in parts):
            raise pickle.UnpicklingError("a type of several fields")
        self.dtype = self.dtype.newbyteorder(order) if order in "<>" else self.dtype


def _dtype_of(value: object) -> np.dtype:
    if not isinstance(value, _Dtype):
        raise pickle.UnpicklingError("a type that is none")
    return value.dtype


def _reconstruct(kind: object, shape: object, typecode: object) -> np.ndarray:
    """Admit only the empty array that numpy pickles first and fills by its state."""
    if shape != (0,):
        raise pickle.UnpicklingError("an array that is not empty at first")
    return np.ndarray((0,), "b")


def _array_state(state: Any) -> tuple[int, tuple[int, ...], np.dtype, bool, Any]:
    """Return the state of an array with a true type, if its content is as large as its shape says."""
    _, shape, kind, fortran, content = state
    dtype = _dtype_of(kind)
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise pickle.UnpicklingError("an array of no shape")
    if isinstance(content, str) and not dtype.hasobject:
        content = content.encode("latin1")  # of Python 2
    if dtype.hasobject:
        sound = type(content) is list and len(content) == math.prod(shape)
    else:
        sound = type(content) in (bytes, bytearray) and len(content) == math.prod(shape) * dtype.itemsize
    if not sound:
        raise pickle.UnpicklingError("an array of another size than its content")
    return 1, shape, dtype, bool(fortran), content


def _scalar(kind: object, data: Any) -> Any:
    dtype = _dtype_of(kind)
    data = data.encode("latin1") if isinstance(data, str) else data
    if dtype.hasobject or type(data) is not bytes or len(data) != dtype.itemsize:
        raise pickle.UnpicklingError("a number of the wrong size")
    return np.frombuffer(data, dtype)[0]


def _frombuffer(data: Any, kind: object, shape: Any, order: object) -> np.ndarray:
    _, shape, dtype, _, data = _array_state((1, shape, kind, False, data))
    if dtype.hasobject:
        raise pickle.UnpicklingError("objects made of bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, codec: str) -> bytes:
    if codec.lower().replace("-", "") not in ("latin1", "utf8"):
        raise pickle.UnpicklingError(f"the codec {codec}")
    return text.encode(codec)


def _no_bytes() -> bytes:
    """Stand for `bytes`, of which a pickle calls only the empty one; of a number it would reserve as much memory."""
    return b""


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _no_bytes,
}


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """Admits numpy arrays, dtypes and plain containers.

    The pure-Python unpickler, as its C twin reserves memory for whatever index or length an opcode names. States are given to
    arrays and types only, after they are checked.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def find_class(self, module: str, name: str) -> Any:
        key = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins"), name
        if key in _STAND_INS:
            return _STAND_INS[key]
        if module == "numpy.dtypes" and name.endswith("DType") and hasattr(np.dtypes, name):
            code = np.dtype(getattr(np.dtypes, name)).str  # numpy refuses a class that needs parameters
            return lambda *_: _Dtype(code)
        if key in _ADMITTED:
            return super().find_class(*key)
        raise UserError(f"{module}.{name}")

    def load_build(self) -> None:
        state = self.stack.pop()  # type: ignore[attr-defined]
        value = self.stack[-1]  # type: ignore[attr-defined]
        if type(value) is _Dtype:
            value.set(state)
        elif type(value) is np.ndarray:
            value.__setstate__(_array_state(state))  # type: ignore[arg-type]
        else:
            raise pickle.UnpicklingError(f"a state of {type(value).__name__}")

    dispatch[pickle.BUILD[0]] = load_build


@contextmanager
def _sound(path: Path, name: str = "") -> Iterator[None]:
    """Turn what a damaged zip raises into one sentence."""
    what = f" (array {name!r})" if name else ""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        struct.error,
        RuntimeError,
        NotImplementedError,
        ValueError,
    ) as error:
        raise UserError(f"{path}{what} is damaged or no .npz file: {error}; make it anew") from None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise UserError(f"{path}{what} is damaged: it points before its own beginning; make it anew") from None


def _stated_entries(path: Path, known: int) -> int:
    """Return the number of entries that a zip states at its end, `known` where it says that it does not."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 22))
        tail = file.read()
    n = struct.unpack_from("<H", tail, tail.rindex(b"PK\5\6") + 10)[0]
    return known if n == 0xFFFF else n


class Archive:
    """The arrays of one .npz file by name."""

    def __init__(self, path: Path | str) -> None:
        """Read the table of contents; raises UserError when the file is no sound .npz, OSError when it cannot be opened."""
        self.path = Path(path)
        with _sound(self.path), zipfile.ZipFile(self.path) as archive:
            infos = archive.infolist()
            self._infos = {info.filename.removesuffix(".npy"): info for info in infos}
            if len(self._infos) < len(infos):
                raise ValueError("two arrays have one name")
            if len(infos) != _stated_entries(self.path, len(infos)):
                raise ValueError("it lists another number of arrays than it states")
            for info in infos:  # a name of its list that was damaged must not make an array invisible
                archive.open(info).close()
        total = sum(info.file_size for info in self._infos.values())
        if total > 8 * self.path.stat().st_size + (32 << 20):
            raise UserError(
                f"{self.path} is damaged: it promises {total:,} bytes, far more than it can hold; make it anew"
            )

    @property
    def names(self) -> list[str]:
        return list(self._infos)

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def shape(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Return an array's shape and type from its header."""
        with _sound(self.path, name), zipfile.ZipFile(self.path) as archive, archive.open(self._infos[name]) as file:
            shape, _, dtype = _read_header(file)
        return shape, dtype

    def read(self, name: str) -> np.ndarray | Any:
        """Return the array, or the Python object where the entry holds a pickled one; the entry's CRC-32 is checked.

        A stored matrix of floats, and stored text of some size, come as a read-only memory map.
        """
        info = self._infos[name]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{self.path}: array {name!r} is compressed in a way that is not read; save it with numpy.savez"
            )
        with _sound(self.path, name), zipfile.ZipFile(self.path) as archive, archive.open(info) as file:
            shape, fortran, dtype = _read_header(file)
            start = file.tell()
            if dtype.hasobject:
                return _unpickled(self.path, repr(name), file.read())
            n_bytes = math.prod(shape) * dtype.itemsize
            if start + n_bytes != info.file_size:
                raise ValueError(f"its header promises {n_bytes:,} bytes, it holds {info.file_size - start:,}")
            mapped = n_bytes > CHUNK if dtype.kind == "U" else n_bytes and dtype.kind == "f" and len(shape) == 2
            if info.compress_type == zipfile.ZIP_STORED and mapped:
                while file.read(CHUNK):  # the end of the stream compares the CRC
                    pass
                order: Any = "F" if fortran else "C"
                return np.memmap(self.path, dtype, "r", self._data_start(info) + start, shape, order)  # type: ignore[call-overload]
            flat = np.empty(math.prod(shape), dtype)
            view = memoryview(flat.view(np.uint8) if n_bytes else b"")  # type: ignore[arg-type]
            at = 0
            while data := file.read(CHUNK):
                view[at : at + len(data)] = data
                at += len(data)
            if at != n_bytes:
                raise ValueError(f"it ends after {at:,} of {n_bytes:,} bytes")
            return flat.reshape(shape, order="F" if fortran else "C")

    def _data_start(self, info: zipfile.ZipInfo) -> int:
        with open(self.path, "rb") as file:
            file.seek(info.header_offset)
            name_length, extra_length = struct.unpack("<26x2H", file.read(30))
        return info.header_offset + 30 + name_length + extra_length


def _unpickled(path: Path, where: str, data: bytes) -> Any:
    """Return what a pickle of arrays and plain containers holds; raises UserError for any other."""
    try:
        value = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except UserError as refused:
        raise UserError(
            f"{path}: the pickle in {where} asks for {refused}, which is refused (only arrays and plain containers "
            "are read, nothing is run); save its arrays with numpy.savez"
        ) from None
    except Exception as error:  # any bytes may stand in a pickle, so any error may come out
        raise UserError(f"{path}: the pickle in {where} is damaged ({error}); save its arrays anew") from None
    if isinstance(value, np.ndarray) and value.shape == () and value.dtype.hasobject:
        return value.item()
    return value


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown .npy version {version}")
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        with _parsing:
            return reader(file)
    except Exception as error:  # numpy tokenizes the header as Python text, which fails in as many ways as text can
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from None


def read_npy(path: Path) -> np.ndarray | Any:
    """Return the array of an .npy file as a read-only memory map, or the Python object that is pickled in it.

    Raises UserError for a damaged one, and for a pickle of anything but arrays and plain containers.
    """
    with _sound(path), open(path, "rb") as file:
        shape, fortran, dtype = _read_header(file)
        start = file.tell()
        if dtype.hasobject:
            return _unpickled(path, "it", file.read())
        held, promised = path.stat().st_size - start, math.prod(shape) * dtype.itemsize
        if held < promised:
            raise ValueError(f"its header promises {promised:,} bytes, it holds {held:,}")
    if not promised:
        return np.empty(shape, dtype)
    order: Any = "F" if fortran else "C"
    return np.memmap(path, dtype, "r", start, shape, order)  # type: ignore[call-overload]


def write(file: BinaryIO, arrays: dict[str, np.ndarray | Any]) -> None:
    """Write `arrays` as an uncompressed .npz; anything with shape, dtype and row slices is streamed in bounded memory.

    Every entry's local header carries the 20-byte zip64 field, so that the first entry, if named `embeddings`, starts at byte
    30 + 14 + 20 = 64, and its data, which .npy pads to 64, can be memory-mapped aligned. Equal arrays give equal bytes.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(info, "w", force_zip64=True) as entry:
                header = {
                    "descr": np.lib.format.dtype_to_descr(array.dtype),
                    "fortran_order": False,
                    "shape": array.shape,
                }
                np.lib.format.write_array_header_1_0(entry, header)
                if not array.shape:
                    entry.write(np.asarray(array).tobytes())
                    continue
                rows = max(1, CHUNK // max(1, array.dtype.itemsize * math.prod(array.shape[1:])))
                for at in range(0, array.shape[0], rows):
                    entry.write(np.ascontiguousarray(array[at : at + rows]).tobytes())
