"""The header of a safetensors file: read and checked without mapping the file, and written padded.

A file is u64 little-endian N, N bytes of JSON (`name -> dtype, shape, data_offsets`), then the data. Every byte of
the data belongs to exactly one tensor; anything else is an error here, as in the `safetensors` package.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass

from vortex_engine.c3.files import read_exactly
from vortex_engine.c3.json_object import as_counts, as_object
from vortex_engine.c3.layout import ALIGNMENT, align_up

MAX_HEADER_BYTES = 100_000_000
METADATA_KEY = "__metadata__"

ELEMENT_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

# Wider than any offset a file system can hold, so a header reserved with it never grows when the sizes are known.
_WIDEST_OFFSET = 10**18


class HeaderError(ValueError):
    """A header that breaks a rule; `tensor` names the tensor where one is at fault."""

    def __init__(self, message: str, tensor: str | None = None) -> None:
        super().__init__(message)
        self.tensor = tensor


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """One tensor of a safetensors file; `begin` and `end` are bytes from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: tensors by name in the order of their data, and where the data starts in the file."""

    tensors: dict[str, TensorSpan]
    data_offset: int


def read_header(fd: int) -> tuple[Header, bytes]:
    """Read and check the header of an open safetensors file.

    Returns:
        The header, and the bytes from the start of the file to the start of the data.

    Raises:
        HeaderError: a broken rule, truncation included.
    """
    file_bytes = os.fstat(fd).st_size
    if file_bytes < 8:
        raise HeaderError(f"the file has {file_bytes} bytes, too few for a safetensors header")
    prefix = read_exactly(fd, 8, 0)
    header_bytes = int.from_bytes(prefix, "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise HeaderError(f"the header claims {header_bytes} bytes, more than the limit of {MAX_HEADER_BYTES}")
    if header_bytes > file_bytes - 8:
        raise HeaderError(f"the header claims {header_bytes} bytes, the file has {file_bytes}: it is truncated")
    text = read_exactly(fd, header_bytes, 8)
    return parse_header(text, file_bytes - 8 - header_bytes), prefix + text


def parse_header(text: bytes, data_bytes: int) -> Header:
    """Check the JSON `text` of a header against the `data_bytes` that follow it in the file."""
    if not text.startswith(b"{"):
        raise HeaderError("the header does not start with '{'")
    try:
        document: dict[str, object] = json.loads(text.decode("utf-8"), object_pairs_hook=_object_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"the header is not JSON: {error}") from error
    metadata = as_object(document.pop(METADATA_KEY, {}))
    if metadata is None or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError(f"{METADATA_KEY} is not a map of strings")

    spans = sorted((_span(name, entry) for name, entry in document.items()), key=lambda span: (span.begin, span.end))
    end = 0
    for span in spans:
        if span.begin != end:
            what = "overlaps the tensor before it" if span.begin < end else "leaves a hole before it"
            raise HeaderError(f"data_offsets start at {span.begin}, which {what} (ends at {end})", span.name)
        end = span.end
        if end > data_bytes:
            raise HeaderError(f"data_offsets end at {end}, the file holds {data_bytes} bytes of data", span.name)
    if end != data_bytes:
        raise HeaderError(f"the file holds {data_bytes} bytes of data, its tensors account for {end}")
    return Header({span.name: span for span in spans}, 8 + len(text))


def format_header(spans: Iterable[TensorSpan], total_bytes: int | None = None) -> bytes:
    """Bytes from the start of the file to the start of the data, which begins at a multiple of 4096.

    `total_bytes` is what `reserve_bytes` said for the same tensors; without it the padding is as small as it can be.
    """
    document: dict[str, object] = {METADATA_KEY: {"format": "pt"}}
    for span in spans:
        document[span.name] = {
            "dtype": span.dtype,
            "shape": list(span.shape),
            "data_offsets": [span.begin, span.end],
        }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    padded_bytes = align_up(8 + len(text)) if total_bytes is None else total_bytes
    assert padded_bytes % ALIGNMENT == 0 and 8 + len(text) <= padded_bytes
    return (padded_bytes - 8).to_bytes(8, "little") + text.ljust(padded_bytes - 8)


def reserve_bytes(names_and_ranks: Iterable[tuple[str, int]]) -> int:
    """Bytes that any header of these tensors fits in, whatever their sizes; `rank` is the number of dimensions."""
    longest_dtype = max(ELEMENT_BITS, key=len)
    return len(
        format_header(
            TensorSpan(name, longest_dtype, (_WIDEST_OFFSET,) * rank, _WIDEST_OFFSET, _WIDEST_OFFSET)
            for name, rank in names_and_ranks
        )
    )


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return document


def _span(name: str, entry: object) -> TensorSpan:
    fields = as_object(entry)
    if fields is None or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError("a tensor needs exactly dtype, shape and data_offsets", name)
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise HeaderError("the name is not valid Unicode", name)
    dtype, shape, offsets = fields["dtype"], as_counts(fields["shape"]), as_counts(fields["data_offsets"])
    if not isinstance(dtype, str) or dtype not in ELEMENT_BITS:
        raise HeaderError(f"unknown dtype {dtype!r}", name)
    if shape is None:
        raise HeaderError(f"shape is not a list of counts: {fields['shape']!r}", name)
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise HeaderError(f"data_offsets are not a range: {fields['data_offsets']!r}", name)
    bits = math.prod(shape) * ELEMENT_BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        raise HeaderError(
            f"{dtype} {list(shape)} needs {bits / 8:g} bytes, data_offsets hold {offsets[1] - offsets[0]}", name
        )
    return TensorSpan(name, dtype, tuple(shape), offsets[0], offsets[1])
