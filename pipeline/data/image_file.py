"""One image file to 8-bit pixels, by Pillow: the rules that a bundle's infer.py follows too, bit by bit.

The image is turned as its EXIF says. Of 16 bits in a channel the upper eight are taken; grey values of another range
need `white`, the value that becomes 255. Alpha is dropped, palettes and CMYK become what `convert` makes of them.
"""

from __future__ import annotations

import io
import struct
import warnings
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

#: What a file may be, whatever its name says: nothing reaches another decoder of Pillow.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
#: Larger images are refused before memory is taken for their pixels; as large as Pillow warns of.
PIXELS_AT_MOST = 2**30 // 12
SIXTEEN_BITS = 65535
_ORIENTATION, _WHITE_IS_ZERO = 274, 0
_PHOTOMETRIC, _BITS = 262, 258
_KINDS = {1: "B", 3: "H", 4: "I"}
_TURNS = dict(enumerate((Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
                         Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
                         Image.Transpose.ROTATE_90), start=2))  # fmt: skip


class UnreadableError(InputError):
    """One image cannot be used; the text says why, without the file's name."""


def opened(source: Path | IO[bytes]) -> Image.Image:
    """Open an image of an allowed format and size. Raises UnreadableError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(source, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableError(
            f"has more than {PIXELS_AT_MOST:,} pixels, allowed: up to that; make it smaller"
        ) from error
    except UnidentifiedImageError as error:
        raise UnreadableError(f"cannot be read as an image: it is not one of {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise many kinds for a file that is damaged
        raise UnreadableError(f"cannot be read as an image ({reason(error)})") from error
    if image.width * image.height > PIXELS_AT_MOST:
        raise UnreadableError(f"has {image.width} x {image.height} pixels, allowed: up to {PIXELS_AT_MOST:,} in all")
    return image


def reason(error: Exception) -> str:
    """Return what an error of Pillow says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def orientation(exif: bytes) -> int:
    """Return how EXIF says that the image is turned, 1 (not at all) to 8; 1 where it does not say. Source: TIFF 6.0."""
    content = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None or len(content) < 8:  # noqa: PLR2004 (the header of TIFF)
        return 1
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    for tag, kind, at in _entries(content, order, start):
        if tag == _ORIENTATION:
            (value,) = struct.unpack_from(f"{order}{_KINDS[kind]}", content, at) if kind in _KINDS else (1,)
            return value if value in _TURNS else 1
    return 1


def _entries(content: bytes, order: str, start: int) -> Iterator[tuple[int, int, int]]:
    """Yield tag, type and place of the value of each whole entry of a directory."""
    if len(content) < start + 2:
        return
    (count,) = struct.unpack_from(f"{order}H", content, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(content) - 11), 12):
        yield *struct.unpack_from(f"{order}HH", content, at), at + 8


def turned(image: Image.Image) -> int:
    """Return the orientation that is still to be applied; Pillow applies that of TIFF itself."""
    if image.format == "TIFF":
        return 1
    if image.format == "PNG":
        image.load()  # EXIF may come behind the pixels
    return orientation(image.info.get("exif", b""))


def _is_deep(image: Image.Image) -> bool:
    """Whether a grey image has other values than 8 bits."""
    return image.mode in {"I", "F"} or image.mode.startswith("I;16")


def rule(content: bytes) -> str:
    """Name what is done to a file beside decoding its 8 bits as they lie; empty for nearly all files.

    Raises UnreadableError for what is no image; of one whose first bytes are right no more is looked at.
    """
    png, jpeg = content.startswith(b"\x89PNG\r\n\x1a\n"), content.startswith(b"\xff\xd8\xff")
    said = b"Exif\0\0" in content or b"eXIf" in content or b"EXIF" in content
    if not said and (jpeg or (png and content[24:26] != b"\x10\0")):  # 16 bits of grey
        return ""
    with _warned_if_read(), opened(io.BytesIO(content)) as image:
        if _is_deep(image):
            return "deep"
        try:
            turn = turned(image) if said else 1
        except Exception as error:  # decoders raise many kinds for a file that is damaged
            raise UnreadableError(f"cannot be read as an image ({reason(error)})") from error
    return f"orientation {turn}" if turn > 1 else ""


def read_pixels(path: Path, channels: int, white: float | None) -> tuple[Image.Image, float]:
    """Return an image file as 8 bits, turned, in grey (1) or colour (3), and its brightest value where it was deep.

    Raises:
        UnreadableError: it is damaged, of no allowed format or too large, or its values have no known white.
    """
    with _warned_if_read(), opened(path) as image:
        try:
            turn = turned(image)
            shallow = _from_deep(image, white) if _is_deep(image) else image
            brightest = float(np.asarray(image).max()) if _is_deep(image) else 0.0
            _refuse_other_white(path, image, white)
            converted = shallow.convert("L" if channels == 1 else "RGB")
        except UnreadableError:
            raise
        except Exception as error:  # decoders raise many kinds for a file that is damaged
            raise UnreadableError(f"cannot be read as an image ({reason(error)})") from error
    return converted.transpose(_TURNS[turn]) if turn in _TURNS else converted, brightest


@contextmanager
def _warned_if_read() -> Iterator[None]:
    """Leave out Pillow's warnings about a file that is refused: the error says what is wrong with it."""
    with warnings.catch_warnings(record=True) as heard:
        yield
    for each in heard:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _from_deep(image: Image.Image, white: float | None) -> Image.Image:
    if image.format == "TIFF" and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise UnreadableError(f"is an inverted image ({image.mode}, white is zero): save it with black as zero")
    if white is None and not image.mode.startswith("I;16"):
        kind = "floats" if image.mode == "F" else "32-bit numbers"
        raise UnreadableError(
            f"holds {kind}, whose white is not known: say white, such as white: 1.0 of floats from 0 to 1"
        )
    return Image.fromarray(to_8_bits(np.asarray(image), white))


def _tag(image: Any, number: int) -> Any:  # noqa: ANN401 - of Pillow's TIFF images alone
    return image.tag_v2.get(number)


def _refuse_other_white(path: Path, image: Image.Image, white: float | None) -> None:
    """Raise where `white` is asked of 16-bit channels of which Pillow gives the upper eight bits alone."""
    if white is None or white == SIXTEEN_BITS or _is_deep(image):
        return
    bits = _tag(image, _BITS) if image.format == "TIFF" else _png_bits(path) if image.format == "PNG" else ()
    if max(bits or (8,)) > 8:  # noqa: PLR2004 (bits)
        raise UnreadableError("has 16 bits in each of several channels, of which the upper 8 are used: remove white")


def _png_bits(path: Path) -> bytes:
    """Return the one byte of a PNG file that has the bits of a channel."""
    with path.open("rb") as stream:
        return stream.read(25)[24:]


def to_8_bits(values: NDArray[Any], white: float | None) -> NDArray[np.uint8]:
    """Return values from 0 to `white` as 0 to 255, clipped; of whole numbers the upper bits, floats rounded.

    Raises UnreadableError when a value is not finite.
    """
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise UnreadableError("holds values that are NaN or infinite: fix the file")
        scaled = np.clip(values.astype(np.float64) * (255 / (white or 1.0)), 0, 255)
        return np.rint(scaled).astype(np.uint8)
    steps = int(white or SIXTEEN_BITS) + 1
    return np.clip(values.astype(np.int64) * 256 // steps, 0, 255).astype(np.uint8)
