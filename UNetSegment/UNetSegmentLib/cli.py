"""The command line: ``unetsegment segment IMAGE ... -m MODEL -o OUT``, the engine without Slicer."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import __version__, cli_models, io, package
from .errors import InputError, UNetSegmentError

if TYPE_CHECKING:
    from .predict import Progress
    from .volume import LabelMap


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 1 after one line that says what is wrong, 130 on Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UNetSegmentError as error:
        print(f"unetsegment: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nunetsegment: stopped.", file=sys.stderr)
        return 130
    except Exception as error:  # a fault of ours: still one line, and the whole story with --debug
        if options.debug:
            raise
        text = " ".join(str(error).split())[:300]
        print(f"unetsegment: {type(error).__name__}: {text} (run again with --debug for details)", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unetsegment", description="Run U-Nets on 3D medical images.")
    parser.add_argument("--version", action="version", version=f"unetsegment {__version__}")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    segment = commands.add_parser("segment", help="segment an image with a model")
    segment.add_argument("image", nargs="+", help="one image per channel, in the model's order: a file or DICOM folder")
    segment.add_argument(
        "-m", "--model", required=True, help="a model's folder or zip, or the name of an installed model"
    )
    segment.add_argument("-o", "--output", required=True, help="label map to write: .seg.nrrd (for Slicer) or .nii.gz")
    segment.add_argument("--preview", metavar="PNG", help="also draw three slices and the surface")
    segment.add_argument(
        "--thumbnail", metavar="PNG", help="also draw the surface as a small picture, as models carry one"
    )
    segment.add_argument("--compare", metavar="LABELS", help="an expert's label map: print the Dice with it")
    segment.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps", "intel-gpu"),
        default="auto",
        help="where to compute (default: auto, an NVIDIA GPU where PyTorch has one, else the processor)",
    )
    segment.add_argument(
        "--backend", choices=("auto", "openvino", "torch"), default="auto", help="what computes (default: auto)"
    )
    segment.add_argument(
        "--mode",
        choices=("auto", "parity", "fast"),
        default="auto",
        help="auto: the fastest precision that gives the model's reference answer; parity: what the model's own "
        "framework does; fast: reduced precision, little overlap, no mirroring (default: auto)",
    )
    segment.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="average mirrored copies (default: in mode parity, for nnU-Net's models)",
    )
    segment.add_argument(
        "--folds",
        metavar="NAMES",
        default="all",
        help="which networks of a model with several to average: all, first, or names like 0,2 (default: all)",
    )
    segment.add_argument(
        "--region",
        metavar="I0:I1,J0:J1,K0:K1",
        help="label these voxels only, as a whole run would",
    )
    segment.add_argument("--skip-background", action="store_true", help="leave out patches that show nothing but air")
    segment.add_argument("--crop-to-body", action="store_true", help="cut the image to what is not air first")
    segment.add_argument("--threads", type=int, help="processor threads (default: all)")
    segment.add_argument("--series", metavar="UID", help="DICOM series to read, where a folder has several")
    segment.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    segment.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    segment.set_defaults(run=_segment)

    cli_models.add(commands)
    return parser


def _segment(options: argparse.Namespace) -> None:
    io.check_output(options.output)
    region = _region(options.region) if options.region else None
    pictures = [path for path in (options.preview, options.thumbnail) if path]
    for path in pictures:
        io.check_writable(path)
    if pictures:
        from . import preview
    model = package.load(package.from_shell(options.model))
    volumes = [io.read_volume(path, options.series) for path in options.image]
    expert = io.read_labelmap(options.compare) if options.compare else None
    if expert is not None and not volumes[0].grid.is_close(expert.grid, tolerance=0.01):
        raise InputError(
            f"'{options.compare}' is not on the grid of the image; compare with a label map of this image."
        )

    from .predict import Predictor, gather
    from .predict.sanity import check

    volume = gather(volumes, model.manifest)
    warnings = check(volumes, model.manifest)
    for warning in warnings:
        print(f"warning: {warning.message}", file=sys.stderr)
    show = not options.quiet and sys.stderr.isatty()
    began = time.perf_counter()
    how = (options.device, options.backend, options.threads, options.mode, options.mirror, options.folds)
    predictor = Predictor(model, *how)
    ready = time.perf_counter()
    prediction = predictor.predict(
        volume,
        progress=_bar if show else None,
        region=region,
        skip_background=options.skip_background,
        crop_to_body=options.crop_to_body,
        warnings=warnings,
    )
    seconds = time.perf_counter() - ready
    if show:
        print(file=sys.stderr)
    io.write_labelmap(options.output, prediction.labels)
    if options.preview:
        preview.draw(volumes[0], prediction.labels, options.preview, title=model.manifest.title)
    if options.thumbnail:
        preview.thumbnail(prediction.labels, options.thumbnail)
    if options.quiet:
        return
    ran = prediction.provenance
    where = f"{ran['device'].upper()}, {ran['backend']} {ran['precision']}, mode {ran['mode']}"
    print(_table(prediction.labels, expert))
    print(f"{seconds:.2f} s on {where} (+ {ready - began:.1f} s to load the model)")
    if ran["notes"]:
        print(ran["notes"])
    print("wrote " + " and ".join([options.output, *pictures]))


def _region(text: str) -> tuple[tuple[int, int], ...]:
    try:
        box = tuple(tuple(int(n) for n in part.split(":")) for part in text.split(","))
        ((_, _), (_, _), (_, _)) = box
    except ValueError:
        raise InputError(
            f"The region '{text}' cannot be read; write it as 10:60,20:80,0:40 (voxels along i,j,k)."
        ) from None
    return box


def _bar(progress: Progress) -> None:
    width = 30
    full = round(width * progress.fraction)
    print(f"\r[{'#' * full}{'-' * (width - full)}] {progress.message:<40}", end="", file=sys.stderr, flush=True)


def _table(labels: LabelMap, expert: LabelMap | None) -> str:
    from .volume import dice

    rows = []
    for label, volume in zip(labels.segments, labels.volumes_ml().values(), strict=True):
        row = f"{label.name:32} {volume:10.3f} ml"
        if expert is not None:
            row += f"   Dice {dice(labels.array == label.value, expert.array == label.value):.3f}"
        rows.append(row)
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
