"""The program of ``examples/mnist.py --model lstm``, line for line in torch.

Rows of digits as 28 time steps, an LSTM, a dense layer on its last output; AdamW with
decay 0.1 under a one-cycle schedule, gradients clipped to norm 1; after each epoch the
test digits are scored and a checkpoint is written.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))


class Classifier(torch.nn.Module):
    """An LSTM over the rows and a dense layer on its last output."""

    def __init__(self, hidden: int):
        super().__init__()
        self.lstm = torch.nn.LSTM(28, hidden)
        self.dense = torch.nn.Linear(hidden, 10)

    def forward(self, images: Any) -> Any:
        rows = images.transpose(0, 1).float() / 255
        return self.dense(self.lstm(rows)[1][0][0])


def main() -> None:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--hidden", type=int, default=128)
    add("--epochs", type=int, default=10)
    add("--batch-size", type=int, default=128)
    add("--lr", type=float, default=1e-2, help="peak of the cycle")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--data-dir", type=Path)
    add("--out", type=Path, default=Path("runs/mnist-torch"))
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)

    data = importlib.import_module("digits").load(options.data_dir, download=False)
    print(f"torch {torch.__version__}, {options.threads} threads, data {data.source}")
    images, labels = (torch.from_numpy(np.array(a)) for a in data.train)
    test_images, test_labels = (torch.from_numpy(np.array(a)) for a in data.score)
    labels = labels.long()

    model = Classifier(options.hidden)
    updates = len(labels) // options.batch_size
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.lr, weight_decay=0.1, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, updates * options.epochs, cycle_momentum=False
    )
    correct = 0
    for epoch in range(1, options.epochs + 1):
        start, losses = time.perf_counter(), 0.0
        order = torch.randperm(len(labels))
        for rows in order[: updates * options.batch_size].split(options.batch_size):
            logits = model(images[rows])
            loss = torch.nn.functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses += loss.item()
        with torch.inference_mode():
            parts = test_images.split(1000)
            read = torch.cat([model(part).argmax(dim=-1) for part in parts])
        correct = int((read == test_labels).sum())
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, options.out / "checkpoint.pt")
        print(
            f"epoch {epoch}  loss {losses / updates:.4f}  "
            f"{data.scored_on}_accuracy {correct / len(test_labels):.4f}  "
            f"{time.perf_counter() - start:.1f} s",
            flush=True,
        )
    print(
        f"final {data.scored_on}_accuracy {correct / len(test_labels):.4f}  "
        f"total {time.perf_counter() - began:.1f} s"
    )


if __name__ == "__main__":
    main()
