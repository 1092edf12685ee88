"""A language model of characters: read a text, then write on in its manner.

    python examples/char_lm.py --text FILE --plot

An embedding, one to three recurrent layers with variational dropout between them, and a
dense layer that gives the logits of the next character. The text is cut into as many
streams as the batch has rows. Each update sees a chunk of every stream; its gradient
ends with the chunk, its carry goes on to the next one. The last tenth of the text is
kept back: its bits per character are what is reported, and what ends training early.

Without --text it reads a few public-domain pages that lie beside it, which is enough to
see it run. Ctrl-C ends it at once; --resume goes on after the last full epoch.
"""

import argparse
import functools
import itertools
import signal
import sys
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rnnjax
from rnnjax import training

PAGES = Path(__file__).parent / "data" / "pages.txt"
SCORE = "validation_bits_per_character"
SHARE = 0.1  # of the text, at its end, is kept back
WARM_UP = 256  # characters read before the first that is scored


class Text(NamedTuple):
    """``characters`` are the vocabulary, ``tokens: (n,)`` uint16 its indices.

    ``tokens[:split]`` are there to train on, the others to score on.
    """

    characters: str
    tokens: np.ndarray
    split: int

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text of known characters."""
        strange = sorted(set(text) - set(self.characters))
        if strange:
            raise ValueError(
                f"the prompt has {strange}, which the text has not; write a prompt of "
                "characters of the text"
            )
        return np.array([self.characters.index(c) for c in text], np.uint16)

    def decode(self, tokens: Any) -> str:
        """The text of tokens."""
        return "".join(self.characters[token] for token in tokens)


def read(path: Path, most: int | None) -> Text:
    """A text and its vocabulary, at most so many characters of it.

    Raises:
      OSError: for a file that cannot be read.
      ValueError: for one that is no UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8")[:most]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text ({error}); convert it, for example by "
            "iconv -t utf-8"
        ) from error
    characters = "".join(sorted(set(text)))
    lookup = {character: token for token, character in enumerate(characters)}
    tokens = np.array([lookup[character] for character in text], np.uint16)
    return Text(characters, tokens, len(tokens) - round(SHARE * len(tokens)))


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
    """From a token to the logits of the next one."""
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


def chunks(tokens: Array, start: Any, rows: int, steps: int) -> tuple[Array, Array]:
    """Inputs and targets ``(chunks, rows, steps)``; the rows are streams of the text.

    The streams begin anywhere among the first tokens, as ``start`` says.
    """
    count = chunk_count(len(tokens), rows, steps)
    size = rows * count * steps
    taken = jax.lax.dynamic_slice(tokens, (start,), (size + 1,)).astype(jnp.int32)
    inputs, targets = (
        a.reshape(rows, count, steps).swapaxes(0, 1) for a in (taken[:-1], taken[1:])
    )
    return inputs, targets


