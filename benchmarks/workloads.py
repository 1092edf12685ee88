"""What is measured: the sizes, the modes and the numbers that go in."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

CELLS = ("lstm", "gru", "elman")
# Cells that some other library has too: an Elman network with a ReLU, a GRU that resets
# before the product, an MGU whose gate comes after it, an LSTM whose outputs are
# projected to half of its units, and one over images.
OTHERS = ("relu", "reset_before", "mgu", "projected", "convolutional")
GATES = {
    "lstm": 4,
    "gru": 3,
    "elman": 1,
    "relu": 1,
    "reset_before": 3,
    "mgu": 2,
    "projected": 4,
    "convolutional": 4,
}
KERNEL = (3, 3)  # of a convolution
CLASSES = 10
VOCABULARY = 10_000
CHUNK = 64
DTYPES = ("float32", "bfloat16")


class Case(NamedTuple):
    """One measurement: a cell, its sizes and what is done with it.

    ``mode`` is one of

    - ``forward``: the outputs of a batch;
    - ``backward``: the outputs and the gradients of the weights, for given cotangents
      (of the inputs too with ``input_gradients``);
    - ``train``: a whole training step, read-out, loss and Adam included;
    - ``step``: one sample of a stream, the carry handed on;
    - ``chunk``: `CHUNK` samples of a stream, the carry handed on;
    - ``compile``: trace and compile ``backward``;
    - ``product``: a square float32 matrix product, ``hidden`` to a side, no cell.

    With a ``side``, inputs and units are those of each place of a square image.
    """

    workload: str
    cell: str
    mode: str
    batch: int
    time: int
    inputs: int
    hidden: int
    layers: int = 1
    bidirectional: bool = False
    ragged: bool = False
    vmap: bool = False
    checkpointed: bool = False
    tokens: bool = False
    side: int = 0
    input_gradients: bool = False
    dtype: str = "float32"


class Layer(NamedTuple):
    """Weights of one layer in one direction, the same numbers for every library.

    ``w_ih: (i, g·h)``, ``w_hh: (h, g·h)``, ``b: (g·h,)``; for the GRU and the MGU
    ``b_hn``, the bias inside the gate; and for the projected LSTM ``w_proj: (h, p)``,
    where ``w_hh`` is ``(p, g·h)``. Before these axes, kernels of convolutions have
    those of `KERNEL`. Gates stand in torch's order: i f g o, r z n, and
    f n. The arrays are NumPy's, or those in which a library gives its gradients back.
    """

    w_ih: Any
    w_hh: Any
    b: Any
    b_hn: Any
    w_proj: Any = None


class Data(NamedTuple):
    """All arrays of a case, batch first; the layers of both directions side by side.

    They are float32, whatever the case's dtype: NumPy has no bfloat16.
    """

    layers: list[Layer]
    xs: np.ndarray
    lengths: np.ndarray | None
    cotangent: np.ndarray
    labels: np.ndarray
    table: np.ndarray | None
    w_out: np.ndarray
    b_out: np.ndarray


def name(case: Case) -> str:
    """A short unique name, for example ``I lstm backward ragged``."""
    words = [case.workload, case.cell, case.mode]
    if case.mode in ("step", "chunk"):
        words.append(f"H={case.hidden}")
    if case.mode == "compile":
        words += [f"T={case.time}", f"layers={case.layers}"]
    words += [w for w in ("ragged", "vmap", "checkpointed") if getattr(case, w)]
    words += [case.dtype] if case.dtype != "float32" else []
    return " ".join(words)


def flops(case: Case) -> int:
    """Floating-point operations of the matrix products of one forward pass."""
    if case.mode == "product":
        return 2 * case.hidden**3
    directions = 2 if case.bidirectional else 1
    outputs = directions * outputs_of(case)
    rows = sum(
        (case.inputs if depth == 0 else outputs) + outputs_of(case)
        for depth in range(case.layers)
    )
    columns = directions * GATES[case.cell] * case.hidden
    projection = case.hidden * outputs_of(case) if case.cell == "projected" else 0
    places = math.prod((*image_of(case), *kernel_of(case)))
    return 2 * case.batch * case.time * places * (rows * columns + projection)


def outputs_of(case: Case) -> int:
    """The outputs of one layer in one direction."""
    return case.hidden // 2 if case.cell == "projected" else case.hidden


def image_of(case: Case) -> tuple[int, ...]:
    """The axes of an input and of an output before the last one."""
    return (case.side,) * 2 if case.side else ()


def kernel_of(case: Case) -> tuple[int, ...]:
    """The axes of weights before the last two."""
    return KERNEL if case.side else ()


def data(case: Case) -> Data:
    """The arrays of a case, equal in every process."""
    rng = np.random.default_rng(0)
    directions = 2 if case.bidirectional else 1
    gates, hidden, state = GATES[case.cell], case.hidden, outputs_of(case)
    outputs = directions * state
    image, kernel = image_of(case), kernel_of(case)
    bound = (math.prod(kernel) * hidden) ** -0.5

    def uniform(*shape):
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    layers = [
        Layer(
            uniform(*kernel, case.inputs if depth == 0 else outputs, gates * hidden),
            uniform(*kernel, state, gates * hidden),
            uniform(gates * hidden),
            uniform(hidden) if case.cell in ("gru", "mgu") else None,
            uniform(hidden, state) if case.cell == "projected" else None,
        )
        for depth in range(case.layers)
        for _ in range(directions)
    ]
    lengths = None
    if case.ragged:
        lengths = rng.integers(case.time // 8, case.time + 1, case.batch, np.int32)
    shape = (case.batch, case.time)
    if case.tokens:
        xs = rng.integers(0, VOCABULARY, shape, np.int32)
        labels = rng.integers(0, VOCABULARY, shape, np.int32)
        table = normal(VOCABULARY, case.inputs)
        classes = VOCABULARY
    else:
        xs = normal(*shape, *image, case.inputs)
        labels = rng.integers(0, CLASSES, case.batch, np.int32)
        table = None
        classes = CLASSES
    return Data(
        layers,
        xs,
        lengths,
        normal(*shape, *image, outputs),
        labels,
        table,
        uniform(outputs, classes),
        uniform(classes),
    )


Group = list[Case]
"""Cases that are compared with each other, and so timed in the same rounds."""


class Workload(NamedTuple):
    """A row of the table: a line that says what it is, and its groups of cases.

    ``groups(cells, quick)`` leaves out the cells that were not asked for; ``quick``
    makes everything small. ``peers`` are those that the row is about, all if None.
    ``devices`` are those that it is measured on.
    """

    title: str
    groups: Callable[[tuple[str, ...], bool], list[Group]]
    peers: tuple[str, ...] | None = None
    devices: tuple[str, ...] = ("cpu", "gpu")


def _plain(letter: str, *size: int, train: bool = False, tokens: bool = False):
    batch, time, inputs, hidden, layers = size
    most = (4, 6, 3, 8)

    def groups(cells, quick):
        b, t, i, h = map(min, size[:4], most) if quick else size[:4]
        made = []
        for cell in (cell for cell in cells if cell in CELLS):
            case = Case(letter, cell, "forward", b, t, i, h, layers)
            made += [[case], [case._replace(mode="backward")]]
            if train and cell != "elman":
                made.append([case._replace(mode="train", tokens=tokens)])
        return made

    title = f"batch {batch}, {time} steps, {inputs} inputs, {hidden} units"
    title += f", {layers} layers" if layers > 1 else ""
    if train:
        title += ", a language model's training step" if tokens else ", training step"
    return Workload(title, groups)


def _gated(cells):
    return [cell for cell in cells if cell in ("lstm", "gru")]


def _ragged(cells, quick):
    b, t, i, h = (4, 16, 3, 8) if quick else (32, 128, 128, 128)
    full = [
        Case("I", cell, mode, b, t, i, h, bidirectional=True)
        for cell in _gated(cells)
        for mode in ("forward", "backward")
    ]
    return [[case, case._replace(ragged=True)] for case in full]


def _others(cells, quick):
    size = (4, 6, 3, 8) if quick else (32, 128, 128, 128)
    cases = {cell: Case("O", cell, "forward", *size) for cell in OTHERS}
    size, side = ((2, 3, 1, 2), 4) if quick else ((8, 16, 8, 16), 32)
    images = Case("O", "convolutional", "forward", *size, side=side)
    cases["convolutional"] = images
    return [
        [cases[cell]._replace(mode=mode)]
        for cell in cells
        if cell in OTHERS
        for mode in ("forward", "backward")
    ]


def _vmap(cells, quick):
    b, t, i, h = (4, 6, 3, 8) if quick else (128, 28, 28, 128)
    batches = [
        Case("J", cell, mode, b, t, i, h)
        for cell in _gated(cells)
        for mode in ("forward", "backward")
    ]
    return [[case, case._replace(vmap=True)] for case in batches]


def _stream(cells, quick):
    return [
        [Case("K", cell, mode, 1, CHUNK if mode == "chunk" else 1, 8, hidden)]
        for cell in _gated(cells)
        for hidden in ((8,) if quick else (8, 32, 64))
        for mode in ("step", "chunk")
    ]


def _compile(cells, quick):
    times, depths = ((4, 8), (1, 2)) if quick else ((64, 4096), (1, 8))
    return [
        [Case("L", "lstm", "compile", 16, time, 64, 64, layers) for time in times]
        for layers in depths
        if "lstm" in cells
    ]


def _memory(cells, quick):
    case = Case("M", "lstm", "backward", 16, 16 if quick else 4096, 64, 64)
    return [[case, case._replace(checkpointed=True)]] if "lstm" in cells else []


def _product(cells, quick):
    return [[Case("P", "none", "product", 1, 1, 1, 64 if quick else 2048)]]


WORKLOADS = {
    "A": _plain("A", 1, 1000, 64, 64, 1),
    "B": _plain("B", 128, 10, 1, 30, 1),
    "C": _plain("C", 16, 1000, 16, 64, 1),
    "D": _plain("D", 128, 28, 28, 128, 1, train=True),
    "E": _plain("E", 20, 35, 200, 200, 2, train=True, tokens=True),
    "F": _plain("F", 64, 100, 128, 256, 1),
    "G": _plain("G", 32, 100, 512, 512, 1),
    "H": _plain("H", 64, 256, 512, 512, 2),
    "I": Workload(
        "bidirectional, batch 32, 128 inputs, 128 units, 128 steps or lengths 16…128",
        _ragged,
    ),
    "J": Workload(
        "D as one explicit batch and as a vmap of single sequences",
        _vmap,
        ("torch", "scan", "flax-linen", "rnnjax"),
    ),
    "K": Workload(
        f"a stream, 8 inputs: one step a call, and chunks of {CHUNK}", _stream
    ),
    "L": Workload(
        "compile time, batch 16, 64 inputs, 64 units", _compile, ("scan", "rnnjax")
    ),
    "M": Workload(
        "memory, batch 16, 4096 steps, 64 inputs, 64 units",
        _memory,
        ("torch", "scan", "rnnjax"),
        # What is measured is a process's own memory, and not that of a GPU.
        devices=("cpu",),
    ),
    # The size of published figures for GPUs.
    "N": _plain("N", 16, 1024, 768, 768, 1)._replace(devices=("gpu",)),
    "O": Workload(
        "other cells: batch 32, 128 steps, 128 inputs, 128 units; or images of 32 x 32 "
        "places, batch 8, 16 steps, 8 and 16 channels",
        _others,
    ),
    "P": Workload(
        "a 2048³ float32 product: what the machine can do",
        _product,
        ("torch", "scan", "rnnjax"),
    ),
}
GRID = tuple("ABCDEFGH")
