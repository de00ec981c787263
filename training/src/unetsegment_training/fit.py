"""Fit a network: Lightning runs the loop, checkpoints and logs; what is ours is the data, the loss and the measure.

Lightning was chosen over a loop of our own because resuming, mixed precision, several devices and logging are solved
there and kept in order by others.
"""

from __future__ import annotations

import hashlib
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
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader
from UNetSegmentLib.package import Manifest
from UNetSegmentLib.volume import dice

from . import losses, processes
from .config import FitConfig
from .dataset import Dataset, DatasetError
from .finetune import Memory, Start
from .infer import segment
from .network import PACKAGE, build_for_training, inference_state
from .optimise import make_optimizer, make_schedules
from .pace import Pace, loading_processes
from .patches import Patches, Prepared, Steps, prepare
from .plan import draft_manifest
from .processes import Layout
from .processor import FORMATS, channels_last, keep_memory
from .run_folder import check, stored
from .safely import SafeCheckpointIO, load_checkpoint, replace_tensors, replace_text
from .split import stored_split
from .troubles import explained


class Segmenter(pl.LightningModule):
    """The network in training."""

    def __init__(
        self, manifest: Manifest, config: FitConfig, steps: int, class_weights: list[float] | None = None
    ) -> None:
        super().__init__()
        self.manifest, self.config, self.steps = manifest, config, steps
        self.network = build_for_training(manifest, config)
        self.loss = losses.make(config, class_weights)
        self.scores: dict[int, list[float]] = {}
        self.told = list(range(1, len(manifest.labels)))
        """Classes that the dataset's labels tell of."""
        self.memory: Memory | None = None
        self.channels_last = False
        self.doing = "loading the first patches"

    def on_train_start(self) -> None:
        seen = self.trainer.datamodule.digest, self.global_step  # type: ignore[attr-defined]
        if len(set(processes.gathered(seen))) > 1:
            raise DatasetError(
                "The processes do not see the same cases and checkpoint; dataset and run folder must be shared by all nodes."
            )

    def on_train_epoch_start(self) -> None:
        # dropout differs between processes, and is the same when an interrupted run goes on
        mine = np.random.SeedSequence((self.config.seed, self.current_epoch, self.global_rank))
        torch.manual_seed(int(mine.generate_state(1)[0]))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor, list[str]], index: int) -> torch.Tensor:
        x, y, names = batch
        self.doing = f"training step {self.global_step}"
        if self.channels_last:
            x = x.contiguous(memory_format=FORMATS[x.ndim])
        loss = self.loss(self.network(x), y)
        if self.memory is not None:
            loss = loss + self.memory.loss(self.network, self.global_step, x.device)
        mean = processes.total(loss.detach()) / processes.count()
        if not torch.isfinite(mean):  # all processes see it, so all stop
            cases = ", ".join(name for part in processes.gathered(names) for name in part)
            raise DatasetError(
                f"The loss is not a number at step {self.global_step} (cases {cases}); "
                "lower the learning rate or look at these cases. The last good checkpoint was kept."
            )
        self.log("loss", mean, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(x))
        return loss

    def on_train_epoch_end(self) -> None:
        # before the checkpoint: a last step that spoils the weights shows in the loss only when they were saved
        if not all(bool(weight.isfinite().all()) for weight in self.network.parameters()):
            raise DatasetError(
                f"Weights are not numbers after step {self.global_step}; lower the learning rate. "
                "The last good checkpoint was kept."
            )

    def validation_step(self, batch: int, index: int) -> None:
        case: Prepared = self.trainer.datamodule.val[batch]  # type: ignore[attr-defined]
        self.doing = f"validation of case {case.name}"
        answer = segment(self.network, case.image, self.manifest, self.config)
        self.scores[batch] = [dice(answer == c, case.classes == c) for c in self.told]

    def on_validation_epoch_end(self) -> None:
        scores = {case: dices for part in processes.gathered(self.scores) for case, dices in part.items()}
        means = np.mean([scores[case] for case in sorted(scores)], axis=0)
        self.scores.clear()
        for index, value in zip(self.told, means, strict=True):
            self.log(f"dice/{self.manifest.labels[index].name}", float(value))
        self.log("dice", float(np.mean(means)), prog_bar=True)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[dict[str, Any]]]:
        optimizer = make_optimizer(self.parameters(), self.config)
        return [optimizer], make_schedules(optimizer, self.config, self.steps)