def chunk_count(characters: int, rows: int, steps: int) -> int:
    # One chunk less than would fit leaves room to begin elsewhere in every epoch.
    return max((characters - steps) // (rows * steps), 0)


def truncated_epoch(cell: rnnjax.Cell, optimizer, *, rows: int, steps: int):
    """Once through the text by truncated back-propagation, as one compiled loop."""

    def loss(params, carry, inputs, targets, key):
        carry, logits = rnnjax.unroll(cell, params, inputs, carry=carry, key=key)
        return rnnjax.sequence_loss(logits, targets), carry

    @functools.partial(jax.jit, donate_argnums=0)
    def train(state, tokens):
        key, key_start, key_dropout = jax.random.split(state.key, 3)
        start = jax.random.randint(key_start, (), 0, steps)
        inputs, targets = chunks(tokens, start, rows, steps)
        keys = jax.random.split(key_dropout, len(inputs))

        def update(now, given):
            params, opt_state, carry = now
            # The carry is data here: no gradient goes into the chunk before.
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


def scorer(cell: rnnjax.Cell, text: Text, *, streams: int = 64):
    """A function from params to the bits per character of what was kept back.

    The streams run side by side. Each first reads the characters in front of it, so
    every character is scored once, and none without those before it.
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


def writer(cell: rnnjax.Cell, text: Text, prompt: str, temperature: float, steps: int):
    """A function ``(params, key)`` to what the model writes after the prompt."""
    tokens = jnp.asarray(text.encode(prompt), jnp.int32)
    pick = functools.partial(rnnjax.sample, temperature=temperature)

    @jax.jit
    def tokens_after(params, key):
        carry = cell.initial_carry(params)
        carry, _ = cell.unroll(params, carry, tokens[:-1])
        return rnnjax.generate(
            cell, params, carry, tokens[-1], steps=steps, pick=pick, key=key
        ).tokens

    def write(params, key) -> str:
        return prompt + text.decode(np.asarray(tokens_after(params, key)))

    return write


def optimizer_for(options: argparse.Namespace, updates: int):
    """AdamW under a cosine that ends at zero, gradients clipped."""
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


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", type=Path, default=PAGES, help="a UTF-8 text file, 100 kB or more")
    add("--characters", type=positive, help="read at most so many of it")
    add("--cell", choices=["lstm", "gru"], default="lstm")
    add("--layers", type=int, choices=[1, 2, 3], default=2)
    add("--hidden", type=positive, default=512)
    add("--embedding", type=positive, default=128)
    add("--dropout", type=float, default=0.4, help="one mask for each chunk")
    add("--epochs", type=positive, default=10)
    add("--batch-size", type=positive, default=32, help="streams side by side")
    add("--chunk", type=positive, default=64, help="steps a gradient goes back")
    add("--lr", type=float, default=6e-3, help="peak of the cosine")
    add("--weight-decay", type=float, default=0.01)
    add("--patience", type=positive, default=3, help="epochs without a better score")
    add("--prompt", help="at least two characters; default the last line trained on")
    add("--temperature", type=float, default=0.8)
    add("--write", type=positive, default=300, help="characters written per sample")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("runs/char_lm"))
    add("--resume", action="store_true", help="go on from the checkpoint in --out")
    add("--plot", action="store_true", help="write pictures to --out")
    add("--quick", action="store_true", help="2 epochs of a small model")
    options = parser.parse_args(arguments)
    if options.prompt is not None and len(options.prompt) < 2:
        parser.error("--prompt needs two characters or more")
    if options.temperature <= 0:
        parser.error("--temperature is positive; 0.01 always takes the likeliest")
    if options.quick:
        options.epochs = min(options.epochs, 2)
        options.hidden, options.embedding = min(options.hidden, 64), 32
        options.batch_size, options.chunk = min(options.batch_size, 8), 32
        options.characters = min(options.characters or 100_000, 100_000)
        options.write = min(options.write, 100)
    return options


def refused(why: Exception | str) -> int:
    print(f"char_lm.py: {why}", file=sys.stderr)
    return 2


def main(arguments: list[str] | None = None) -> int:
    began = time.perf_counter()
    options = parse(arguments)
    print(training.environment())
    rows, steps = options.batch_size, options.chunk
    try:
        text = read(options.text, options.characters)
        if not chunk_count(text.split, rows, steps):
            return refused(
                f"{options.text} has {text.split} characters to train on, fewer than "
                f"{(rows + 1) * steps}, a chunk of {steps} for {rows} streams; write a "
                "smaller --batch-size or --chunk, or take a longer text"
            )
        prompt = options.prompt or default_prompt(text)
        cell = language_model(
            len(text.characters),
            options.hidden,
            cell=options.cell,
            layers=options.layers,
            embedding=options.embedding,
            dropout=options.dropout,
        )
        write = writer(cell, text, prompt, options.temperature, options.write)
    except (OSError, ValueError) as error:
        return refused(error)
    print(
        f"data {options.text.name}: {text.split} characters to train on, "
        f"{len(text.tokens) - text.split} to score on, {len(text.characters)} different"
    )
    score = scorer(cell, text)
    updates = chunk_count(text.split, rows, steps)
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
    history = []
    if options.resume:
        try:
            state, history = training.resume(options.out, state, config)
        except (OSError, ValueError) as error:
            return refused(error)
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
        f"in all {time.perf_counter() - began:.1f} s"
    )
    return 0


def plot(out: Path, history, cell: rnnjax.Cell, params, text: Text) -> None:
    """``curves.png``, and ``states.png``: what some units do while the model reads."""
    figure = rnnjax.plot.curves(history, ["bits_per_character", SCORE])
    figure.savefig(out / "curves.png")
    tokens = text.tokens[text.split : text.split + 100]
    carry = cell.initial_carry(params)
    trace = rnnjax.trace(cell, params, carry, jnp.asarray(tokens, jnp.int32))
    # Of the last layer, above which are dropout and the dense layer.
    last = max(n for n in trace.names if n.endswith(".h")).removesuffix("h")
    gates = [last + name for name in ("f", "o", "c", "h", "r", "z")]
    shown = [name for name in gates if name in trace.names]
    steps = list(text.decode(tokens))
    figure = rnnjax.plot.states(trace, shown, steps=steps, most=40)
    figure.savefig(out / "states.png")
    print(f"wrote {out / 'curves.png'} and {out / 'states.png'}")


def default_prompt(text: Text) -> str:
    """The beginning of the line in which training ends, or what comes before it."""
    return text.decode(text.tokens[text.split - 40 : text.split]).lstrip()


def indented(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.splitlines())


if __name__ == "__main__":
    # A Python handler would wait for the epoch that runs; a checkpoint is written
    # wholly or not at all, so the process may as well end at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
