"""The page that documents every setting, written from the settings themselves."""

from __future__ import annotations

from typing import Any

from .config import FEW, FitConfig
from .network import KINDS

LOSSES = {
    "bce": "binary cross-entropy of each class against the rest",
    "ce": "cross-entropy, with `class_weights`",
    "dice": "soft Dice of the foreground classes over the batch (Milletari et al. 2016; nnU-Net's form)",
    "dice_ce": "soft Dice + cross-entropy, 1 : 1, nnU-Net's loss",
    "dice_focal": "soft Dice + focal loss of the foreground classes (Lin et al. 2017)",
    "tversky": "Dice with separate weights of false positives and false negatives (Salehi et al. 2017)",
    "border_ce": "cross-entropy times the weight map of Ronneberger et al. 2015, high in the gap between two objects. "
    "Objects are connected pieces of foreground: a label must leave a line of background between touching ones",
}
AUGMENTATIONS = {
    "none": "no change but `elastic` and `mirror_axes`",
    "light": "rotation p 0.5 (20 degrees per axis), scaling p 0.5 (0.8 to 1.25), shift (6 %), mirroring of the first axis "
    "p 0.5, noise p 0.15, brightness p 0.2, blur p 0.2, contrast p 0.15, gamma p 0.3: the bundled model's recipe",
    "nnunet": "nnU-Net's: rotation p 0.2 (30 degrees per axis; 180 in 2D and in the plane of flat patches), scaling p 0.2 "
    "(0.7 to 1.4), noise p 0.1 (variance to 0.1), blur p 0.2 (sigma 0.5 to 1, each channel p 0.5), brightness p 0.15 "
    "(0.75 to 1.25), contrast p 0.15 (0.75 to 1.25), low resolution p 0.25 (0.5 to 1, each channel p 0.5), gamma of the "
    "inverted image p 0.1 and gamma p 0.3 (0.7 to 1.5), mirroring of every axis p 0.5; cut from a larger crop",
}
TUNING = """## Defaults with `--from`

A run that starts from a model takes network, patch, spacing, normalisation and labels from it, mirrors only the axes along
which the model may be mirrored, and has these defaults, which suit few cases. Every one of them can be set as usual.

| setting | with `--from` | otherwise |
|---|---|---|
"""
HEAD = """# Settings of `unetsegment-train fit`

Written by `unetsegment-train settings > docs/configuration.md` from the settings' own descriptions; a test keeps it current.

```
unetsegment-train fit DATASET RUN --config fit.toml --set loss=tversky --epochs 200
```

`fit.toml` has one line per setting that differs from its default; what is given on the command line wins over the file. All
settings of a run are stored in `RUN/config.json`; once an epoch is done a run goes on with the same ones only (`epochs`,
`validate_every`, `early_stopping`, `precision`, `checkpointing`, `workers` and `deterministic` may change). An unknown name is an error that names the closest setting. For example:

```toml
network = "unet2015"
dimensions = 2
filters = [64, 128, 256, 512, 1024]
patch = [256, 256]
norm = "batch"
loss = "border_ce"
augmentation = "nnunet"
elastic = 0.5
optimizer = "sgd"
learning_rate = 0.01
schedule = "poly"
```
"""


def page() -> str:
    """The whole page, Markdown."""
    fields = FitConfig.model_json_schema()["properties"]
    parts = [HEAD]
    for group in dict.fromkeys(field["group"] for field in fields.values()):
        rows = [(name, field) for name, field in fields.items() if field["group"] == group]
        parts.append(f"## {group}\n\n| setting | default | values | meaning |\n|---|---|---|---|")
        parts[-1] += "".join(
            f"\n| `{name}` | {_code(field.get('default'))} | {_values(field)} | {field['description'].replace('|', '/')} |"
            for name, field in rows
        )
        parts[-1] += "\n"
    few = "\n".join(
        f"| `{name}` | {_code(value)} | {_code(fields[name].get('default'))} |" for name, value in FEW.items()
    )
    parts.append(TUNING + few + "\n")
    parts.append(_networks())
    parts.append(_table("Losses", "loss", LOSSES))
    parts.append(_table("Augmentation presets", "augmentation", AUGMENTATIONS))
    return "\n".join(parts)


def _networks() -> str:
    rows = []
    for name, kind in KINDS.items():
        stages = {-1: "the first", 0: "three or more"}.get(kind.stages, str(kind.stages))
        multiple = str(kind.multiple) if kind.multiple else "the strides' product"
        multiple = "188, 204, 220, ..." if name == "unet2015-valid" else f"multiples of {multiple}"
        norms = ", ".join(f"`{norm}`" for norm in kind.norms) or "its own"
        rows.append(f"| `{name}` | {kind.words} (`{kind.monai}`) | {stages} | {multiple} | {norms} |")
    head = "## Networks\n\n| name | what | `filters` used | `patch` | `norm` |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _table(title: str, name: str, rows: dict[str, str]) -> str:
    lines = [f"| `{key}` | {words} |" for key, words in rows.items()]
    return f"## {title}\n\n| `{name}` | what |\n|---|---|\n" + "\n".join(lines) + "\n"


def _code(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        value = float(f"{value:.4g}")
    return f"`{value}`" if not isinstance(value, bool) else f"`{str(value).lower()}`"


def _values(field: dict[str, Any]) -> str:
    """Choices, or the type with its range."""
    options = field.get("anyOf", [field])
    options = [option for option in options if option.get("type") != "null"]
    return " or ".join(_one(option) for option in options)


def _one(field: dict[str, Any]) -> str:
    if "enum" in field or "const" in field:
        return ", ".join(f"`{choice}`" for choice in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        inner = field.get("items", {}).get("type", "number")
        if "$ref" in field.get("items", {}):
            return "tables"
        return {"array": "rows of numbers", "string": "texts"}.get(inner, "numbers")
    kind = {"integer": "integer", "number": "number", "boolean": "true, false"}.get(str(field.get("type")), "")
    low, high = field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum", field.get("exclusiveMaximum"))
    more = "> " if "exclusiveMinimum" in field else ">= "
    less = "< " if "exclusiveMaximum" in field else "<= "
    ranges = [f"{sign}{limit:g}" for sign, limit in ((more, low), (less, high)) if limit is not None]
    return " ".join([kind, ", ".join(ranges)]).strip()
