"""nnU-Net's networks: our torch and OpenVINO forms against each other and against dynamic_network_architectures."""

import json

import numpy as np
import pytest
from peers import run_peer
from UNetSegmentLib.errors import PackageError
from UNetSegmentLib.package import UNetArchitecture
from UNetSegmentLib.package.architecture import check_shapes
from UNetSegmentLib.package.nnunet_network import read_network

SOLID = {"kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}
THIN = {"kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}
FLAT = {"kernel_sizes": [[3, 3]] * 3, "strides": [[1, 1], [2, 2], [2, 2]]}
PLAIN = {"n_conv_per_stage": [2, 1, 2], "n_conv_per_stage_decoder": [2, 1]}
RESIDUAL = {"n_blocks_per_stage": [1, 2, 2], "n_conv_per_stage_decoder": [1, 1]}
CASES = {
    "plain": ("PlainConvUNet", 3, {**SOLID, **PLAIN}),
    "plain thin": ("PlainConvUNet", 3, {**THIN, **PLAIN, "conv_bias": False}),
    "plain 2D": ("PlainConvUNet", 2, {**FLAT, **PLAIN, "norm": "batch"}),
    "plain rectifier first": ("PlainConvUNet", 3, {**SOLID, **PLAIN, "nonlin_first": True, "negative_slope": 0}),
    "plain without norm": ("PlainConvUNet", 3, {**SOLID, **PLAIN, "norm": "none"}),
    "plain norm without weights": ("PlainConvUNet", 3, {**SOLID, **PLAIN, "norm_affine": False}),
    "residual": ("ResidualEncoderUNet", 3, {**SOLID, **RESIDUAL, "stem_channels": 6}),
    "residual thin": ("ResidualEncoderUNet", 3, {**THIN, **RESIDUAL, "norm": "batch"}),
    "residual 2D": ("ResidualEncoderUNet", 2, {**FLAT, **RESIDUAL, "features_per_stage": [8, 8, 12]}),
}


def architecture(name, dimensions, arguments):
    return UNetArchitecture.of(
        name, {"features_per_stage": [6, 8, 12], "conv_bias": True, **arguments}, dimensions, 2, 3
    )


def weights(of, seed=0):
    rng = np.random.default_rng(seed)
    found = {}
    for key, shape in of.shapes().items():
        spread = (
            rng.uniform(0.5, 1.5, shape) if "norm" in key and not key.endswith("bias") else rng.normal(0, 0.3, shape)
        )
        found[key] = spread.astype(np.float32)
    return found


def in_torch(of, weights, image):
    torch = pytest.importorskip("torch")
    from UNetSegmentLib.predict.backends.unets import build

    network = build(of)
    network.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in weights.items()})
    with torch.inference_mode():
        return network.eval()(torch.from_numpy(image)).numpy()


def in_openvino(of, weights, image, exact=True):
    ov = pytest.importorskip("openvino")
    from UNetSegmentLib.predict.backends.openvino_graph import build

    model = build(of, weights, image.shape[2:], exact)
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image)[0]


@pytest.mark.parametrize("case", CASES)
def test_torch_and_openvino_give_one_answer(case):
    of = architecture(*CASES[case])
    image = np.random.default_rng(1).normal(size=(1, 2, *(8, 16, 24)[-of.dimensions :])).astype(np.float32)
    given = weights(of)
    expected = in_torch(of, given, image)
    assert expected.shape == (1, 3, *image.shape[2:]) and expected.std() > 0.01
    for exact in (True, False):
        found = in_openvino(of, given, image, exact)
        assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())


