"""Stock MONAI on one of our packages: its own ``inference.json`` up to argmax, logits inverted as floats."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from benchmarks.serve import Stopwatch, gpu_memory, serve, stage

_state: dict[str, Any] = {}


def load(package: str, device: str, threads: int) -> dict[str, Any]:
    """Import MONAI and build network, inferer and transforms from the bundle."""
    with stage("load"):
        import torch
        from monai.bundle import ConfigParser
        from monai.transforms import Compose

        torch.set_num_threads(threads)
        os.chdir(package)
        parser = ConfigParser()
        parser.read_config("configs/inference.json")
        parser["device"] = f"$torch.device('{device}')"
        steps = parser["postprocessing"]["transforms"]
        network = parser.get_parsed_content("network").eval()
        network.load_state_dict(torch.load("models/model.pt", map_location=device, weights_only=True))
        inferer = parser.get_parsed_content("inferer")
        before = parser.get_parsed_content("preprocessing")
        # The array is in memory already: what reads the file and its header stays out, for every contender.
        before = Compose([step for step in before.transforms if "Load" not in type(step).__name__])
        after = _after([step for step in steps if step["_target_"] != "SaveImaged"], before)
    watch = Stopwatch()
    network = watch.around(network) if device == "cpu" else network  # a GPU works on while the call returns
    _state.update(network=network, watch=watch, inferer=inferer, before=before, after=after, device=device)
    return {"torch": torch.__version__}


def _after(steps: list[dict[str, Any]], before: Any) -> Any:
    """The bundle's post-processing, tied to the pre-processing that ran."""
    from monai import transforms

    made = []
    for step in steps:
        arguments = {key: value for key, value in step.items() if key not in ("_target_", "transform")}
        if step["_target_"] == "Invertd":
            arguments["transform"] = before
        made.append(getattr(transforms, step["_target_"])(**arguments))
    return transforms.Compose(made)


def predict(image: str, affine: list[list[float]], out: str) -> dict[str, Any]:
    """Segment the (C, I, J, K) array in a file, from memory to memory."""
    import torch
    from monai.data import MetaTensor, decollate_batch

    array = np.load(image).astype(np.float32)
    _state["watch"].take()
    with stage("predict"), torch.inference_mode():
        item = {"image": MetaTensor(torch.from_numpy(array), affine=torch.tensor(affine, dtype=torch.float64))}
        item["image"].meta["original_channel_dim"] = 0
        item = _state["before"](item)
        batch = item["image"][None].to(_state["device"])
        item["pred"] = decollate_batch(_state["inferer"](batch, _state["network"]))[0]
        labels = _state["after"](item)["pred"][0].cpu().numpy().astype(np.uint8)
    network = _state["watch"].take() | gpu_memory()
    np.save(out, labels)
    return {"network": network}


if __name__ == "__main__":
    serve({"load": load, "predict": predict})
