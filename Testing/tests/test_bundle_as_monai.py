"""The labels of MONAI bundles are those of stock MONAI, which runs the configuration's own objects."""

import json

import numpy as np
import pytest
from synthetic import bundles
from synthetic.bundles import ARGMAX, HALF, INVERT, LAST, NEAREST, SIGMOID, SOFTMAX, pre, t
from UNetSegmentLib import package

pytestmark = pytest.mark.usefixtures("cache")


def agreement(folder, config, values=1, size=(40, 25, 33)) -> float:
    """Share of equal voxels with MONAI running the configuration's own objects on the same random weights and image."""
    torch = pytest.importorskip("torch")
    monai_bundle = pytest.importorskip("monai.bundle")
    nibabel = pytest.importorskip("nibabel")
    from scipy import ndimage
    from UNetSegmentLib.io import read_volume
    from UNetSegmentLib.predict import Predictor, gather

    config["postprocessing"]["transforms"] = [
        step for step in config["postprocessing"]["transforms"] if step["_target_"] != "SaveImaged"
    ]
    bundles.write(folder, config)
    rng = np.random.default_rng(7)
    affine = np.array([[0, 0, 1.9, 5], [-1.1, 0, 0, 9], [0, -1.4, 0, 3], [0, 0, 0, 1.0]])
    files = []
    for number in range(values):
        image = ndimage.gaussian_filter(rng.standard_normal(size), 2)
        image = np.where(np.indices(size)[0] < 6, 0, image / image.std() * 90 + 60).astype(np.float32)
        files.append(folder / f"{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(image, affine), files[-1])
    torch.manual_seed(3)
    parser = monai_bundle.ConfigParser(json.loads(json.dumps(config)))
    network = parser.get_parsed_content("network_def").eval()
    names = [str(file) for file in files]
    data = parser.get_parsed_content("preprocessing")({"image": names if values > 1 else names[0]})
    with torch.inference_mode():
        answer = parser.get_parsed_content("inferer")(data["image"][None], network)
        last = [m for m in network.modules() if hasattr(m, "out_channels") and m.out_channels == answer.shape[1]][-1]
        last.bias -= answer.mean([0, *range(2, answer.ndim)]).as_tensor()
        answer = parser.get_parsed_content("inferer")(data["image"][None], network)
    torch.save({"model": network.state_dict(), "epoch": 3}, folder / "models" / "model.pt")
    data["pred"] = answer[0]
    steps = parser.get_parsed_content("postprocessing")
    theirs = np.rint(np.asarray(steps(data)["pred"])).astype(int)[0]
    loaded = package.load(folder)
    ours = Predictor(loaded, device="cpu", backend="torch").predict(
        gather([read_volume(file) for file in files], loaded.manifest)
    )
    assert len(np.unique(theirs)) > 1
    return float((ours.labels.array == theirs).mean())


def test_probabilities_then_labels_as_monai_has_them(tmp_path):
    assert agreement(tmp_path / "b", bundles.inference(inferer__mode="gaussian")) > 0.999


def test_labels_then_nearest_with_a_chain_and_edge_padding_as_monai_has_them(tmp_path):
    config = bundles.inference(**{LAST: [SOFTMAX, ARGMAX, NEAREST]}, inferer__padding_mode="replicate")
    config["patch"] = [48, 48, 32]
    config["preprocessing"]["transforms"][4] = t("NormalizeIntensityd", nonzero=True)
    config["preprocessing"]["transforms"].append(t("ScaleIntensityd", minv=-1.0, maxv=1.0))
    assert agreement(tmp_path / "b", config) > 0.999


def test_a_late_crop_as_monai_has_it(tmp_path):
    config = bundles.inference()
    config["preprocessing"]["transforms"].insert(5, t("CropForegroundd", source_key="image"))
    config["preprocessing"]["transforms"][4]["a_min"] = 30
    assert agreement(tmp_path / "b", config) > 0.999


def test_regions_as_monai_has_them(tmp_path):
    choice = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"
    config = bundles.inference(**{LAST: [SIGMOID, INVERT, HALF, t("Lambdad", keys="pred", func=choice)]})
    config["network_def"]["in_channels"] = 2
    config["preprocessing"]["transforms"] = [t("LoadImaged"), t("NormalizeIntensityd", nonzero=True, channel_wise=True)]
    assert agreement(tmp_path / "b", config, values=2) > 0.999


def test_slices_as_monai_has_them(tmp_path):
    config = pre(t("ScaleIntensityd"))
    config["network_def"]["spatial_dims"] = 2
    config["inferer"] = {"_target_": "SliceInferer", "roi_size": [32, 16], "spatial_dim": 2}
    assert agreement(tmp_path / "b", config) > 0.999


def test_components_on_the_networks_grid_as_monai_has_them(tmp_path):
    keep = t("KeepLargestConnectedComponentd", keys="pred", applied_labels=[1, 2])
    assert agreement(tmp_path / "b", bundles.inference(**{LAST: [ARGMAX, keep, NEAREST]})) > 0.999
