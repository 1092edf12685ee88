"""Boxes in boxes as SVG; what is in them is the business of `rnnjax.describe`."""

import html
from typing import NamedTuple

_CHARACTER, _LINE = 6.7, 16.0  # of the monospaced font below, with room to spare
_MARGIN, _GAP = 12.0, 34.0
_STYLE = (
    "text{font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',"
    "monospace;fill:#1f2933}.t{font-weight:600}.s{fill:#52606d}"
    "rect{stroke-width:1.2}.r{fill:#e3f0fc;stroke:#3a78b5}"
    ".p{fill:#f3f4f6;stroke:#9aa5b1}.g{fill:none;stroke:#9aa5b1;stroke-dasharray:5 3}"
    "path{stroke:#52606d;stroke-width:1.2;fill:none}"
)


class Block(NamedTuple):
    """A box: ``lines`` under a ``title``, and ``blocks`` in it.

    ``across`` puts those side by side, otherwise data flows down through them and
    ``output`` stands at the arrow that leaves each. ``recurrent`` ones are coloured.
    """

    title: str
    lines: tuple[str, ...]
    recurrent: bool
    across: bool
    output: str
    blocks: tuple["Block", ...]


class _Drawn(NamedTuple):
    width: float
    height: float
    parts: list[str]


def draw(block: Block, above: str, below: str) -> str:
    """The picture, with what flows in above it and what flows out below.

    >>> from rnnjax.analysis import diagram
    >>> block = diagram.Block("a & b", ("2 lines",), True, False, "", ())
    >>> diagram.draw(block, "in", "out").count("a &amp; b")
    1
    """
    box = _boxed(block)
    width = max(box.width, *(_CHARACTER * len(s) + 60 for s in (above, below)))
    at = _MARGIN + (width - box.width) / 2
    bottom = _MARGIN + _GAP + box.height
    parts = [
        _arrow(_MARGIN + width / 2, _MARGIN, above),
        _moved(box, at, _MARGIN + _GAP),
        _arrow(_MARGIN + width / 2, bottom, below),
    ]
    size = f'width="{width + 2 * _MARGIN:.0f}" height="{bottom + _GAP + _MARGIN:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{_STYLE}</style>'
        '<rect width="100%" height="100%" fill="white"/>' + "".join(parts) + "</svg>"
    )


def _boxed(block: Block) -> _Drawn:
    texts = [block.title, *block.lines]
    wide = max(map(len, texts)) * _CHARACTER + 2 * _MARGIN
    high = len(texts) * _LINE + _MARGIN
    inner = _across(block.blocks) if block.across else _down(block.blocks)
    if block.blocks:
        wide = max(wide, inner.width + 2 * _MARGIN)
        high += inner.height + _MARGIN
    kind = "g" if block.blocks else "r" if block.recurrent else "p"
    parts = [f'<rect class="{kind}" width="{wide:.1f}" height="{high:.1f}" rx="6"/>']
    for i, text in enumerate(texts):
        y = _MARGIN / 2 + _LINE * (i + 0.75)
        at = f'class="{"s" if i else "t"}" x="{_MARGIN}" y="{y:.1f}"'
        parts.append(f"<text {at}>{html.escape(text)}</text>")
    if block.blocks:
        y = len(texts) * _LINE + _MARGIN
        parts.append(_moved(inner, (wide - inner.width) / 2, y))
    return _Drawn(wide, high, parts)


def _down(blocks: tuple[Block, ...]) -> _Drawn:
    boxes = [_boxed(block) for block in blocks]
    labels = [_CHARACTER * len(block.output) + 60 for block in blocks[:-1]]
    width = max([box.width for box in boxes] + labels, default=0)
    y, parts = 0.0, []
    for block, box in zip(blocks, boxes, strict=True):
        if parts:
            y += _GAP
        parts.append(_moved(box, (width - box.width) / 2, y))
        y += box.height
        if block is not blocks[-1]:
            parts.append(_arrow(width / 2, y, block.output))
    return _Drawn(width, y, parts)


def _across(blocks: tuple[Block, ...]) -> _Drawn:
    x, parts, boxes = 0.0, [], [_boxed(block) for block in blocks]
    for box in boxes:
        parts.append(_moved(box, x, 0))
        x += box.width + _MARGIN
    return _Drawn(x - _MARGIN, max(box.height for box in boxes), parts)


def _moved(drawn: _Drawn, x: float, y: float) -> str:
    return f'<g transform="translate({x:.1f},{y:.1f})">{"".join(drawn.parts)}</g>'


def _arrow(x: float, y: float, label: str) -> str:
    """Down from ``y`` through the gap, with a label at its side."""
    line = f'<path d="M{x:.1f} {y + 3:.1f}v{_GAP - 7:.1f}m-4 -5l4 5l4 -5"/>'
    at = f'x="{x + 9:.1f}" y="{y + _GAP / 2 + 3:.1f}"'
    return f'{line}<text class="s" {at}>{html.escape(label)}</text>'
