"""Catalogs: ours is sound and true to its schema; others' bad entries are refused by name, and never more than that."""

from __future__ import annotations

import copy
import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic.catalogs import write
from synthetic.server import serve
from UNetSegmentLib import cli
from UNetSegmentLib.errors import DownloadError, PackageError, UNetSegmentError
from UNetSegmentLib.package import addresses, catalog, package, schema

ROOT = Path(__file__).resolve().parents[2]
OURS = ROOT / "Resources" / "Catalog" / "catalog.json"
SCHEMA = json.loads(OURS.with_name("catalog.schema.json").read_text("utf-8"))
RAW = json.loads(OURS.read_text("utf-8"))


pytestmark = pytest.mark.usefixtures("cache")


def good(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(next(item for item in RAW["models"] if item["kind"] == "monai-bundle")) | changes


def test_ours_is_sound() -> None:
    found = catalog.load()
    assert found.remarks == () and len(found.entries) == len(RAW["models"]) > 50
    kinds = [entry.kind for entry in found.entries.values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"unetsegment": 1, "monai-bundle": 12, "nnunet-v2": 42}
    for entry in found.entries.values():
        assert len(set(entry.labels)) == len(entry.labels), entry.name
        assert entry.bundled or entry.url.startswith("https://")
        assert entry.raw["licence"]["clinical_use"] is not True  # nobody of them claims that
        assert entry.raw["citation"] or entry.name == "pediatric-abdominal-ct-segmentation"
        if entry.kind == "monai-bundle":
            assert set(entry.hashes) == {"sha1"}
    assert len({entry.url for entry in found.entries.values()}) == len(found.entries)


def test_the_bundled_entry_says_what_the_manifest_says() -> None:
    entry = catalog.load().entry("hippocampus-mr-t1")
    manifest = package.load(entry.name).manifest
    assert (entry.version, entry.title, entry.licence) == (manifest.version, manifest.title, manifest.licence)
    assert entry.labels == tuple(label.name for label in manifest.segments)
    measured = {one["label"]: one["dice"] for one in entry.raw["dice"]["labels"]}
    names = {label.value: label.name for label in manifest.labels}
    assert measured == {names[metric["label"]]: metric["dice"] for metric in manifest.metrics}


def test_the_example_in_the_documents_is_sound(tmp_path: Path) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "models.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "c.json").write_text(example, "utf-8")
    entries, refused = catalog.read(tmp_path / "c.json")
    assert [entry.name for entry in entries] == ["our-liver-ct"] and refused == []


def test_jsonschema_agrees_about_ours_and_about_bad_ones() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    whole = jsonschema.Draft202012Validator(SCHEMA)
    one = jsonschema.Draft202012Validator({**SCHEMA["$defs"]["model"], "$defs": SCHEMA["$defs"]})
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert whole.is_valid(RAW) and all(one.is_valid(item) for item in RAW["models"])
    for changes in BAD.values():
        item = good(**changes)
        ours = not any(schema.problems(item, SCHEMA["$defs"]["model"], SCHEMA))
        assert ours == one.is_valid(item), changes


BAD: dict[str, dict[str, Any]] = {
    "name: .*evil": {"name": "../evil"},
    "name: .*trailing": {"name": "trailing."},
    "name: .*line": {"name": "line\n"},
    "name: .*Upper": {"name": "Upper"},
    "name: 5": {"name": 5},
    "version": {"version": "1/../2"},
    "title": {"title": ""},
    "task": {"task": "two\nlines"},
    "kind": {"kind": "pickle"},
    "modality": {"modality": []},
    r"modality\[0\]": {"modality": ["MRI"]},
    r"channels\[0\]": {"channels": ["\x1b[2J"]},
    r"labels\[0\]": {"labels": [3]},
    "size: -1": {"size": -1},
    "size: 1.5": {"size": 1.5},
    "size: true": {"size": True},
    "licence": {"licence": "MIT"},
    "'commercial_use' is missing": {"licence": {"name": "MIT", "clinical_use": None}},
    "licence.clinical_use": {"licence": {"name": "MIT", "clinical_use": "yes", "commercial_use": None}},
    "dice.mean": {"dice": {"mean": 1.5, "source": "x"}},
    "seconds.cpu": {"seconds": {"cpu": 0, "on": "x"}},
    "download.*'sha256' is missing": {"download": {"url": "https://x.org/a.zip"}},
    "download.url": {"download": {"url": "file:///etc/passwd", "sha256": None}},
    "download.url: .*space": {"download": {"url": "https://x.org/a space", "sha256": None}},
    "download.sha256": {"download": {"url": "https://x.org/a.zip", "sha256": "abc"}},
    "download.*known entry|download.*missing": {
        "download": {"url": "https://x.org/a", "sha256": None, "bundled": True}
    },
    "'surprise' is not a known entry": {"surprise": 1},
}


@pytest.mark.parametrize("words", list(BAD))
def test_a_bad_entry_is_refused_by_name_and_field_and_the_others_stay(tmp_path: Path, words: str) -> None:
    item = good(**BAD[words])
    entries, refused = catalog.read(write(tmp_path / "c.json", good(name="first"), item, good(name="last")))
    assert [entry.name for entry in entries] == ["first", "last"]
    (sentence,) = refused
    assert sentence.startswith("Entry ") and "of the catalog 'Clinic' was refused: " in sentence
    assert re.search(words, sentence), sentence
    assert sentence.isprintable() and len(sentence) < 500


@pytest.mark.parametrize("item", [None, 5, "text", [], {}, {"name": "x"}, {"name": "\x1b]0;evil\x07"}])
def test_what_is_no_entry_at_all(tmp_path: Path, item: Any) -> None:
    entries, refused = catalog.read(write(tmp_path / "c.json", item))
    assert entries == [] and len(refused) == 1 and refused[0].isprintable()


@pytest.mark.parametrize("name", ["con", "nul.zip", "lpt1"])
def test_names_of_devices(tmp_path: Path, name: str) -> None:
    _, (sentence,) = catalog.read(write(tmp_path / "c.json", good(name=name)))
    assert "device on Windows" in sentence


def test_only_ours_can_be_bundled(tmp_path: Path) -> None:
    _, (sentence,) = catalog.read(write(tmp_path / "c.json", good(download={"bundled": True})))
    assert "bundled" in sentence


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "not of type object"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"catalog_version": "2.0", "new": 1}', "version 2.0, newer than"),
        ('{"catalog_version": "1.0", "title": "x"}', "'models' is missing"),
        ('{"catalog_version": "1.0", "title": "x", "models": {}}', "models"),
        ('{"catalog_version": 1, "title": "x", "models": []}', "catalog_version"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        ('{"catalog_version": "1.0", "title": "x", "models": [%s]}' % ("[" * 900 + "]" * 900), None),
        ("\ufeff{}", "is not JSON"),
    ],
)
def test_a_file_that_is_no_catalog(tmp_path: Path, content: str, words: str | None) -> None:
    path = tmp_path / "c.json"
    path.write_text(content, "utf-8")
    if words is None:
        assert len(catalog.read(path)[1]) == 1
        return
    with pytest.raises(PackageError, match=words) as caught:
        catalog.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_a_large_and_a_binary_file(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="cannot be read"):
        catalog.read(tmp_path / "gone.json")
    (tmp_path / "big.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(PackageError, match="larger than"):
        catalog.read(tmp_path / "big.json")
    (tmp_path / "bin.json").write_bytes(b"\xff\x00")
    with pytest.raises(PackageError, match="not UTF-8"):
        catalog.read(tmp_path / "bin.json")


def test_the_later_catalog_wins_and_it_is_said(tmp_path: Path, cache: Path) -> None:
    write(cache / "catalogs" / "clinic.json", good(name="spleen-ct-segmentation", version="9.0"))
    extra = write(tmp_path / "extra.json", good(name="spleen-ct-segmentation", version="10.0"), title="Extra")
    found = catalog.load([str(extra)])
    assert found.entry("spleen-ct-segmentation").version == "10.0"
    assert [remark for remark in found.remarks if "replaces" in remark] == [
        "Model 'spleen-ct-segmentation' 9.0 of the catalog 'Clinic' replaces 0.5.9 of 'UNetSegment'.",
        "Model 'spleen-ct-segmentation' 10.0 of the catalog 'Extra' replaces 9.0 of 'Clinic'.",
    ]


def test_a_bad_catalog_does_not_take_ours_away(tmp_path: Path, cache: Path) -> None:
    (cache / "catalogs").mkdir(parents=True)
    (cache / "catalogs" / "bad.json").write_text("{")
    found = catalog.load([str(tmp_path / "gone.json"), "https://"])
    assert len(found.entries) == len(RAW["models"]) and len(found.remarks) == 3


def test_a_catalog_by_address(tmp_path: Path) -> None:
    pytest.importorskip("requests")
    with serve(write(tmp_path / "c.json", good(name="far-away")).read_bytes()) as server:
        assert catalog.read(server.url)[0][0].name == "far-away"
        server.script = ["404"]
        with pytest.raises(DownloadError, match="answered 404"):
            catalog.read(server.url)
        server.content = b"<html>"
        with pytest.raises(PackageError, match="is not JSON"):
            catalog.read(server.url)
    with pytest.raises(DownloadError, match="neither encryption"):
        catalog.read("http://example.org/c.json")


def test_search_by_words() -> None:
    entries = catalog.load().entries
    assert entries["spleen-ct-segmentation"].matches(["SPLEEN", "ct"])
    assert entries["totalsegmentator-total-organs"].matches(["kidney_left"])
    assert not entries["spleen-ct-segmentation"].matches(["spleen", "mr"])


def test_an_unknown_name_gets_a_hint() -> None:
    with pytest.raises(PackageError, match="did you mean .*spleen-ct-segmentation"):
        catalog.load().entry("spleen")
    with pytest.raises(PackageError, match="models search"):
        catalog.load().entry("no such thing")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(string.printable, max_size=10), inner, max_size=4)
    ),
    max_leaves=20,
)
KEYS = st.sampled_from(sorted(SCHEMA["$defs"]["model"]["properties"]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON)
def test_any_json_gives_entries_or_sentences(tmp_path: Path, content: Any) -> None:
    check(tmp_path, json.dumps(content))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(KEYS, JSON, max_size=5) | JSON, max_size=4), st.booleans())
