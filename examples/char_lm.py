"""Train a language model of characters, which continues the text that it reads.

    python examples/char_lm.py --text FILE --plot

The model is an embedding, one to three recurrent layers with variational dropout before
each, and a dense layer that gives the logits of the next character. The text is cut
into as many streams as the batch has rows. Each update sees one chunk of every stream:
the gradient ends with the chunk, and the carry goes on to the next one. The last tenth
of the text is held back. Its bits per character are reported, and they decide when
training ends early.

Without --text it reads a few public-domain pages from the folder data, which are enough
to see it run. Ctrl-C ends it at once; --resume goes on after the last full epoch.
"""

import argparse
import functools
import itertools
import time
import zlib
from pathlib import Path
from typing import Any

import command
import jax
import jax.numpy as jnp
import numpy as np
import optax
import texts

import rnnjax
from rnnjax import training

SCORE = "validation_bits_per_character"
WARM_UP = 256  # characters read before the first that is scored


@rnnjax.constructor
def language_model(
    vocabulary: int,
    hidden: int,
    *,
    cell: str = "lstm",
    layers: int = 2,
    embedding: int = 128,
    dropout: float = 0.4,
) -> rnnjax.Cell:
    """A cell from a token to the logits of the next one."""
    recurrent = {"lstm": rnnjax.lstm, "gru": rnnjax.gru}[cell]
    sizes = [embedding] + [hidden] * layers
    parts = [rnnjax.embedding(vocabulary, embedding)]
    for below, above in itertools.pairwise(sizes):
        parts += [rnnjax.dropout(dropout, per="sequence"), recurrent(below, above)]
    parts += [
        rnnjax.dropout(dropout, per="sequence"),
        rnnjax.dense(hidden, vocabulary),
    ]
    return rnnjax.stack(*parts)


def truncated_epoch(cell: rnnjax.Cell, optimizer, *, rows: int, steps: int):
    """One compiled loop through the text, by truncated back-propagation."""

    def loss(params, carry, inputs, targets, key):
        carry, logits = rnnjax.unroll(cell, params, inputs, carry=carry, key=key)
        return rnnjax.sequence_loss(logits, targets), carry

    @functools.partial(jax.jit, donate_argnums=0)
    def train(state, tokens):
        key, key_start, key_dropout = jax.random.split(state.key, 3)
        start = jax.random.randint(key_start, (), 0, steps)
        inputs, targets = texts.chunks(tokens, start, rows, steps)
        keys = jax.random.split(key_dropout, len(inputs))

        def update(now, given):
            params, opt_state, carry = now
            # The carry is data here: no gradient reaches the previous chunk.
            (value, carry), grads = jax.value_and_grad(loss, has_aux=True)(
                params, carry, *given
            )
            updates, opt_state = optimizer.update(grads, opt_state, params)
            after = (optax.apply_updates(params, updates), opt_state, carry)
            return after, (value, optax.tree.norm(grads))

        carry = jax.tree.map(
            lambda a: jnp.broadcast_to(a, (rows, *a.shape)),
            cell.initial_carry(state.params),
        )
        (params, opt_state, _), (losses, norms) = jax.lax.scan(
            update, (state.params, state.opt_state, carry), (inputs, targets, keys)
        )
        state = training.TrainState(params, opt_state, state.step + len(keys), key)
        bits = losses.mean() / jnp.log(2)
        metrics = {"loss": losses.mean(), "bits_per_character": bits}
        return state, metrics | {"gradient_norm": norms.mean()}

    return train


