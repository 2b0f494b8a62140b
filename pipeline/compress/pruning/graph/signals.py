"""Rules of signals and pixels: windows and columns, pooling undone, Fourier transforms, complex numbers.

The table of all rules is in graph_rules.py.
"""

from __future__ import annotations

from pipeline.compress.pruning.graph.labels import Labels, Rule, Site, Value, broadcast


def _unpooling(site: Site) -> list[Labels]:
    """Put pixels back to where a pooling found them: input and indices have the same channels."""
    value, indices = site.value("self"), site.value("indices")
    count = 3 if site.operator.endswith("3d") else 2
    for label in (*value.labels[-count:], *indices.labels[-count:]):
        site.freeze(label, "mixes channels")
    outer = [Value(each.shape[:-count], each.labels[:-count]) for each in (value, indices)]
    return [(*broadcast(site, outer, value.shape[:-count]), *(None,) * count)]


def transformed(site: Site) -> list[Labels]:
    """Transform along `dim` (without it along all dimensions), whose positions are kept: Fourier transforms."""
    value = site.value("self")
    axes = site.axes(len(value.shape))
    for axis in axes:
        site.freeze(value.labels[axis], "mixes channels")
    return [tuple(None if axis in axes else label for axis, label in enumerate(value.labels))]


def _spectrum(site: Site) -> list[Labels]:
    """Transform windows of a signal, or back: all of its positions are kept."""
    for value in site.values():
        for label in value.labels:
            site.freeze(label, "" if value.stored else "mixes channels")
    return [(None,) * len(shape) for shape in site.shapes]


def _pairs_of_parts(site: Site) -> list[Labels]:
    """Lay complex numbers out as pairs along a new last dimension, or pairs as complex numbers."""
    labels = site.value("self").labels
    if site.operator.endswith("view_as_real"):
        return [(*labels, None)]
    site.freeze(labels[-1], "is the two parts of a complex number")
    return [labels[:-1]]


def windows(site: Site) -> list[Labels]:
    """Slide a window over one dimension, which becomes two (Tensor.unfold)."""
    value = site.value("self")
    axis = site.arguments["dimension"] % len(value.shape)
    site.freeze(value.labels[axis], "takes windows of channels")
    return [(*value.labels[:axis], None, *value.labels[axis + 1 :], None)]


def columns(site: Site) -> list[Labels]:
    """Lay the pixels under a kernel out as channels (im2col): those of one channel are removed together."""
    value = site.value("self")
    label = value.labels[-3]
    _freeze_pixels(site, value)
    taps = site.shapes[0][-2] // value.shape[-3]
    return [(*value.labels[:-3], None if label is None else label.repeat(taps), None)]


def _from_columns(site: Site) -> list[Labels]:
    """Add columns up to pixels again (col2im): the rows that make one channel are removed together."""
    value = site.value("self")
    taps = value.shape[-2] // site.shapes[0][-3]
    label = value.labels[-2]
    site.tie(label, (value.shape[-2] // taps, taps), axis=1)
    site.freeze(value.labels[-1], "moves positions into pixels")
    return [(*value.labels[:-2], None if label is None else label[::taps], None, None)]


def _freeze_pixels(site: Site, value: Value) -> None:
    for label in value.labels[-2:]:
        site.freeze(label, "moves pixels into channels")


#: Operators of this file, by rule; names as in graph_rules.py.
SIGNAL_RULES: tuple[tuple[Rule, str], ...] = (
    (_unpooling, "max_unpool2d max_unpool3d"),
    (transformed, "fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2"),
    (transformed, "fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_fftshift fft_ifftshift"),
    (_spectrum, "stft istft"),
    (_pairs_of_parts, "view_as_real view_as_complex"),
    (windows, "unfold"),
    (columns, "im2col"),
    (_from_columns, "col2im"),
)
