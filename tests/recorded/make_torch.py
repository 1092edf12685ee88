"""Make the constants that the cells are held against, with torch and its packages.

    python3.11 -m venv peers
    peers/bin/pip install torch numpy
    peers/bin/pip install --no-deps ncps==1.0.1 sru==2.6.0 ninja
    peers/bin/python tests/recorded/make_torch.py

As in ``make_tensorflow.py``: our params go in, are converted inside the graph, and the
outputs and gradients are theirs. Each example is run alone, up to its length.
"""

import recorded
import sru
import torch
from ncps.torch.cfc_cell import CfCCell
from ncps.torch.ltc_cell import LTCCell
from ncps.wirings import FullyConnected
from recorded import BATCH, LENGTHS, TIME
from torch.func import functional_call

INPUTS, HIDDEN, PROJECTED, BACKBONE = 2, 3, 2, 4
torch.set_default_dtype(torch.float64)


def case(name, params, carry, run, *, elapsed=False):
    """Store what ``run(params, xs, carry) -> (ys, carry)`` gives for one example."""
    draw = recorded.drawer(name)
    arrays = recorded.given(draw, params, (INPUTS,), carry)
    if elapsed:
        arrays["elapsed"] = abs(draw(BATCH, TIME)) + 0.1
    given = {k: torch.tensor(v, requires_grad=True) for k, v in arrays.items()}
    examples = []
    width = list(carry.values())[-1][0]  # outputs are the last entry of the carry
    for example, length in enumerate(LENGTHS):
        start = {k: v[example] for k, v in recorded.part(given, "carry.").items()}
        ys, last = torch.zeros(0, width), start
        if length:
            xs = given["xs"][example, :length]
            if elapsed:
                xs = (xs, given["elapsed"][example, :length])
            ys, last = run(recorded.part(given, "params."), xs, start)
        ys = torch.cat([ys, torch.zeros(TIME - length, width)])
        examples.append({"ys": ys} | {f"last.{k}": v for k, v in last.items()})
    out = {k: torch.stack([e[k] for e in examples]) for k in examples[0]}
    weights = {k: draw(*v.shape) for k, v in out.items()}
    loss = sum((out[k] * torch.tensor(weights[k])).sum() for k in out)
    grads = torch.autograd.grad(loss, list(given.values()), allow_unused=True)
    grads = dict(zip(given, grads, strict=True))
    found, out = ({k: v.detach() for k, v in d.items()} for d in (given, out))
    recorded.store(name, found, out, weights, grads)


def lstm_projection(p, xs, carry):
    module = torch.nn.LSTM(INPUTS, HIDDEN, proj_size=PROJECTED)
    theirs = {
        "weight_ih_l0": p["w_ih"].T,
        "weight_hh_l0": p["w_hh"].T,
        "weight_hr_l0": p["w_proj"].T,
        "bias_ih_l0": p["b"],
        "bias_hh_l0": torch.zeros_like(p["b"]),
    }
    state = (carry["h"][None], carry["c"][None])
    ys, (h, c) = functional_call(module, theirs, (xs, state))
    return ys, {"c": c[0], "h": h[0]}


def sru_layer(use_tanh, recurrent_gates):
    def run(p, xs, carry):
        module = sru.SRUCell(INPUTS, HIDDEN, use_tanh=use_tanh, rescale=False)
        blocks = p["w"].reshape(INPUTS, -1, HIDDEN)
        theirs = {
            "weight": blocks.swapaxes(1, 2).reshape(INPUTS, -1),
            "bias": p["b"],
            "weight_c": p["v"].ravel() if recurrent_gates else torch.zeros(2 * HIDDEN),
        }
        ys, c = functional_call(module, theirs, (xs[:, None], carry["c"][None]))
        return ys[:, 0], {"c": c[0]}

    return run


