"""Fit a network: Lightning runs the loop, checkpoints and logs; what is ours is the data, the loss and the measure.

Lightning was chosen over a loop of our own because resuming, mixed precision, several devices and logging are solved
there and kept in order by others.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader
from UNetSegmentLib.package import Manifest
from UNetSegmentLib.volume import dice

from . import losses
from .config import FitConfig
from .dataset import Dataset, DatasetError
from .finetune import Memory, Start
from .infer import segment
from .network import PACKAGE, build_for_training, inference_state
from .optimise import make_optimizer, make_schedules
from .patches import Patches, Prepared, prepare
from .plan import draft_manifest
from .safely import SafeCheckpointIO, replace_tensors, replace_text
from .split import stored_split


class Segmenter(pl.LightningModule):
    """The network in training."""

    def __init__(
        self, manifest: Manifest, config: FitConfig, steps: int, class_weights: list[float] | None = None
    ) -> None:
        super().__init__()
        self.manifest, self.config, self.steps = manifest, config, steps
        self.network = build_for_training(manifest, config)
        self.loss = losses.make(config, class_weights)
        self.scores: list[list[float]] = []
        self.told = list(range(1, len(manifest.labels)))
        """Classes that the dataset's labels tell of."""
        self.memory: Memory | None = None

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor, list[str]], index: int) -> torch.Tensor:
        x, y, names = batch
        loss = self.loss(self.network(x), y)
        if self.memory is not None:
            loss = loss + self.memory.loss(self.network, self.global_step, x.device)
        if not torch.isfinite(loss):
            raise DatasetError(
                f"The loss is not a number at step {self.global_step} (cases {', '.join(names)}); "
                "lower the learning rate or look at these cases. The last good checkpoint was kept."
            )
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: int, index: int) -> None:
        case: Prepared = self.trainer.datamodule.val[index]  # type: ignore[attr-defined]
        answer = segment(self.network, case.image, self.manifest, self.config)
        self.scores.append([dice(answer == c, case.classes == c) for c in self.told])

    def on_validation_epoch_end(self) -> None:
        means = np.mean(self.scores, axis=0)
        self.scores.clear()
        for index, value in zip(self.told, means, strict=True):
            self.log(f"dice/{self.manifest.labels[index].name}", float(value))
        self.log("dice", float(np.mean(means)), prog_bar=True)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[dict[str, Any]]]:
        optimizer = make_optimizer(self.parameters(), self.config)
        return [optimizer], make_schedules(optimizer, self.config, self.steps)


