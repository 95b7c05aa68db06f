"""Files as the published toolkit writes them."""

from __future__ import annotations

from pathlib import Path

DATE = "2022-11-30-08-15"


def line(text: str) -> str:
    return f"2022-11-30 08:15:01,123:[P:77]:Rank[0/1] {text}\n"


def log_text(best: float = 71.5, last: float = 70.25, metric: str = "accuracy", finished: bool = True) -> str:
    """A log as the toolkit writes it: a search whose trainings look like the final one, then the final one."""
    search = [
        "Number of trainable params: 0.014346M.",
        f"[Epoch 9] Val: {metric} 99.000",
        "=> Learning rate 0.01, L2 lambda 0.0001: Best score: Acc@1 99.000",
        "Iteration 0: l2_lambda: 0.0001, best score 99.0",
        "Hyper parameter tuning result: learning rate 0.01, l2_lambda 0.0001",
    ]
    final = [
        "Hyperparameters: learning_rate = 0.01, l2_lambda = 0.0001",
        "Number of trainable params: 0.014346M.",
        f"[Epoch 0] Train: {metric} 12.000",
        f"[Epoch 0] Val: {metric} {best:.3f}",
        f"[Epoch 49] Val: {metric} {last:.3f}",
        f"=> Learning rate 0.01, L2 lambda 0.0001: Best score: Acc@1 {best:.3f}",
    ]
    return "".join(map(line, [*search, *final] if finished else search[:-1]))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