def stepped(step):
    """A loop over ``step(x, elapsed, state) -> (y, state)``, all with a batch of 1."""

    def run(p, xs, carry):
        ys, (name,) = [], carry
        state, advance = carry[name][None], step(p)
        for x, dt in zip(*xs, strict=True):
            y, state = advance(x[None], dt, state)
            ys.append(y[0])
        return torch.stack(ys), {name: state[0]}

    return run


def cfc(p):
    module = CfCCell(INPUTS, HIDDEN, backbone_units=BACKBONE, backbone_layers=2)
    theirs = {
        "backbone.0.weight": torch.cat([p["w_ih"], p["w_hh"]]).T,
        "backbone.0.bias": p["b"],
        "backbone.2.weight": p["w_2"].T,
        "backbone.2.bias": p["b_2"],
    }
    heads = p["w_out"].split(HIDDEN, dim=1), p["b_out"].split(HIDDEN)
    for name, w, b in zip(("ff1", "ff2", "time_a", "time_b"), *heads, strict=True):
        theirs |= {f"{name}.weight": w.T, f"{name}.bias": b}
    return lambda x, dt, h: functional_call(module, theirs, (x, h, dt))


def ltc(p):
    wiring = FullyConnected(HIDDEN)
    wiring.build(INPUTS)
    module = LTCCell(wiring, INPUTS, implicit_param_constraints=True, epsilon=0.0)
    names = {"weight": "w", "middle": "mu", "slope": "sigma", "reversal": "erev"}
    theirs = {"gleak": p["leak"], "vleak": p["leak_reversal"], "cm": p["capacitance"]}
    for ours, name in names.items():
        theirs[name] = p[f"recurrent.{ours}"]
        theirs[f"sensory_{name}"] = p[f"sensory.{ours}"]
    theirs |= {"input_w": p["scale_in"], "input_b": p["b_in"]}
    theirs |= {"output_w": p["scale_out"], "output_b": p["b_out"]}
    masks = {k: v for k, v in module._params.items() if "mask" in k}
    module._params = theirs | masks  # which is where the cell looks its weights up
    return lambda x, dt, v: module(x, v, dt)


def main():
    case(
        "torch_lstm_projection",
        {
            "w_ih": (INPUTS, 4 * HIDDEN),
            "w_hh": (PROJECTED, 4 * HIDDEN),
            "b": (4 * HIDDEN,),
            "w_proj": (HIDDEN, PROJECTED),
        },
        {"c": (HIDDEN,), "h": (PROJECTED,)},
        lstm_projection,
    )
    shapes = {"w": (INPUTS, 4 * HIDDEN), "b": (2 * HIDDEN,)}
    carry = {"c": (HIDDEN,)}
    case("sru_first_version", shapes, carry, sru_layer(True, False))
    shapes = shapes | {"v": (2, HIDDEN)}
    case("sru_recurrent_gates", shapes, carry, sru_layer(False, True))
    shapes = {
        "w_ih": (INPUTS, BACKBONE),
        "w_hh": (HIDDEN, BACKBONE),
        "b": (BACKBONE,),
        "w_2": (BACKBONE, BACKBONE),
        "b_2": (BACKBONE,),
        "w_out": (BACKBONE, 4 * HIDDEN),
        "b_out": (4 * HIDDEN,),
    }
    case("ncps_cfc", shapes, {"h": (HIDDEN,)}, stepped(cfc), elapsed=True)
    synapses = ("weight", "middle", "slope", "reversal")
    shapes = {f"sensory.{name}": (INPUTS, HIDDEN) for name in synapses}
    shapes |= {f"recurrent.{name}": (HIDDEN, HIDDEN) for name in synapses}
    shapes |= dict.fromkeys(("leak", "leak_reversal", "capacitance"), (HIDDEN,))
    shapes |= {"scale_in": (INPUTS,), "b_in": (INPUTS,)}
    shapes |= {"scale_out": (HIDDEN,), "b_out": (HIDDEN,)}
    case("ncps_ltc", shapes, {"v": (HIDDEN,)}, stepped(ltc), elapsed=True)


if __name__ == "__main__":
    main()
