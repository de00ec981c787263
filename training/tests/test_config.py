"""Settings: typed, checked as a whole, documented in one place; a mistake is one sentence that helps."""

import json
import re
from pathlib import Path

import pytest
from unetsegment_training.cli import main
from unetsegment_training.config import FitConfig, parse_setting
from unetsegment_training.dataset import DatasetError
from unetsegment_training.settings import AUGMENTATIONS, LOSSES, page


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat = 0.1", "no setting 'learning_rat'; did you mean 'learning_rate'?"),
        ("xyzzy = 1", "no setting 'xyzzy'."),
        ('network = "dynunett"', "network cannot be 'dynunett'.*did you mean 'dynunet'"),
        ("epochs = 0", "epochs cannot be '0'.*greater than or equal to 1"),
        ('epochs = "many"', "epochs cannot be 'many'"),
        ("dropout = 1.0", "dropout cannot be"),
        ("fold = 7", "Fold 7 does not exist"),
        ("patch = [17, 16, 16]", "multiple of 8"),
        ("patch = [16, 16]", "has 2 numbers; a 3D network needs 3"),
        ("filters = [8, 16]", "needs three or more numbers in filters"),
        ('network = "unet2015"', "unet2015 needs 5 numbers in filters"),
        ('network = "swin-unetr"\nfilters=[10, 10]\npatch=[32, 32, 32]', "multiple of 12"),
        ('network = "segresnet"\nnorm = "none"', "segresnet has no norm 'none'"),
        ("strides = [[1, 1, 1], [2, 2, 2]]", "strides must have 4 rows"),
        ("fold = -1\nearly_stopping = 3", "early_stopping needs validation cases"),
        ("dimensions = 2\npatch = [16, 16]\nmirror_axes = [2]", "mirror_axes names axis 2"),
        ("patch = [8, 8, 8]", "leaves one voxel in the lowest stage"),
        ("epochs", "is not TOML"),
    ],
)
def test_mistakes_are_one_sentence(text, words, tmp_path):
    path = tmp_path / "fit.toml"
    path.write_text(text)
    with pytest.raises(DatasetError, match=words) as caught:
        FitConfig.read(path)
    assert "\n" not in str(caught.value)


def test_a_patch_that_does_not_go_through_names_one_that_does():
    with pytest.raises(DatasetError, match="570 does not go through.*572 does and answers 388"):
        FitConfig(network="unet2015-valid", filters=(4,) * 5, norm="none", dimensions=2, patch=(570, 572))


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = tmp_path / "fit.toml"
    path.write_text('epochs = 7\nloss = "tversky"\nbatch = 3\n')
    config = FitConfig.read(path, {"epochs": 9}, batch=8, seed=5)
    assert (config.epochs, config.loss, config.batch, config.seed) == (9, "tversky", 3, 5)
    with pytest.raises(DatasetError, match="cannot be read"):
        FitConfig.read(tmp_path / "none.toml")


def test_settings_of_the_command_line():
    assert parse_setting("patch=[1, 2]") == ("patch", [1, 2])
    assert parse_setting("loss = dice") == ("loss", "dice")
    assert parse_setting("elastic=0.5") == ("elastic", 0.5)
    with pytest.raises(DatasetError, match="not of the form"):
        parse_setting("loss")


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(tmp_path):
    old = {"fold": 0, "epochs": 55, "filters": [16, 32, 64, 128], "patch": [40, 56, 40], "batch": 4}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(old | {"learning_rate": 2e-3, "weight_decay": 3e-5, "ema_decay": 0.995, "seed": 0}))
    assert FitConfig.load(path) == FitConfig(epochs=55)
    FitConfig(epochs=60).store(path)
    with pytest.raises(DatasetError, match="loss = dice_ce, now tversky"):
        FitConfig(loss="tversky").store(path)


def test_every_setting_is_documented_and_the_page_is_current():
    text = page()
    assert all(f"`{name}`" in text and field.description for name, field in FitConfig.model_fields.items())
    schema = FitConfig.model_json_schema()["properties"]
    assert set(LOSSES) == set(schema["loss"]["enum"]) and set(AUGMENTATIONS) == set(schema["augmentation"]["enum"])
    stored = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert stored.read_text("utf-8") == text, "run: unetsegment-train settings > docs/configuration.md"


@pytest.mark.parametrize("name", ["configuration.md", "training.md"])
def test_examples_in_the_documents_are_valid(name, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / name).read_text("utf-8")
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        (tmp_path / "fit.toml").write_text(example)
        FitConfig.read(tmp_path / "fit.toml")


def test_a_wrong_setting_stops_the_command_before_the_data_are_read(capsys):
    assert main(["fit", "nowhere", "run", "--set", "los=dice"]) == 1
    assert capsys.readouterr().err == "unetsegment-train: There is no setting 'los'; did you mean 'loss'?\n"
