"""Fit a network: Lightning runs the loop, checkpoints and logs; what is ours is the data, the loss and the measure.

Lightning was chosen over a loop of our own because resuming, mixed precision, several devices and logging are solved
there and kept in order by others.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader
from UNetSegmentLib.package import Manifest
from UNetSegmentLib.predict.export import Decision
from UNetSegmentLib.predict.stitch import Stitcher
from UNetSegmentLib.predict.tiles import Tiling, weights
from UNetSegmentLib.volume import dice

from .config import FitConfig
from .dataset import Dataset, DatasetError
from .network import DeepSupervisionLoss, build, inference_state
from .patches import Patches, Prepared, prepare
from .plan import draft_manifest
from .safely import SafeCheckpointIO, replace_tensors, replace_text
from .split import stored_split


class Segmenter(pl.LightningModule):
    """The network in training."""

    def __init__(self, manifest: Manifest, config: FitConfig, steps: int) -> None:
        super().__init__()
        self.manifest, self.config, self.steps = manifest, config, steps
        self.network = build(manifest.network_arguments, deep_supervision=True)
        self.loss = DeepSupervisionLoss()
        self.scores: list[list[float]] = []

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor, list[str]], index: int) -> torch.Tensor:
        x, y, names = batch
        loss = self.loss(self.network(x), y)
        if not torch.isfinite(loss):
            raise DatasetError(
                f"The loss is not a number at step {self.global_step} (cases {', '.join(names)}); "
                "lower the learning rate or look at these cases. The last good checkpoint was kept."
            )
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: int, index: int) -> None:
        case: Prepared = self.trainer.datamodule.val[index]  # type: ignore[attr-defined]
        window = self.manifest.inference
        tiling = Tiling.cover(case.classes.shape, window.patch_size, window.overlap, window.convention)

        def run(patches: np.ndarray, _: Any) -> np.ndarray:
            return self.network(torch.from_numpy(patches).to(self.device)).float().cpu().numpy()

        background = Decision.of(self.manifest).background
        slabs = Stitcher(tiling, weights(tiling.patch, window), run, background)(case.image)
        answer = np.concatenate([slab.argmax(axis=0) for _, slab in slabs])
        self.scores.append([dice(answer == c, case.classes == c) for c in range(1, len(self.manifest.labels))])

    def on_validation_epoch_end(self) -> None:
        means = np.mean(self.scores, axis=0)
        self.scores.clear()
        for label, value in zip(self.manifest.labels[1:], means, strict=True):
            self.log(f"dice/{label.name}", float(value))
        self.log("dice", float(np.mean(means)), prog_bar=True)

    def configure_optimizers(self) -> dict[str, Any]:
        config = self.config
        optimizer = torch.optim.AdamW(self.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        total = max(config.epochs * self.steps, 1)

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / 50) * (0.5 * (1 + np.cos(np.pi * min(step / total, 1.0))) + 0.002)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Cases(pl.LightningDataModule):
    """Training and validation cases in memory; each epoch's patches follow from seed and epoch alone."""

    def __init__(self, train: list[Prepared], val: list[Prepared], config: FitConfig) -> None:
        super().__init__()
        self.train, self.val, self.config = train, val, config

    def train_dataloader(self) -> DataLoader:
        epoch = self.trainer.current_epoch if self.trainer else 0
        patches = Patches(self.train, self.config.patch, self.config.batch, self.config.seed, epoch)
        return DataLoader(patches, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(range(len(self.val)), batch_size=None)  # type: ignore[arg-type]


class EpochLines(Callback):
    """A line per epoch, for logs that are not a terminal."""

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        seen = {k: float(v) for k, v in trainer.callback_metrics.items()}
        text = " ".join(f"{k} {v:.4f}" for k, v in sorted(seen.items()))
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} {text}", flush=True)


