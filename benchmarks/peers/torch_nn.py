"""torch's own layers, ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``, in eager mode."""

import functools
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks import machine
from benchmarks.peers import (
    DEVICE,
    TF32,
    TRAINING_STEPS,
    LeftOut,
    Prepared,
    named_gradients,
)
from benchmarks.workloads import Case, Data, Layer, data, outputs_of

PACKAGES = ("torch", "numpy")

torch.set_num_threads(len(machine.cores()))
if DEVICE == "gpu" and not torch.cuda.is_available():
    raise ImportError("torch found no GPU; it may be a build without CUDA")
PLACE = torch.device("cuda" if DEVICE == "gpu" else "cpu")
# A GPU computes after a call has returned. On a CPU there is nothing to wait for.
finish = torch.cuda.synchronize if DEVICE == "gpu" else None
torch.backends.cuda.matmul.allow_tf32 = TF32
torch.backends.cudnn.allow_tf32 = TF32


def about() -> str:
    """What runs the layers on a GPU."""
    if DEVICE != "gpu":
        return ""
    return f"cuDNN {torch.backends.cudnn.version()}, CUDA {torch.version.cuda}"


def prepare(case: Case) -> Prepared:
    if case.vmap:
        raise LeftOut("nn.LSTM and nn.GRU have no batching rule under torch.func.vmap")
    if case.checkpointed:
        raise LeftOut("recomputation is rnnjax's row")
    made = _product(case) if case.mode == "product" else _prepare(case)
    if finish is None:
        return made
    wait = finish

    def call():
        result = made.call()
        wait()
        return result

    return made._replace(call=call)


def _prepare(case: Case) -> Prepared:
    make = {
        "forward": _forward,
        "backward": _backward,
        "train": _train,
        "step": _step,
        "chunk": _chunk,
    }
    if case.mode not in make:
        raise LeftOut("in eager mode there is nothing to compile")
    return make[case.mode](case, data(case))


def _tensor(array: Any, dtype: str | None = None) -> Any:
    tensor = torch.from_numpy(np.array(array)).to(PLACE)
    return tensor.to(getattr(torch, dtype)) if dtype else tensor


def _time_major(array: Any, dtype: str | None = None) -> Any:
    return _tensor(np.swapaxes(array, 0, 1), dtype)


def _numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


def _network(case: Case, layers: list[Layer]) -> Any:
    kind: dict[str, Any] = {
        "lstm": torch.nn.LSTM,
        "gru": torch.nn.GRU,
        "elman": torch.nn.RNN,
        "relu": functools.partial(torch.nn.RNN, nonlinearity="relu"),
        "projected": functools.partial(torch.nn.LSTM, proj_size=outputs_of(case)),
    }
    if case.cell not in kind:
        raise LeftOut(
            "it has no MGU and no convolutional LSTM, and its GRU resets after the "
            "product"
        )
    network = kind[case.cell](
        case.inputs, case.hidden, case.layers, bidirectional=case.bidirectional
    ).to(PLACE, getattr(torch, case.dtype))
    directions = 2 if case.bidirectional else 1
    arrays = {}
    for i, layer in enumerate(layers):
        suffix = f"l{i // directions}" + ("_reverse" if i % directions else "")
        arrays[f"weight_ih_{suffix}"] = layer.w_ih.T
        arrays[f"weight_hh_{suffix}"] = layer.w_hh.T
        arrays[f"bias_ih_{suffix}"] = layer.b
        arrays[f"bias_hh_{suffix}"] = _recurrent_bias(layer)
        if layer.w_proj is not None:
            arrays[f"weight_hr_{suffix}"] = layer.w_proj.T
    network.load_state_dict({key: _tensor(value) for key, value in arrays.items()})
    return network


def _recurrent_bias(layer: Layer) -> np.ndarray:
    """The second bias: zero except for the GRU's, which the reset gate multiplies."""
    bias = np.zeros_like(layer.b)
    if layer.b_hn is not None:
        bias[-layer.b_hn.size :] = layer.b_hn
    return bias


def _layers(case: Case, gradients: list[Any]) -> list[Layer]:
    made, each = [], 5 if case.cell == "projected" else 4
    for i in range(0, len(gradients), each):
        w_ih, w_hh, b_ih, b_hh, *w_hr = (_numpy(g) for g in gradients[i : i + each])
        b_hn = b_hh[-case.hidden :] if case.cell == "gru" else None
        made.append(Layer(w_ih.T, w_hh.T, b_ih, b_hn, *(w.T for w in w_hr)))
    return made