def test_instance_norm_is_exact_in_large_patches():
    """OpenVINO's own normalisation loses some 1e-5 per layer in patches of the usual size."""
    of = architecture("PlainConvUNet", 3, {**SOLID, **PLAIN})
    image = np.random.default_rng(1).normal(size=(1, 2, 96, 96, 96)).astype(np.float32)
    given = weights(of)
    expected = in_torch(of, given, image)
    assert np.abs(in_openvino(of, given, image) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("case", CASES)
def test_every_weight_matters(case):
    """An answer that ignored a weight would be another network's."""
    of = architecture(*CASES[case])
    image = np.random.default_rng(1).normal(size=(1, 2, *(8, 16, 24)[-of.dimensions :])).astype(np.float32)
    given = weights(of)
    before = in_torch(of, given, image)
    for key in of.shapes():
        if of.norm == "instance" and key.endswith("conv.bias") and not of.activate_first:
            continue  # the norm takes the mean away again
        changed = {**given, key: given[key] * 1.5 + 0.1}
        assert np.abs(in_torch(of, changed, image) - before).max() > 1e-6, key


def test_head_is_the_last_convolution_for_openvino():
    pytest.importorskip("openvino")
    from UNetSegmentLib.predict.backends.openvino_backend import _without_head
    from UNetSegmentLib.predict.backends.openvino_graph import build

    arguments = {"features_per_stage": [2, 4, 8], **SOLID, **PLAIN}
    of = UNetArchitecture.of("PlainConvUNet", arguments, 3, 1, 5)
    given = weights(of)
    model, head = _without_head(build(of, given, (8, 8, 8)))
    assert head is not None and model.outputs[0].partial_shape[1].get_length() == 2
    assert np.array_equal(head.weight, given[f"{of.head}.weight"].reshape(5, 2))
    assert np.array_equal(head.bias, given[f"{of.head}.bias"])


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"kernel_sizes": [[2, 2, 2]] * 3}, "kernel of even size"),
        ({"strides": [[2, 2, 2]] * 3}, "shrinks the image in its first stage"),
        ({"features_per_stage": [6, 8, 0]}, "whole numbers of 1 to 8192"),
        ({"features_per_stage": [6, 8, True]}, "whole numbers of 1 to 8192"),
        ({"features_per_stage": [8000, 8000, 8000]}, "more than 4,000,000,000 weights"),
        ({"features_per_stage": 8}, "needs 2 to 16 stages"),
        ({"n_conv_per_stage": [1, 1]}, "needs 3 numbers in n_conv_per_stage"),
        ({"norm": "group"}, "not one of instance, batch, none"),
        ({"norm_eps": "small"}, "a number of 0 to 1"),
        ({"conv_bias": 1}, "true or false"),
        ({"attention": True}, "does not know the argument 'attention'"),
    ],
)
def test_impossible_networks_are_refused(wrong, words):
    with pytest.raises(PackageError, match=words):
        architecture("PlainConvUNet", 3, {**SOLID, **PLAIN, **wrong})


def test_wrong_weights_are_named():
    of = architecture(*CASES["plain"])
    shapes = of.shapes()
    first = next(iter(shapes))
    for found, words in [
        ({key: shape for key, shape in shapes.items() if key != first}, "is missing"),
        ({**shapes, first: (1, 2)}, "has the shape 1 x 2 instead of"),
        ({**shapes, "extra": (1,)}, "no place for 'extra'"),
    ]:
        with pytest.raises(PackageError, match=words):
            check_shapes("Weights", shapes, found)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unets")
    run_peer("unet_answers", "dynamic_network_architectures", folder)
    return folder


@pytest.mark.slow
def test_networks_agree_with_dynamic_network_architectures(peer):
    """Weight for weight and output for output."""
    paths = sorted(peer.glob("*.npz"))
    assert len(paths) == 11
    for path in paths:
        with np.load(path) as arrays:
            facts = json.loads(str(arrays["facts"]))
            state = {key.removeprefix("w:"): arrays[key] for key in arrays.files if key.startswith("w:")}
            image, expected = arrays["input"], arrays["output"]
        how = {"architecture": {"network_class_name": f"a.{facts['name']}", "arch_kwargs": facts["arguments"]}}
        of, _ = read_network(how, facts["dimensions"], image.shape[1], facts["outputs"], False)
        given = {key: state[key] for key in of.shapes()}
        for key, value in given.items():
            assert value.shape == of.shapes()[key], key
        # what is left out is held twice, or is needed for training only
        values = {value.tobytes() for value in given.values()}
        rest = {key for key in state if key not in given and state[key].tobytes() not in values}
        assert all(key.endswith("num_batches_tracked") or key.startswith("decoder.seg_layers.0.") for key in rest), rest
        assert np.abs(in_torch(of, given, image) - expected).max() < 1e-4, path.name
        assert np.abs(in_openvino(of, given, image) - expected).max() < 1e-4, path.name
