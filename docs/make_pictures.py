"""Draw the pictures of the concepts page: ``python docs/make_pictures.py``.

Plain SVG on white paper, so that it reads anywhere; the site inverts it in the dark.
"""

import pathlib
from collections.abc import Iterable

FOLDER = pathlib.Path(__file__).with_name("images")

INPUT, STATE, OUTPUT = (
    ("#dbe8fb", "#33639c"),
    ("#fdebcf", "#a5670f"),
    ("#d9f0dd", "#2f7a45"),
)
STEP, EMPTY, FLAG = (
    ("#e8e8f2", "#55597d"),
    ("#f6f6f6", "#8a8a8a"),
    ("#f9dcd9", "#b03a2e"),
)
INK, FAINT = "#22262e", "#5b6270"

MARKERS = "".join(
    f'<marker id="tip{colour[1:]}" viewBox="0 0 8 8" refX="7" refY="4" '
    'markerWidth="7" markerHeight="7" orient="auto">'
    f'<path d="M0 0 8 4 0 8z" fill="{colour}"/></marker>'
    for colour in (FAINT, STATE[1], OUTPUT[1])
)


def picture(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """A whole SVG file."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" '
            'font-family="ui-sans-serif, system-ui, sans-serif" font-size="15">',
            f"<title>{title}</title><defs>{MARKERS}</defs>",
            f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def box(x, y, width, height, label, colours, *, dashed=False) -> str:
    """A rounded box around a label, ``x`` and ``y`` its centre."""
    fill, line = colours
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" '
        f'height="{height:g}" rx="7" fill="{fill}" stroke="{line}" '
        f'stroke-width="1.5"{dash}/>' + text(x, y, label)
    )


def text(x, y, label, *, anchor="middle", colour=INK, size=15) -> str:
    """One line of text, ``y`` its middle."""
    return (
        f'<text x="{x:g}" y="{y + size * 0.34:.1f}" text-anchor="{anchor}" '
        f'fill="{colour}" font-size="{size}">{label}</text>'
    )


def arrow(x, y, to_x, to_y, *, colour=FAINT) -> str:
    """A straight arrow."""
    return (
        f'<path d="M{x:g} {y:g} {to_x:g} {to_y:g}" fill="none" stroke="{colour}" '
        'stroke-width="2" marker-end="url(#tip'
        f'{colour[1:]})"/>'
    )


def mono(label: str) -> str:
    """Code inside of a label."""
    return f'<tspan font-family="ui-monospace, monospace">{label}</tspan>'


def cell() -> str:
    """The four functions, and what goes from one to the other."""
    return picture(
        720,
        300,
        "init makes params from a key, initial_carry makes the first carry from them, "
        "step makes the next carry and an output from params, carry and an input",
        [
            box(80, 60, 90, 40, "key", EMPTY),
            arrow(125, 60, 168, 60),
            box(225, 60, 110, 44, mono("init"), STEP),
            arrow(280, 60, 348, 60),
            box(405, 60, 110, 44, "params", INPUT),
            arrow(350, 78, 172, 128),
            arrow(405, 82, 405, 124),
            box(100, 150, 140, 44, mono("initial_carry"), STEP),
            arrow(170, 150, 208, 150),
            box(255, 150, 90, 44, "carry", STATE),
            arrow(300, 150, 348, 150),
            box(405, 150, 110, 48, mono("step"), STEP),
            arrow(460, 150, 538, 150),
            box(585, 150, 90, 44, "carry", STATE),
            box(405, 245, 110, 40, "x", INPUT),
            arrow(405, 225, 405, 176),
            arrow(460, 165, 538, 222),
            box(585, 235, 90, 44, "y", OUTPUT),
            text(640, 150, "to the next", anchor="start", colour=FAINT, size=13),
            text(640, 167, "step", anchor="start", colour=FAINT, size=13),
        ],
    )


def unroll() -> str:
    """One sequence: the same params at every step, the carry from step to step."""
    steps = range(5)
    at = [170 + 110 * t for t in steps]
    return picture(
        780,
        300,
        "unroll is five steps one after the other: inputs below, outputs above, the "
        "carry handed from left to right, the same params everywhere",
        [
            box(50, 150, 76, 44, "carry", STATE),
            arrow(88, 150, 131, 150),
            *(box(x, 150, 72, 46, mono("step"), STEP) for x in at),
            *(arrow(x + 36, 150, x + 72, 150) for x in at[:-1]),
            arrow(at[-1] + 36, 150, 690, 150),
            box(730, 150, 76, 44, "carry", STATE),
            *(box(x, 225, 72, 36, mono(f"xs[{t}]"), INPUT) for t, x in enumerate(at)),
            *(arrow(x, 207, x, 175) for x in at),
            *(box(x, 75, 72, 36, mono(f"ys[{t}]"), OUTPUT) for t, x in enumerate(at)),
            *(arrow(x, 127, x, 95) for x in at),
            text(390, 30, mono("carry, ys = cell.unroll(params, carry, xs)")),
            text(
                390, 275, "time, axis 0 → · the same params at every step", colour=FAINT
            ),
        ],
    )


def mask_and_reset() -> str:
    """Two sequences packed into one, with padding after each."""
    inputs = ["a₀", "a₁", "a₂", "?", "b₀", "b₁", "?", "?"]
    mask = [x != "?" for x in inputs]
    reset = [x.endswith("₀") for x in inputs]
    states = ["a₀", "a₀₁", "a₀₁₂", "a₀₁₂", "b₀", "b₀₁", "b₀₁", "b₀₁"]
    at = [170 + 76 * t for t in range(8)]
    rows = {"xs": 50, "mask": 100, "reset": 150, "carry": 210, "ys": 270}
    parts = [text(118, y, mono(name), anchor="end") for name, y in rows.items()]
    for t, x in enumerate(at):
        parts += [
            box(x, 50, 58, 34, inputs[t], INPUT if mask[t] else EMPTY,
                dashed=not mask[t]),
            text(x, 100, str(mask[t]).lower(), colour=INK if mask[t] else FAINT),
            box(x, 150, 58, 30, "true", FLAG)
            if reset[t]
            else text(x, 150, "false", colour=FAINT),
            box(x, 210, 58, 36, states[t], STATE),
            box(x, 270, 58, 34, "y" if mask[t] else "0", OUTPUT if mask[t] else EMPTY,
                dashed=not mask[t]),
        ]  # fmt: skip
        if t and not reset[t]:
            parts.append(arrow(x - 47, 210, x - 30, 210))
    parts.append(
        text(
            (at[0] + at[-1]) / 2,
            312,
            "A reset starts afresh before its input is read; "
            "where the mask is false the carry holds.",
            colour=FAINT,
            size=14,
        )
    )
    return picture(
        780,
        336,
        "Two sequences a and b with padding: a reset at the first step of each starts "
        "the carry afresh, where the mask is false the carry holds and the output is 0",
        parts,
    )


def ragged_bidirectional() -> str:
    """Three lengths in one batch: the backward half starts at the end of each."""
    lengths, time = [5, 3, 1], 6
    at = [200 + 72 * t for t in range(time)]
    parts = [
        text(at[0] - 26, 28, "time →", anchor="start", colour=FAINT),
        text(690, 28, mono("carry"), colour=INK),
    ]
    for row, length in enumerate(lengths):
        y = 82 + 96 * row
        end = at[length - 1]
        parts.append(text(90, y, f"length {length}"))
        for t, x in enumerate(at):
            valid = t < length
            parts.append(
                box(x, y, 52, 34, "x" if valid else "?", INPUT if valid else EMPTY,
                    dashed=not valid)
            )  # fmt: skip
        parts += [
            arrow(at[0] - 26, y - 27, end + 26, y - 27, colour=STATE[1]),
            arrow(end + 26, y + 27, at[0] - 26, y + 27, colour=OUTPUT[1]),
            text(at[0] - 34, y - 27, "forward", anchor="end", colour=STATE[1], size=13),
            text(
                at[0] - 34, y + 27, "backward", anchor="end", colour=OUTPUT[1], size=13
            ),
            box(668, y, 44, 34, "h →", STATE),
            box(716, y, 44, 34, "← h", OUTPUT),
        ]
    return picture(
        780,
        352,
        "Three sequences of lengths 5, 3 and 1 in a batch of 6 steps: the forward half "
        "ends, and the backward half begins, at each sequence's own last step",
        [
            *parts,
            text(390, 334, "Padding (?) holds the carry, so no sequence has to be "
                 "turned around.", colour=FAINT, size=14),
        ],
    )  # fmt: skip


PICTURES = {
    "concept-cell.svg": cell,
    "concept-unroll.svg": unroll,
    "concept-mask-and-reset.svg": mask_and_reset,
    "concept-bidirectional.svg": ragged_bidirectional,
}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