def scorer(cell: rnnjax.Cell, text: texts.Text, *, streams: int = 64):
    """A function from params to the bits per character of the text held back.

    The streams run side by side. Each first reads the characters before its own part,
    so every character is scored once, after those that precede it.
    """
    first, count = text.split, len(text.tokens) - text.split
    warm_up = min(WARM_UP, first - 1)
    length = -(-count // min(streams, count))
    targets = first + np.arange(0, count, length)[:, None] + np.arange(-warm_up, length)
    counted = (targets >= first) & (np.arange(-warm_up, length) >= 0)
    counted &= targets < len(text.tokens)
    targets = targets.clip(max=len(text.tokens) - 1)
    inputs = jnp.asarray(text.tokens[targets - 1], jnp.int32)
    given = (inputs, jnp.asarray(text.tokens[targets], jnp.int32))

    def losses(params, batch):
        inputs, targets = batch
        _, logits = rnnjax.unroll(cell, params, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

    def score(params) -> float:
        found = training.predict(losses, params, given, batch_size=16)
        return float(np.asarray(found, np.float64)[counted].mean() / np.log(2))

    return score


def writer(
    cell: rnnjax.Cell,
    text: texts.Text,
    prompt: np.ndarray,
    temperature: float,
    steps: int,
):
    """A function from ``(params, key)`` to the prompt, as the model continues it."""
    tokens = jnp.asarray(prompt, jnp.int32)
    pick = rnnjax.greedy
    if temperature:
        pick = functools.partial(rnnjax.sample, temperature=temperature)

    @jax.jit
    def tokens_after(params, key):
        carry = cell.initial_carry(params)
        carry, _ = cell.unroll(params, carry, tokens[:-1])
        return rnnjax.generate(
            cell, params, carry, tokens[-1], steps=steps, pick=pick, key=key
        ).tokens

    def write(params, key) -> str:
        return text.decode([*prompt, *np.asarray(tokens_after(params, key))])

    return write


def optimizer_for(options: argparse.Namespace, updates: int):
    """AdamW with clipped gradients and a cosine schedule that ends at zero."""
    warm_up = min(100, updates // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, options.lr, warm_up, updates)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=options.weight_decay),
    )


def best_of(history: list[dict[str, Any]]) -> tuple[float, int]:
    """The lowest score so far and its epoch."""
    return min(
        ((record[SCORE], record["epoch"]) for record in history), default=(np.inf, 0)
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__)
    add = parser.add_argument
    add("--text", type=Path, default=texts.PAGES, help="UTF-8, best 100 kB or more")
    add("--characters", type=command.positive, help="read at most this many of them")
    add("--cell", choices=["lstm", "gru"], default="lstm")
    add("--layers", type=int, choices=[1, 2, 3], default=2)
    add("--hidden", type=command.positive, default=512)
    add("--embedding", type=command.positive, default=128)
    add("--dropout", type=command.share, default=0.4, help="one mask for each chunk")
    add("--epochs", type=command.positive, default=10)
    add("--batch-size", type=command.positive, default=32, help="parallel streams")
    add("--chunk", type=command.positive, default=64, help="steps of one gradient")
    add("--lr", type=command.nonnegative, default=6e-3, help="peak of the cosine")
    add("--weight-decay", type=command.nonnegative, default=0.01)
    add(
        "--patience",
        type=command.positive,
        default=3,
        help="end after this many epochs without a better score",
    )
    add("--prompt", help="two characters or more (the last line that is trained on)")
    add(
        "--temperature",
        type=command.nonnegative,
        default=0.8,
        help="0 takes the likeliest",
    )
    add("--write", type=command.positive, default=300, help="characters in a sample")
    command.add_run(
        parser,
        "runs/char_lm",
        plot="write pictures to --out",
        quick="2 epochs of a small model",
    )
    options = parser.parse_args(arguments)
    if options.prompt is not None and len(options.prompt) < 2:
        parser.error(f"--prompt is {options.prompt!r}; expected two characters or more")
    if options.quick:
        options.epochs = min(options.epochs, 2)
        options.hidden, options.embedding = min(options.hidden, 64), 32
        options.batch_size, options.chunk = min(options.batch_size, 8), 32
        options.characters = min(options.characters or 100_000, 100_000)
        options.write = min(options.write, 100)
    return options


def main(options: argparse.Namespace) -> None:
    began = time.perf_counter()
    command.check_out(options)
    print(training.environment())
    rows, steps = options.batch_size, options.chunk
    with command.refusals(OSError, ValueError):
        text = texts.read(options.text, options.characters)
        prompt = text.encode(options.prompt or texts.last_line(text))
    updates = texts.chunk_count(text.split, rows, steps)
    if not updates:
        command.refuse(
            f"{options.text} has {text.split} characters to train on; {rows} streams "
            f"in chunks of {steps} need at least {(rows + 1) * steps}. Write a smaller "
            "--batch-size or --chunk, or take a longer text"
        )
    cell = language_model(
        len(text.characters),
        options.hidden,
        cell=options.cell,
        layers=options.layers,
        embedding=options.embedding,
        dropout=options.dropout,
    )
    write = writer(cell, text, prompt, options.temperature, options.write)
    print(
        f"data {options.text.name}: {text.split} characters to train on, "
        f"{len(text.tokens) - text.split} to score on, {len(text.characters)} different"
    )
    score = scorer(cell, text)
    optimizer = optimizer_for(options, updates * options.epochs)
    key_init, key_train, key_write = jax.random.split(jax.random.key(options.seed), 3)
    params = cell.init(key_init)
    print(
        f"model {cell} · {training.parameter_count(params)} parameters · {updates} "
        f"updates an epoch, {rows} x {steps} characters each"
    )

    state = training.init(params, optimizer, key_train)
    names = ("cell", "layers", "hidden", "embedding", "dropout", "epochs", "seed")
    names += ("batch_size", "chunk", "lr", "weight_decay")
    config = {name: getattr(options, name) for name in names}
    crc = zlib.crc32(text.tokens.tobytes())
    config["data"] = f"{len(text.tokens)} characters, crc {crc}"
    state, history = command.begin(options, state, config)
    best, best_path = best_of(history)[0], options.out / "best.npz"
    samples = len(history)

    def evaluate(params):
        nonlocal best, samples
        bits = score(params)
        if bits < best:
            best = bits
            training.save(best_path, params, {"config": config, SCORE: bits})
        samples += 1
        written = write(params, jax.random.fold_in(key_write, samples))
        print(f"sample, {bits:.3f} bits per character:\n{indented(written)}")
        return {SCORE: bits}

    def stop(history):
        return bool(history) and len(history) - best_of(history)[1] >= options.patience

    state, history = training.fit(
        truncated_epoch(cell, optimizer, rows=rows, steps=steps),
        state,
        jnp.asarray(text.tokens[: text.split]),
        epochs=options.epochs,
        out=options.out,
        config=config,
        evaluate=evaluate,
        history=history,
        stop=stop,
        overwrite=options.overwrite,
    )

    params, _ = training.restore(best_path, params)
    if options.plot:
        plot(options.out, history, cell, params, text)
    bits, epoch = best_of(history)
    seconds = sum(record["seconds"] for record in history)
    rate = updates * rows * steps * len(history) / seconds
    print(
        f"final {SCORE} {bits:.4f} (epoch {epoch} of {len(history)})  "
        f"tokens_per_second {rate:.0f}  training {seconds:.1f} s  "
        f"total {time.perf_counter() - began:.1f} s"
    )


def plot(out: Path, history, cell: rnnjax.Cell, params, text: texts.Text) -> None:
    """Draw ``curves.png``, and ``states.png`` of some units while the model reads."""
    figure = rnnjax.plot.curves(history, ["bits_per_character", SCORE])
    figure.savefig(out / "curves.png")
    tokens = text.tokens[text.split : text.split + 100]
    carry = cell.initial_carry(params)
    trace = rnnjax.trace(cell, params, carry, jnp.asarray(tokens, jnp.int32))
    # Of the last recurrent layer, which dropout and the dense layer follow.
    last = max(n for n in trace.names if n.endswith(".h")).removesuffix("h")
    gates = [last + name for name in ("f", "o", "c", "h", "r", "z")]
    shown = [name for name in gates if name in trace.names]
    steps = list(text.decode(tokens))
    figure = rnnjax.plot.states(trace, shown, steps=steps, most=40)
    figure.savefig(out / "states.png")
    print(f"wrote {out / 'curves.png'} and {out / 'states.png'}")


def indented(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.splitlines())


if __name__ == "__main__":
    command.run(parse, main)