class Cases(pl.LightningDataModule):
    """Training and validation cases in memory, shared by the processes that train together.

    Args:
        train: Cases to cut patches from.
        val: Cases to segment.
        config: Settings of the run.
        workers: Processes that make patches ready, beside this one.
    """

    def __init__(self, train: list[Prepared], val: list[Prepared], config: FitConfig, workers: int = 0) -> None:
        super().__init__()
        self.train, self.val, self.config, self.workers = train, val, config, workers

    @property
    def digest(self) -> str:
        """Differs where cases differ."""
        what = [(case.name, case.image.shape, case.counts.tolist()) for case in (*self.train, *self.val)]
        return hashlib.sha256(repr(what).encode()).hexdigest()

    def train_dataloader(self) -> DataLoader:
        patches = Patches(self.train, self.config, self.trainer.global_rank, self.trainer.world_size)
        several: dict[str, Any] = {}
        if self.workers:
            several = {"num_workers": self.workers, "persistent_workers": True}
            if sys.platform == "linux":
                several["multiprocessing_context"] = "fork"  # so the cases are there once
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(patches, batch_size=None, sampler=Steps(len(patches)), pin_memory=on_gpu, **several)

    def val_dataloader(self) -> DataLoader:
        rank, world = self.trainer.global_rank, self.trainer.world_size
        turns = -(-len(self.val) // world)  # as many for each; a case that comes twice counts once
        mine = [(rank + turn * world) % len(self.val) for turn in range(turns)]
        return DataLoader(mine, batch_size=None)  # type: ignore[arg-type]

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
        if not trainer.is_global_zero:
            return
        done, last = trainer.current_epoch + 1, trainer.max_epochs or 0
        stale = ("seconds",) if self.fresh else ("seconds", "dice")
        seen = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith(stale)}
        self.fresh = False
        text = " ".join(f"{k} {v:.4f}" for k, v in sorted(seen.items()))
        left = (time.monotonic() - self.began) / (done - self.first) * (last - done)
        words = f", {left / 60:.0f} min left" if left >= 90 else f", {left:.0f} s left" if left else ""
        print(f"epoch {done}/{last} {text}{words}", flush=True)


def fit(
    dataset: Dataset, run: Path, config: FitConfig, device: str = "auto", start: Start | None = None,
    layout: Layout | None = None,
) -> Path:  # fmt: skip
    """Train one model into a run folder, or go on where an interrupted run stopped.

    The folder gets ``config.json``, ``split.json``, ``manifest.json``, ``checkpoints/last.ckpt`` (each epoch, written
    beside and moved, so a kill at any moment costs the current epoch at most), TensorBoard and CSV logs (a CSV file
    per start, as Lightning would empty an old one), and at the end ``weights.pt``: the averaged weights of the network
    without its deep-supervision heads. A run that starts from a model notes it in ``parent.json``. Where several
    processes train together the first one writes.

    Args:
        dataset: Checked; with ``start``, matched to its model.
        run: Made if it is not there.
        config: Settings.
        device: ``auto``, ``cpu`` or ``gpu``.
        start: The model to start from; by default training starts from nothing.
        layout: Processes that train together, each with its share of the batch; by default this one alone.

    Raises:
        DatasetError: The run folder belongs to other settings, cases or another model, the batch cannot be shared, the
            loss became NaN, or memory or disk were short.
    """
    if config.network == PACKAGE and start is None:
        raise DatasetError("The network 'package' is that of a model to start from; name it with --from.")
    layout = layout or Layout()
    if config.batch % layout.world:
        raise DatasetError(
            f"A batch of {config.batch} cannot be shared by {layout.world} processes; "
            f"make it {-(-config.batch // layout.world) * layout.world}."
        )
    check(run, dataset)
    processes.require(device, layout)
    last = run / "checkpoints" / "last.ckpt"
    begun = last.exists() or (run / "weights.pt").exists()
    split = stored_split(run / "split.json", [case.name for case in dataset.cases], config.fold)
    config.store(run / "config.json", begun)
    if start is not None:
        start.note(run)
    chosen = split[config.fold] if config.fold >= 0 else {"train": [c.name for c in dataset.cases], "val": []}
    by_name = {case.name: case for case in dataset.cases}
    train_cases = [by_name[name] for name in chosen["train"]]
    path = run / "manifest.json"
    if begun and path.exists():
        manifest = Manifest.from_dict(stored(path))
    else:
        manifest = (start.manifest if start else draft_manifest)(dataset, config, train_cases)
        if processes.first():
            replace_text(path, json.dumps(manifest.to_dict(), indent=1))

    pl.seed_everything(config.seed, workers=True, verbose=False)
    with explained(config, lambda: "loading the cases"):
        train = [prepare(case, manifest) for case in train_cases]
        if start is not None:
            train = start.train(train, manifest, dataset, device)
        val = [prepare(by_name[name], manifest) for name in chosen["val"]]
    _no_twins(train, val)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # advertisements, and what the next lines say
    steps, pace = len(Patches(train, config)), Pace()
    trainer = _trainer(run, config, device, steps, bool(val), layout, pace)
    kind = trainer.strategy.root_device.type
    data = Cases(train, val, config, loading_processes(config.workers, kind, layout.devices))
    module = Segmenter(manifest, config, steps, data.class_weights(len(manifest.labels)))
    if start is not None:
        start.parent.begin(module.network, manifest)
        module.memory = start.memory(config)
        module.told = [n for n, label in enumerate(manifest.labels) if n and label.value in dataset.labels]
    if kind == "cpu":
        keep_memory()
        module.channels_last = channels_last(module.network)
    with warnings.catch_warnings(), explained(config, lambda: module.doing):
        warnings.filterwarnings(
            "ignore",
            message=".*(does not have many workers|LeafSpec|exists and is not empty|multi-threaded|sync_dist).*",
        )
        _tell(trainer, module, data, last)
        trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=False)
        if trainer.is_global_zero:
            replace_tensors(run / "weights.pt", averaged_weights(run, manifest)[0])
            print(pace.words, flush=True)
    return run / "weights.pt"