def _runner(network: Any, arrays: Data) -> Any:
    """``xs -> ys``, time first, ragged batches packed as torch wants them."""
    if arrays.lengths is None:
        return lambda xs: network(xs)[0]
    lengths = torch.from_numpy(arrays.lengths.astype(np.int64))
    time = arrays.xs.shape[1]

    def run(xs):
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            xs, lengths, enforce_sorted=False
        )
        ys = network(packed)[0]
        return torch.nn.utils.rnn.pad_packed_sequence(ys, total_length=time)[0]

    return run


def _forward(case: Case, arrays: Data) -> Prepared:
    run = _runner(_network(case, arrays.layers).eval(), arrays)
    xs = _time_major(arrays.xs, case.dtype)

    def call():
        with torch.inference_mode():
            ys = run(xs)
        return ys

    return Prepared(call, lambda ys: {"ys": _numpy(ys).swapaxes(0, 1)})


def _backward(case: Case, arrays: Data) -> Prepared:
    network = _network(case, arrays.layers)
    run = _runner(network, arrays)
    xs, cotangent = (_time_major(a, case.dtype) for a in (arrays.xs, arrays.cotangent))
    wanted = list(network.parameters())
    if case.input_gradients:
        wanted = [xs.requires_grad_(), *wanted]

    def call():
        ys = run(xs)
        gradients = torch.autograd.grad(ys, wanted, cotangent)
        return ys, gradients

    def outputs(result):
        ys, gradients = result
        named = {"ys": _numpy(ys).swapaxes(0, 1)}
        if case.input_gradients:
            named["gradient of xs"] = _numpy(gradients[0]).swapaxes(0, 1)
            gradients = gradients[1:]
        return named | named_gradients(_layers(case, gradients))

    return Prepared(call, outputs)


def _train(case: Case, arrays: Data) -> Prepared:
    network = _network(case, arrays.layers)
    dtype = getattr(torch, case.dtype)
    read_out = torch.nn.Linear(*arrays.w_out.shape).to(PLACE, dtype)
    state = {"weight": _tensor(arrays.w_out.T), "bias": _tensor(arrays.b_out)}
    read_out.load_state_dict(state)
    modules = [network, read_out]
    table = None
    if arrays.table is not None:
        rows = _tensor(arrays.table, case.dtype)
        table = torch.nn.Embedding.from_pretrained(rows, freeze=False)
        modules.append(table)
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    xs = _time_major(arrays.xs, None if case.tokens else case.dtype)
    labels = _time_major(arrays.labels) if case.tokens else _tensor(arrays.labels)
    labels = labels.long().flatten()

    def call():
        optimizer.zero_grad()
        ys = network(xs if table is None else table(xs))[0]
        logits = read_out(ys[-1] if table is None else ys.flatten(0, 1))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def outputs(first):
        losses = [first] + [call() for _ in range(TRAINING_STEPS - 1)]
        return {"losses": np.array([float(loss) for loss in losses], np.float32)}

    return Prepared(call, outputs)


def _step(case: Case, arrays: Data) -> Prepared:
    make = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[case.cell]
    cell, layer = make(case.inputs, case.hidden), arrays.layers[0]
    cell.to(PLACE, getattr(torch, case.dtype))
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    values = (layer.w_ih.T, layer.w_hh.T, layer.b, _recurrent_bias(layer))
    cell.load_state_dict(dict(zip(names, map(_tensor, values), strict=True)))
    x, carry = _tensor(arrays.xs[:, 0], case.dtype), None

    def call():
        nonlocal carry
        with torch.inference_mode():
            carry = cell(x, carry)
        return carry[0] if case.cell == "lstm" else carry

    return Prepared(call, _two_calls(case, call))


def _chunk(case: Case, arrays: Data) -> Prepared:
    network = _network(case, arrays.layers).eval()
    xs, carry = _time_major(arrays.xs, case.dtype), None

    def call():
        nonlocal carry
        with torch.inference_mode():
            ys, carry = network(xs, carry)
        return ys

    return Prepared(call, _two_calls(case, call))


def _two_calls(case: Case, call: Any) -> Any:
    def outputs(first):
        parts = [_numpy(ys).reshape(-1, case.hidden) for ys in (first, call())]
        return {"ys": np.concatenate(parts)}

    return outputs


def _product(case: Case) -> Prepared:
    a, b = np.random.default_rng(0).standard_normal((2, case.hidden, case.hidden))
    a, b = _tensor(a.astype(np.float32)), _tensor(b.astype(np.float32))

    def call():
        with torch.inference_mode():
            c = a @ b
        return c

    return Prepared(call, lambda c: {"product": _numpy(c)})