class Cases(pl.LightningDataModule):
    """Training and validation cases in memory; each epoch's patches follow from seed and epoch alone."""

    def __init__(self, train: list[Prepared], val: list[Prepared], config: FitConfig) -> None:
        super().__init__()
        self.train, self.val, self.config = train, val, config

    def train_dataloader(self) -> DataLoader:
        epoch = self.trainer.current_epoch if self.trainer else 0
        return DataLoader(Patches(self.train, self.config, epoch), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(range(len(self.val)), batch_size=None)  # type: ignore[arg-type]

    def class_weights(self, classes: int) -> list[float] | None:
        """As the settings ask; see :func:`losses.balanced_weights`.

        Raises:
            DatasetError: There are not as many weights as classes.
        """
        wanted = self.config.class_weights
        if wanted == "balanced":
            return losses.balanced_weights(
                sum(np.resize(np.append(c.counts, [0] * classes), classes) for c in self.train)
            )
        if wanted and len(wanted) != classes:
            raise DatasetError(f"class_weights has {len(wanted)} numbers; the dataset has {classes} classes.")
        return [float(w) for w in wanted] or None


class EpochLines(Callback):
    """A line per epoch, for logs that are not a terminal."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.began, self.first, self.fresh = time.monotonic(), trainer.current_epoch, False

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.fresh = True

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        done, last = trainer.current_epoch + 1, trainer.max_epochs or 0
        seen = {k: float(v) for k, v in trainer.callback_metrics.items() if self.fresh or not k.startswith("dice")}
        self.fresh = False
        text = " ".join(f"{k} {v:.4f}" for k, v in sorted(seen.items()))
        left = (time.monotonic() - self.began) / (done - self.first) * (last - done)
        words = f", {left / 60:.0f} min left" if left >= 90 else f", {left:.0f} s left" if left else ""
        print(f"epoch {done}/{last} {text}{words}", flush=True)


def fit(dataset: Dataset, run: Path, config: FitConfig, device: str = "auto", start: Start | None = None) -> Path:
    """Train one model into a run folder, or go on where an interrupted run stopped.

    The folder gets ``config.json``, ``split.json``, ``manifest.json``, ``checkpoints/last.ckpt`` (each epoch, written
    beside and moved, so a kill at any moment costs the current epoch at most), TensorBoard and CSV logs (a CSV file
    per start, as Lightning would empty an old one), and at the end ``weights.pt``: the averaged weights of the network
    without its deep-supervision heads. A run that starts from a model notes it in ``parent.json``.

    Args:
        dataset: Checked; with ``start``, matched to its model.
        run: Made if it is not there.
        config: Settings.
        device: ``auto``, ``cpu`` or ``gpu``.
        start: The model to start from; by default training starts from nothing.

    Raises:
        DatasetError: The run folder belongs to other settings, cases or another model, or the loss became NaN.
    """
    if config.network == PACKAGE and start is None:
        raise DatasetError("The network 'package' is that of a model to start from; name it with --from.")
    split = stored_split(run / "split.json", [case.name for case in dataset.cases], config.fold)
    config.store(run / "config.json")
    if start is not None:
        start.note(run)
    chosen = split[config.fold] if config.fold >= 0 else {"train": [c.name for c in dataset.cases], "val": []}
    by_name = {case.name: case for case in dataset.cases}
    train_cases = [by_name[name] for name in chosen["train"]]
    path = run / "manifest.json"
    if path.exists():
        manifest = Manifest.from_dict(json.loads(path.read_text("utf-8")))
    else:
        manifest = (start.manifest if start else draft_manifest)(dataset, config, train_cases)
        replace_text(path, json.dumps(manifest.to_dict(), indent=1))

    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = Cases(
        [prepare(case, manifest) for case in train_cases],
        [prepare(by_name[name], manifest) for name in chosen["val"]],
        config,
    )
    if start is not None:
        data.train = start.train(data.train, manifest, dataset, device)
    steps, weights = len(data.train_dataloader()), data.class_weights(len(manifest.labels))
    module = Segmenter(manifest, config, steps, weights)
    if start is not None:
        start.parent.begin(module.network, manifest)
        module.memory = start.memory(config)
        module.told = [n for n, label in enumerate(manifest.labels) if n and label.value in dataset.labels]
    last = run / "checkpoints" / "last.ckpt"
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # advertisements, and what the next lines say
    trainer = _trainer(run, config, device, steps, validates=bool(data.val))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*(does not have many workers|IterableDataset|LeafSpec|exists and is not empty).*"
        )
        _tell(trainer, module, data, last)
        trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=False)
    replace_tensors(run / "weights.pt", averaged_weights(run, manifest)[0])
    return run / "weights.pt"


def _tell(trainer: pl.Trainer, module: Segmenter, data: Cases, last: Path) -> None:
    """What is about to be done, in a line."""
    million = sum(p.numel() for p in module.network.parameters()) / 1e6
    print(
        f"{len(data.train)} case{'s' * (len(data.train) != 1)} train, {len(data.val)} validate; {module.config.network}, {million:.1f} million "
        f"parameters, on {trainer.strategy.root_device} in {trainer.precision}"
        + (f"; goes on from '{last}'" if last.exists() else ""),
        flush=True,
    )


def averaged_weights(run: Path, manifest: Manifest) -> tuple[dict[str, torch.Tensor], int]:
    """The averaged weights of the inference network that ship, and after how many epochs they were taken.

    Raises:
        DatasetError: No epoch has finished yet.
    """
    config = FitConfig.load(run / "config.json")
    chosen = run / "checkpoints" / f"{config.ship}.ckpt"
    if not chosen.exists():  # before the first validation
        chosen = run / "checkpoints" / "last.ckpt"
    if not chosen.exists():
        raise DatasetError(f"'{run}' has no finished epoch yet; wait for 'unetsegment-train fit'.")
    saved = torch.load(chosen, map_location="cpu", weights_only=False)  # written by fit, on this machine
    network = {k.removeprefix("network."): v for k, v in saved["state_dict"].items() if k.startswith("network.")}
    return inference_state(network, manifest), int(saved["epoch"]) + 1


def _trainer(run: Path, config: FitConfig, device: str, steps: int, validates: bool) -> pl.Trainer:
    live = sys.stderr.isatty()
    callbacks: list[Callback] = [RichProgressBar() if live else EpochLines()]
    if config.ema_decay:
        callbacks.insert(0, WeightAveraging(avg_fn=_averaging(config.ema_decay)))
    if validates and config.early_stopping:
        callbacks.append(
            EarlyStopping("dice", mode="max", patience=config.early_stopping, check_on_train_epoch_end=False)
        )
    if validates and config.ship == "best":
        callbacks.append(_keep(run, "best", monitor="dice", mode="max"))
    callbacks.append(_keep(run, "last"))
    return pl.Trainer(
        accelerator=device,
        devices=1,
        precision=_precision(device, config.precision),
        max_epochs=config.epochs,
        gradient_clip_val=config.gradient_clip or None,
        check_val_every_n_epoch=config.validate_every,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        logger=[TensorBoardLogger(run, name="", version="tensorboard"), CSVLogger(run, name="log")],
        callbacks=callbacks,
        plugins=[SafeCheckpointIO()],
        enable_progress_bar=live,
        enable_model_summary=False,
        log_every_n_steps=min(steps, 10) or 1,
    )


def _keep(run: Path, name: str, **which: Any) -> ModelCheckpoint:
    """A checkpoint after each epoch: the last, or the best by a measure."""
    return ModelCheckpoint(
        run / "checkpoints", name, every_n_epochs=1, save_top_k=1, enable_version_counter=False,
        save_on_train_epoch_end=True, **which,
    )  # fmt: skip


def _averaging(decay: float) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Exponential moving average that forgets fast at first, so that it does not remember the random start."""

    def average(mean: torch.Tensor, new: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        if not mean.is_floating_point():  # a counter of batch normalisation
            return new
        keep = min(decay, (1 + float(count)) / (10 + float(count)))
        return torch.lerp(new, mean, keep)

    return average


def _precision(device: str, wanted: str = "auto") -> Any:
    """Mixed precision where the device computes it fast: bf16 on recent GPUs and processors, fp16 on older GPUs."""
    if wanted != "auto":
        return {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[wanted]
    if device != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16-mixed" if supported else "32-true"