def fit(dataset: Dataset, run: Path, config: FitConfig, device: str = "auto") -> Path:
    """Train one model into a run folder, or go on where an interrupted run stopped.

    The folder gets ``config.json``, ``split.json``, ``manifest.json``, ``checkpoints/last.ckpt`` (each epoch, written
    beside and moved, so a kill at any moment costs the current epoch at most), TensorBoard and CSV logs (a CSV file
    per start, as Lightning would empty an old one), and at the end ``weights.pt``: the averaged weights of the network
    without its deep-supervision heads.

    Raises:
        DatasetError: The run folder belongs to other settings or cases, or the loss became NaN.
    """
    config.store(run / "config.json")
    split = stored_split(run / "split.json", [case.name for case in dataset.cases])
    chosen = split[config.fold] if config.fold >= 0 else {"train": [c.name for c in dataset.cases], "val": []}
    by_name = {case.name: case for case in dataset.cases}
    train_cases = [by_name[name] for name in chosen["train"]]
    path = run / "manifest.json"
    if path.exists():
        manifest = Manifest.from_dict(json.loads(path.read_text("utf-8")))
    else:
        manifest = draft_manifest(dataset, config, train_cases)
        replace_text(path, json.dumps(manifest.to_dict(), indent=1))

    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = Cases(
        [prepare(case, manifest) for case in train_cases],
        [prepare(by_name[name], manifest) for name in chosen["val"]],
        config,
    )
    module = Segmenter(manifest, config, len(data.train_dataloader()))
    last = run / "checkpoints" / "last.ckpt"
    trainer = _trainer(run, config, device, validates=bool(data.val))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(does not have many workers|IterableDataset|litlogger).*")
        trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=False)
    replace_tensors(run / "weights.pt", averaged_weights(run, manifest)[0])
    return run / "weights.pt"


def averaged_weights(run: Path, manifest: Manifest) -> tuple[dict[str, torch.Tensor], int]:
    """The averaged weights of the inference network after a run's last finished epoch, and how many epochs that was.

    Raises:
        DatasetError: No epoch has finished yet.
    """
    last = run / "checkpoints" / "last.ckpt"
    if not last.exists():
        raise DatasetError(f"'{run}' has no finished epoch yet; wait for 'unetsegment-train fit'.")
    saved = torch.load(last, map_location="cpu", weights_only=False)  # written by fit, on this machine
    network = {k.removeprefix("network."): v for k, v in saved["state_dict"].items() if k.startswith("network.")}
    return inference_state(network, manifest.network_arguments), int(saved["epoch"]) + 1


def _trainer(run: Path, config: FitConfig, device: str, validates: bool) -> pl.Trainer:
    keep = ModelCheckpoint(
        run / "checkpoints",
        "last",
        every_n_epochs=1,
        save_top_k=1,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
    live = sys.stderr.isatty()
    callbacks: list[Callback] = [WeightAveraging(avg_fn=_averaging(config.ema_decay)), keep]
    callbacks.append(RichProgressBar() if live else EpochLines())
    return pl.Trainer(
        accelerator=device,
        devices=1,
        precision=_precision(device),
        max_epochs=config.epochs,
        gradient_clip_val=12,
        check_val_every_n_epoch=config.validate_every,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        logger=[TensorBoardLogger(run, name="", version="tensorboard"), CSVLogger(run, name="log")],
        callbacks=callbacks,
        plugins=[SafeCheckpointIO()],
        enable_progress_bar=live,
        enable_model_summary=False,
        log_every_n_steps=10,
    )


def _averaging(decay: float) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Exponential moving average that forgets fast at first, so that it does not remember the random start."""

    def average(mean: torch.Tensor, new: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        keep = min(decay, (1 + float(count)) / (10 + float(count)))
        return torch.lerp(new, mean, keep)

    return average


def _precision(device: str) -> Any:
    """Mixed precision where the device computes it fast: bf16 on recent GPUs and processors, fp16 on older GPUs."""
    if device != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16-mixed" if supported else "32-true"