def _no_twins(train: list[Prepared], val: list[Prepared]) -> None:
    """See that no image, voxel for voxel, both trains and validates under two names.

    Raises:
        DatasetError: One does.
    """
    seen = {hashlib.sha256(case.image.tobytes()).digest(): case.name for case in train}
    for case in val:
        if twin := seen.get(hashlib.sha256(case.image.tobytes()).digest()):
            raise DatasetError(
                f"Case '{case.name}' validates and is the same image as '{twin}', which trains: the figures would be too good. "
                "Remove one, or put both on one side in split.json."
            )


def _tell(trainer: pl.Trainer, module: Segmenter, data: Cases, last: Path) -> None:
    """What is about to be done, in a line."""
    if not processes.first():
        return
    world = trainer.world_size
    million = sum(p.numel() for p in module.network.parameters()) / 1e6
    print(
        f"{len(data.train)} case{'s' * (len(data.train) != 1)} train, {len(data.val)} validate; {module.config.network}, "
        f"{million:.1f} million parameters, on {f'{world} processes, ' if world > 1 else ''}{trainer.strategy.root_device} "
        f"in {trainer.precision}" + (f"; goes on from '{last}'" if last.exists() else ""),
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
    saved = load_checkpoint(chosen)
    network = {k.removeprefix("network."): v for k, v in saved["state_dict"].items() if k.startswith("network.")}
    return inference_state(network, manifest), int(saved["epoch"]) + 1


def _trainer(
    run: Path, config: FitConfig, device: str, steps: int, validates: bool, layout: Layout, pace: Pace
) -> pl.Trainer:
    live = sys.stderr.isatty()
    callbacks: list[Callback] = [pace, RichProgressBar() if live else EpochLines()]
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
        devices=layout.devices,
        num_nodes=layout.nodes,
        strategy=DDPStrategy(gradient_as_bucket_view=True) if layout.world > 1 else "auto",
        sync_batchnorm=layout.world > 1 and config.norm == "batch" and device != "cpu" and torch.cuda.is_available(),
        use_distributed_sampler=False,
        deterministic="warn" if config.deterministic else None,
        precision=_precision(device, config.precision),
        max_epochs=config.epochs,
        gradient_clip_val=config.gradient_clip or None,
        check_val_every_n_epoch=config.validate_every,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
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
