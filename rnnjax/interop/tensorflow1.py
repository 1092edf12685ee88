"""Variables of TensorFlow 1's ``rnn_cell``s, as a checkpoint names them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnnjax.cell import Cell, Params
from rnnjax.interop.arrays import check_names, flatten, take
from rnnjax.interop.layers import cell_of, layers_of
from rnnjax.interop.names import Group, layers_in
from rnnjax.interop.report import Exported, Imported, Report, combine
from rnnjax.interop.weights import (
    Weights,
    check_activation,
    check_tanh,
    name_of,
    reorder,
    require,
    shifted,
)

_LSTM = (0, 2, 1, 3)  # i j f o there, i f g o here
_PEEPHOLES = ("w_i_diag", "w_f_diag", "w_o_diag")
_TAILS = (
    "kernel",
    "bias",
    *_PEEPHOLES,
    "projection/kernel",
    "gates/kernel",
    "gates/bias",
    "candidate/kernel",
    "candidate/bias",
    "candidate/input_projection/kernel",
    "candidate/input_projection/bias",
    "candidate/hidden_projection/kernel",
    "candidate/hidden_projection/bias",
)
# The name of a cell's scope, numbered where there are several of them.
_SCOPES = re.compile(
    r"(cudnn_compatible_|basic_)?(lstm_fused_cell|lstm_cell|gru_cell|rnn_cell)(_\d+)?"
)


def from_tensorflow1(
    arrays: Mapping[str, Any],
    *,
    prefix: str = "",
    forget_bias: float = 1.0,
    activation: Callable[..., Any] = jnp.tanh,
    cell_clip: float | None = None,
    projection_clip: float | None = None,
) -> Imported:
    """The cell whose variables a TensorFlow 1 checkpoint holds.

    BasicLSTMCell, LSTMCell with peepholes and projection, the block and
    cuDNN-compatible forms of them, GRUCell and BasicRNNCell, in MultiRNNCell,
    ``dynamic_rnn``, ``bidirectional_dynamic_rnn`` and its stacked form. Input sizes,
    layers and directions follow from names and shapes, what was a number in the
    program does not.

    Args:
      arrays: ``{name: reader.get_tensor(name) for name in
        reader.get_variable_to_shape_map()}``; the slots of optimisers are left out.
      prefix: what the names of the layers start with, for example ``"rnn/"``; others
        are left alone.
      forget_bias: that of the program: it was added at every call, here it goes into
        ``b``. A CudnnCompatibleLSTMCell has none, its name tells.
      activation: that of the program.
      cell_clip: that of the program.
      projection_clip: that of the program.

    Raises:
      ValueError: for names and shapes that are no such cells'.

    Reference: ``tensorflow/python/ops/rnn_cell_impl.py`` of TensorFlow 1.15.

    >>> import numpy as np, rnnjax
    >>> variables = {
    ...     "rnn/basic_lstm_cell/kernel": np.ones((8, 20), "float32"),
    ...     "rnn/basic_lstm_cell/bias": np.zeros(20, "float32")}
    >>> cell, params, report = rnnjax.interop.from_tensorflow1(variables)
    >>> cell, params.b[4:7].tolist()
    (lstm(3, 5), [0.0, 1.0, 1.0])
    """
    check_activation(activation)
    _check_number("forget_bias", forget_bias)
    clips = {"cell_clip": cell_clip, "projection_clip": projection_clip}
    for name, clip in clips.items():
        if clip is not None:
            _check_number(name, clip, above=0.0)
    flat = {name.removesuffix(":0"): a for name, a in flatten(arrays, prefix).items()}
    variables = {
        name: array
        for name, array in flat.items()
        # kernel/Adam beside kernel is a slot of an optimiser.
        if name.rpartition("/")[0] not in flat
    }
    groups, order = layers_in(variables, _TAILS, "TensorFlow 1", "")
    layers = [
        tuple(_read(group, forget_bias, activation, clips) for group in layer)
        for layer in groups
    ]
    return cell_of(layers, "TensorFlow 1", order)


def _read(
    group: Group,
    forget_bias: float,
    activation: Callable[..., Any],
    clips: dict[str, float | None],
) -> Weights:
    scope = _SCOPES.fullmatch(group.stem.rpartition("/")[2])
    if scope is None:
        raise ValueError(
            f"arrays holds variables of {group.stem[:80]!r}, no recurrent cell; "
            "expected names like 'rnn/basic_lstm_cell/kernel'. Pass prefix= with what "
            "those start with, for example prefix='rnn/'."
        )
    cudnn, name = scope[1] == "cudnn_compatible_", scope[2]
    if name == "gru_cell":
        check_tanh(activation, "gru")
        return _read_gru(group)
    lstm = ("kernel", "bias", *_PEEPHOLES, "projection/kernel")
    check_names(group.arrays, lstm[:2] if name == "rnn_cell" else lstm, group.stem)
    kernel = take(group.arrays, "kernel", group.stem, 2)
    b = take(group.arrays, "bias", group.stem, 1)
    gates = 1 if name == "rnn_cell" else 4
    w_proj = None
    if "projection/kernel" in group.arrays:
        w_proj = take(group.arrays, "projection/kernel", group.stem, 2)
    inputs = len(kernel) - (b.size // gates if w_proj is None else w_proj.shape[-1])
    if kernel.shape[-1:] != b.shape or b.size % gates or inputs < 1:
        raise ValueError(
            f"{group.stem} has a kernel of shape {kernel.shape} and a bias of shape "
            f"{b.shape}; expected (input + hidden, {gates} * hidden) and its columns. "
            "Pass the variables of one cell."
        )
    if name == "rnn_cell":
        w_ih, w_hh = kernel[:inputs], kernel[inputs:]
        return Weights("elman", w_ih, w_hh, b, activation=activation)
    kernel, b = reorder(kernel, _LSTM), reorder(b, _LSTM)
    rows = []
    if group.arrays.keys() & {*_PEEPHOLES}:
        rows = [take(group.arrays, name, group.stem, 1) for name in _PEEPHOLES]
        if any(row.shape != (b.size // 4,) for row in rows):
            raise ValueError(
                f"{group.stem} has peepholes of shapes {[row.shape for row in rows]}; "
                f"expected ({b.size // 4},) each. Pass the variables of one cell."
            )
    return Weights(
        "lstm",
        kernel[:inputs],
        kernel[inputs:],
        shifted(b, 1, 4, 0.0 if cudnn else forget_bias),
        peepholes=np.stack(rows) if rows else None,
        w_proj=w_proj,
        activation=activation,
        **clips,  # pyright: ignore[reportArgumentType]
    )


def _read_gru(group: Group) -> Weights:
    def both(name, columns=None):
        kernel = take(group.arrays, f"{name}/kernel", group.stem, 2)
        bias = take(group.arrays, f"{name}/bias", group.stem, 1)
        wanted = columns or bias.size
        if kernel.shape[-1] != wanted or bias.size != wanted:
            raise ValueError(
                f"{group.stem}/{name} has a kernel of shape {kernel.shape} and a bias "
                f"of shape {bias.shape}; expected {wanted} columns in both. Pass the "
                "variables of one cell."
            )
        return kernel, bias

    gates, b = both("gates")
    hidden = b.size // 2
    inputs = len(gates) - hidden
    apart = tuple(f"candidate/{n}_projection" for n in ("input", "hidden"))
    names = ("candidate",) if "candidate/kernel" in group.arrays else apart
    used = [f"{name}/{part}" for name in ("gates", *names) for part in _TAILS[:2]]
    check_names(group.arrays, used, group.stem)
    candidate = [both(name, hidden) for name in names]
    rows = [len(gates)] if len(names) == 1 else [inputs, hidden]
    if b.size % 2 or inputs < 1 or [len(kernel) for kernel, _ in candidate] != rows:
        raise ValueError(
            f"{group.stem} has gates of shape {gates.shape} and candidates of "
            f"{[kernel.shape for kernel, _ in candidate]}; expected (input + hidden, "
            "2 * hidden) and as many rows. Pass the variables of one cell."
        )
    b = np.concatenate([b, candidate[0][1]])
    if len(names) == 1:
        joined = np.concatenate([gates, candidate[0][0]], axis=-1)
        return Weights("gru", joined[:inputs], joined[inputs:], b)
    # The cuDNN-compatible form keeps the two products of the candidate apart.
    (w_in, _), (w_hn, b_hn) = candidate
    w_ih = np.concatenate([gates[:inputs], w_in], axis=-1)
    w_hh = np.concatenate([gates[inputs:], w_hn], axis=-1)
    return Weights("gru", w_ih, w_hh, b, b_hn=b_hn)


def to_tensorflow1(cell: Cell, params: Params, *, forget_bias: float = 1.0) -> Exported:
    """The variables of the TensorFlow 1 cells that a cell is.

    Names are those that ``dynamic_rnn`` of a cell or a MultiRNNCell makes, or
    ``bidirectional_dynamic_rnn``, or ``stack_bidirectional_dynamic_rnn``. A GRU that
    resets after the product becomes a ``CudnnCompatibleGRUCell``.

    Args:
      cell: `lstm`, `full_lstm` with peepholes, projection and clips, `gru`, `elman`,
        or `stack` and `bidirectional` of them.
      params: its params.
      forget_bias: what the program adds to the forget gate at every call; it is taken
        off ``b``.

    Raises:
      ValueError: for cells that TensorFlow 1 does not have.

    >>> import jax, rnnjax
    >>> cell = rnnjax.elman(3, 5)
    >>> exported = rnnjax.interop.to_tensorflow1(cell, cell.init(jax.random.key(0)))
    >>> {name: array.shape for name, array in exported.arrays.items()}
    {'rnn/basic_rnn_cell/kernel': (8, 5), 'rnn/basic_rnn_cell/bias': (5,)}
    """
    _check_number("forget_bias", forget_bias)
    layers, report = layers_of(cell, params, "TensorFlow 1")
    arrays, reports = {}, [report]
    features = ("reset after", "reset before", "peepholes", "projection", "clips")
    for depth, layer in enumerate(layers):
        if len(layer) == 2:
            scopes = ("bidirectional_rnn/fw", "bidirectional_rnn/bw")
            if len(layers) > 1:
                scopes = [f"stack_bidirectional_rnn/cell_{depth}/{s}" for s in scopes]
        else:
            scopes = (f"rnn/multi_rnn_cell/cell_{depth}" if len(layers) > 1 else "rnn",)
        for weights, scope in zip(layer, scopes, strict=True):
            require(weights, "TensorFlow 1", ("lstm", "gru", "elman"), features)
            name, own = _write(weights, forget_bias)
            reports.append(_notes(weights, name, forget_bias))
            arrays |= {f"{scope}/{name}/{k}": a for k, a in own.items()}
    return Exported(arrays, combine(reports))


def _check_number(name: str, value: Any, above: float = -np.inf) -> None:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or not value > above:
        came = value if number else f"of type {type(value).__name__}"
        kind = "finite" if above < 0 else "positive"
        raise ValueError(
            f"{name} is {came}; expected a {kind} number, that of the program. Write "
            f"{name}=1.0."
        )


def _notes(weights: Weights, name: str, forget_bias: float) -> Report:
    notes = []
    if weights.activation is not jnp.tanh:
        notes.append(f"make the cell with the activation {name_of(weights.activation)}")
    if weights.kind == "lstm" and forget_bias != 1.0:
        notes.append(f"make the cell with forget_bias={forget_bias}")
    for argument, clip in (
        ("cell_clip", weights.cell_clip),
        ("proj_clip", weights.projection_clip),
    ):
        if clip is not None:
            notes.append(f"make the cell with {argument}={clip}")
    if name.startswith("cudnn_compatible"):
        notes.append("the GRU resets after the product: make a CudnnCompatibleGRUCell")
    return Report("exact", tuple(notes))


def _write(weights: Weights, forget_bias: float) -> tuple[str, dict[str, np.ndarray]]:
    kernel = np.concatenate([weights.w_ih, weights.w_hh])
    two, b = 2 * weights.hidden_size, weights.b
    if weights.kind == "elman":
        return "basic_rnn_cell", {"kernel": kernel, "bias": b}
    if weights.kind == "gru":
        gates = {"gates/kernel": kernel[:, :two], "gates/bias": b[:two]}
        if weights.b_hn is None:
            candidate = {"candidate/kernel": kernel[:, two:], "candidate/bias": b[two:]}
            return "gru_cell", gates | candidate
        candidate = {
            "candidate/input_projection/kernel": weights.w_ih[:, two:],
            "candidate/input_projection/bias": b[two:],
            "candidate/hidden_projection/kernel": weights.w_hh[:, two:],
            "candidate/hidden_projection/bias": weights.b_hn,
        }
        return "cudnn_compatible_gru_cell", gates | candidate
    arrays = {
        "kernel": reorder(kernel, _LSTM),
        "bias": shifted(reorder(b, _LSTM), 2, 4, -forget_bias),
    }
    if weights.peepholes is not None:
        arrays |= dict(zip(_PEEPHOLES, weights.peepholes, strict=True))
    if weights.w_proj is not None:
        arrays["projection/kernel"] = weights.w_proj
    extra = len(arrays) > 2 or weights.cell_clip is not None
    return ("lstm_cell" if extra else "basic_lstm_cell"), arrays