def test_any_entries_give_entries_or_sentences(tmp_path: Path, changes: list[Any], whole: bool) -> None:
    models = [good(**change) if whole and isinstance(change, dict) else change for change in changes]
    check(tmp_path, json.dumps({"catalog_version": "1.0", "title": "Fuzz", "models": models}))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 3000), st.integers(0, 50))
def test_any_damage_gives_entries_or_sentences(tmp_path: Path, noise: bytes, at: int, cut: int) -> None:
    whole = json.dumps({"catalog_version": "1.0", "title": "Fuzz", "models": [good()]}).encode()
    path = tmp_path / "fuzz.json"
    path.write_bytes(whole[:at] + noise + whole[at + cut :])
    run(path)


def check(folder: Path, text: str) -> None:
    path = folder / "fuzz.json"
    path.write_text(text, "utf-8")
    run(path)


def run(path: Path) -> None:
    try:
        entries, refused = catalog.read(path)
    except UNetSegmentError as error:
        assert str(error).isprintable()
    else:
        assert all(sentence.isprintable() for sentence in refused)
        assert all(isinstance(entry, catalog.Entry) and repr(entry) for entry in entries)


def test_catalogs_at_addresses_are_kept_as_copies(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture) -> None:
    with serve(write(tmp_path / "theirs.json", good(name="theirs")).read_bytes()) as server:
        base = server.url.rsplit("/", 1)[0]
        assert cli.main(["models", "catalogs", base]) in (0, None)
        assert capsys.readouterr().out == f"{base}/catalog.json\n"
        assert addresses.add(f" {base}/catalog.json ") == (f"{base}/catalog.json", [])  # the same one, once
        assert "theirs" in catalog.load().entries and server.requests[-1][0] == "/catalog.json"
        server.content = write(tmp_path / "theirs.json", good(name="newer"), good(name="bad", kind="?")).read_bytes()
        assert "newer" not in catalog.load().entries  # until it is fetched again
        assert addresses.refresh() == []
        found = catalog.load()
        assert "newer" in found.entries and "theirs" not in found.entries
        assert any("'bad' of the catalog 'Clinic' was refused" in remark for remark in found.remarks)
        server.content = b'{"not": "a catalog"}'
        (remark,) = addresses.refresh()
        assert f"'{base}/catalog.json' is not valid" in remark and remark.endswith("Its last copy is shown.")
    assert catalog.load().entries["newer"].catalog == "Clinic"  # with the server gone
    before = sorted(path.name for path in (cache / "catalogs").rglob("*"))
    for address, words in [
        ("ftp://x", "not the address of a catalog"),
        ("https://a b", "not the address of a catalog"),
        ("http://models.hospital.example", "encryption"),
    ]:
        with pytest.raises(UNetSegmentError, match=words):
            addresses.add(address)
    assert sorted(path.name for path in (cache / "catalogs").rglob("*")) == before
    assert cli.main(["models", "catalogs", f"{base}/catalog.json", "--remove"]) in (0, None)
    assert addresses.addresses() == [] and "newer" not in catalog.load().entries
    assert cli.main(["models", "catalogs", f"{base}/catalog.json", "--remove"]) == 1
    assert "was not added" in capsys.readouterr().err


def test_an_address_whose_copy_is_missing_is_said(cache: Path) -> None:
    (cache / "catalogs").mkdir(parents=True)
    (cache / "catalogs" / "addresses.txt").write_text("https://models.hospital.example/catalog.json\n\n", "utf-8")
    (remark,) = catalog.load().remarks  # as an administrator may write it
    assert "https://models.hospital.example/catalog.json" in remark
