"""When memory is short the engine steps down, keeps what is done, and takes no more than a ring of rows to begin with."""

import tracemalloc

import numpy as np
import pytest
from synthetic import packages
from synthetic.images import blobs
from synthetic.packages import labels_for, random_linear
from UNetSegmentLib import package
from UNetSegmentLib.errors import BackendError
from UNetSegmentLib.predict.backends import choose, is_installed
from UNetSegmentLib.predict.ensemble import Ensemble
from UNetSegmentLib.predict.export import Decision, export
from UNetSegmentLib.predict.head import Head
from UNetSegmentLib.predict.interpolate import Lerp
from UNetSegmentLib.predict.ladder import Ladder, is_out_of_memory, smaller_patch
from UNetSegmentLib.predict.stitch import Stitcher
from UNetSegmentLib.predict.tiles import Tiling, weights

pytestmark = pytest.mark.skipif(
    not (is_installed("openvino") and is_installed("onnx")), reason="openvino or onnx is not installed"
)


class Scarce:
    """A network on a device with little memory: it fails as the libraries do when asked for more voxels than fit."""

    def __init__(self, real, voxels, error):
        self.real, self.voxels, self.error = real, voxels, error

    def __getattr__(self, name):
        return getattr(self.real, name)

    def run(self, patches, tick):
        if patches[:, 0].size > self.voxels:
            raise self.error
        return self.real.run(patches, tick)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")])
@pytest.mark.parametrize(
    ("voxels", "words"),
    [(16 * 24 * 16, "one patch was computed"), (5000, "patches of 16 x 16 x 16"), (10, "processor took over")],
)
def test_short_memory_steps_down_and_keeps_what_is_done(tmp_path, error, voxels, words):
    model = package.load(
        packages.linear_package(tmp_path / "m", [random_linear(3, seed=6, size=1)], labels=labels_for(3))
    )
    manifest, place = model.manifest, choose(model, "cpu", "openvino")
    window = manifest.inference
    image = blobs((50, 40, 30))

    def open_(device, patch):
        real = place.open(model, "fp32", patch=patch)
        return Ensemble([real if device == "cpu" else Scarce(real, voxels, error)])

    tiling = Tiling.cover(image.shape[1:], window.patch_size, window.overlap)
    weight, background = weights(tiling.patch, window), np.zeros(3, np.float32)
    rich = Ensemble([place.open(model, "fp32")])
    expected = [
        s.copy() for _, s in Stitcher(tiling, weight, lambda x, _: rich.run(x, lambda: None), background)(image)
    ]

    ladder = Ladder(open_, tiling.patch, window, lambda: None, batch=4, can_leave=True)
    got = [s.copy() for _, s in Stitcher(tiling, weight, ladder, background, batch=4)(image)]
    assert [s.shape for s in got] == [s.shape for s in expected]
    for one, two in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
    assert any(words in note for note in ladder.notes), ladder.notes


def test_no_memory_at_all_is_a_sentence(tmp_path):
    model = package.load(packages.linear_package(tmp_path / "m", [random_linear(3)], labels=labels_for(3)))
    place = choose(model, "cpu", "openvino")
    ladder = Ladder(
        lambda device, patch: Ensemble([Scarce(place.open(model, "fp32", patch=patch), 0, MemoryError())]),
        (16, 24, 16),
        model.manifest.inference,
        lambda: None,
    )
    with pytest.raises(BackendError, match="not enough memory"):
        ladder(np.zeros((1, 1, 16, 24, 16), np.float32), lambda: False)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert smaller_patch((128, 128, 128)) == (64, 64, 64) and smaller_patch((40, 56, 40)) == (24, 32, 24)
    assert smaller_patch((16, 20, 16)) is None


def test_other_errors_are_not_swallowed(tmp_path):
    model = package.load(packages.linear_package(tmp_path / "m", [random_linear(3)], labels=labels_for(3)))
    place = choose(model, "cpu", "openvino")
    ladder = Ladder(
        lambda device, patch: Ensemble([Scarce(place.open(model, "fp32", patch=patch), 0, RuntimeError("a bug"))]),
        (16, 24, 16),
        model.manifest.inference,
        lambda: None,
    )
    with pytest.raises(RuntimeError, match="a bug"):
        ladder(np.zeros((1, 1, 16, 24, 16), np.float32), lambda: False)


def test_sums_on_a_device_move_to_main_memory_without_loss():
    torch = pytest.importorskip("torch")
    image = blobs((40, 20, 20))
    tiling = Tiling.cover(image.shape[1:], (12, 12, 12), 0.5)
    weight = np.random.default_rng(0).random(tiling.patch).astype(np.float32) + 0.1
    calls = 0

    def run(patches, relieve):
        nonlocal calls
        calls += 1
        if calls == 12:
            assert relieve() and not relieve()
        answer = torch.from_numpy(np.concatenate([patches * 2, patches**2], axis=1))
        return answer if calls < 20 else answer.numpy()  # and at last the processor takes over

    head = Head(np.float32([[1, 0], [0, 1], [1, 1]]), np.float32([0, 1, 2]))
    pieces = list(Stitcher(tiling, weight, run, np.zeros(3, np.float32), head=head)(image))
    assert not isinstance(pieces[0][1], np.ndarray) and isinstance(pieces[-1][1], np.ndarray)
    whole = np.concatenate([np.asarray(piece) for _, piece in pieces], axis=1)
    expected = np.concatenate([image * 2, image**2 + 1, image * 2 + image**2 + 2])
    np.testing.assert_allclose(whole, expected, atol=1e-4)
    labels = export(pieces, [Lerp.edges(n, 2 * n) for n in tiling.shape], Decision(np.arange(3), np.arange(3)))
    assert labels.shape == (80, 40, 40)


def test_memory_is_flat_in_the_number_of_slices():
    """Sums and outputs of 24 classes: doubling the slices may add the input and the labels, and no more."""
    patch, plane, classes = (8, 32, 32), (48, 48), 24
    table = np.arange(classes, dtype=np.uint8)
    mixer = np.random.default_rng(0).standard_normal((classes, 1)).astype(np.float32)

    def peak(slices):
        image = blobs((slices, *plane))
        tiling = Tiling.cover(image.shape[1:], patch, 0.5)

        def run(x, _):
            return np.einsum("fc,ncxyz->nfxyz", mixer, x)

        stitch = Stitcher(tiling, np.ones(patch, np.float32), run, np.zeros(classes, np.float32))
        ways = [Lerp.edges(n, int(1.5 * n)) for n in tiling.shape]
        tracemalloc.start()
        labels = export(stitch(image), ways, Decision(table, np.arange(classes)), threads=1, compiled=False)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used, labels.nbytes, image.nbytes

    peak(16)
    (small, few, image), (large, many, more) = peak(64), peak(128)
    assert large - small <= (many - few) + (more - image) + 100_000
    assert large < classes * 128 * 48 * 48 * 4 / 3  # far below one array of all outputs
