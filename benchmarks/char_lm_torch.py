"""The program of ``examples/char_lm.py``, line for line in torch, without samples.

An embedding, LSTM layers with variational dropout in front of each, a dense layer;
streams side by side, the carry handed from chunk to chunk; AdamW under a cosine, the
gradient clipped to norm 1; after each epoch the last tenth of the text is scored.
"""

import argparse
import importlib
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))


class LanguageModel(torch.nn.Module):
    """From tokens ``(t, b)`` to logits ``(t, b, v)``, and the carries after them."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, layers: int):
        super().__init__()
        sizes = [embedding] + [hidden] * layers
        self.embedding = torch.nn.Embedding(vocabulary, embedding)
        self.layers = torch.nn.ModuleList(
            itertools.starmap(torch.nn.LSTM, itertools.pairwise(sizes))
        )
        self.dense = torch.nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Any, carries: Any, rate: float) -> Any:
        ys, after = dropped(self.embedding(tokens), rate), []
        for layer, carry in zip(self.layers, carries, strict=True):
            ys, carry = layer(ys, carry)
            ys = dropped(ys, rate)
            after.append(carry)
        return self.dense(ys), after


def dropped(xs: Any, rate: float) -> Any:
    """One mask for all steps of an example."""
    if not rate:
        return xs
    return xs * (torch.rand_like(xs[:1]) >= rate) / (1 - rate)


def main() -> None:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--text", type=Path)
    add("--characters", type=int)
    add("--layers", type=int, default=2)
    add("--hidden", type=int, default=512)
    add("--embedding", type=int, default=128)
    add("--dropout", type=float, default=0.4)
    add("--epochs", type=int, default=10)
    add("--batch-size", type=int, default=32)
    add("--chunk", type=int, default=64)
    add("--lr", type=float, default=6e-3)
    add("--weight-decay", type=float, default=0.01)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--out", type=Path, default=Path("runs/char_lm-torch"))
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)

    example = importlib.import_module("char_lm")
    text = example.read(options.text or example.PAGES, options.characters)
    tokens = torch.from_numpy(text.tokens.astype(np.int64))
    train, kept = tokens[: text.split], tokens[text.split - 1 :]
    rows, steps = options.batch_size, options.chunk
    count = example.chunk_count(text.split, rows, steps)
    print(f"torch {torch.__version__}, {options.threads} threads, {count} updates")

    model = LanguageModel(
        len(text.characters), options.embedding, options.hidden, options.layers
    )
    updates = count * options.epochs
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True
    )
    warm_up = max(min(100, updates // 10), 1)
    rising = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3, 1.0, warm_up)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates - warm_up)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer, [rising, falling], [warm_up]
    )
    seconds, best = 0.0, np.inf
    for epoch in range(1, options.epochs + 1):
        start = time.perf_counter()
        first = int(torch.randint(steps, ()))
        taken = train[first : first + rows * count * steps + 1]
        inputs, targets = (
            a.reshape(rows, count, steps).permute(1, 2, 0).contiguous()
            for a in (taken[:-1], taken[1:])
        )
        carries, total = [None] * options.layers, 0.0
        for xs, ys in zip(inputs, targets, strict=True):
            logits, carries = model(xs, carries, options.dropout)
            carries = [(h.detach(), c.detach()) for h, c in carries]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ys.flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds += time.perf_counter() - start
        bits = score(model, kept, options.layers)
        best = min(best, bits)
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict()},
            options.out / "checkpoint.pt",
        )
        print(
            f"epoch {epoch}  loss {total / count:.4f}  "
            f"validation_bits_per_character {bits:.4f}",
            flush=True,
        )
    rate = updates * rows * steps / seconds
    print(
        f"final validation_bits_per_character {best:.4f}  "
        f"tokens_per_second {rate:.0f}  training {seconds:.1f} s  "
        f"total {time.perf_counter() - began:.1f} s"
    )


@torch.inference_mode()
def score(model: LanguageModel, kept: Any, layers: int, streams: int = 16) -> float:
    """Bits per character of streams side by side, each from an empty carry."""
    length = (len(kept) - 1) // streams
    size = streams * length
    inputs, targets = (
        a.reshape(streams, length).T for a in (kept[:size], kept[1:][:size])
    )
    carries, total = [None] * layers, 0.0
    for xs, ys in zip(inputs.split(256), targets.split(256), strict=True):
        logits, carries = model(xs, carries, 0.0)
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ys.flatten(), reduction="sum"
        ).item()
    return total / size / np.log(2)


if __name__ == "__main__":
    main()
