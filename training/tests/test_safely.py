"""A file is there whole or not at all, whatever stops the writer."""

import os
from pathlib import Path

import pytest
import torch
from unetsegment_training.safely import SafeCheckpointIO, replace_text


def test_a_checkpoint_survives_a_writer_that_dies(tmp_path, monkeypatch):
    path, writer = tmp_path / "last.ckpt", SafeCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, path)

    def dies(content, file, *rest):
        file.write(b"half a checkp")
        raise SystemExit("killed")

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(SystemExit):
        writer.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path)["epoch"] == 1
    monkeypatch.undo()
    writer.save_checkpoint({"epoch": 3}, path)
    assert torch.load(path)["epoch"] == 3 and os.listdir(tmp_path) == ["last.ckpt"]


def test_what_is_moved_lies_on_the_same_file_system(tmp_path, monkeypatch):
    moves, move = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moves.append((Path(a).parent, Path(b).parent)), move(a, b)))
    replace_text(tmp_path / "new" / "a.json", "{}")
    SafeCheckpointIO().save_checkpoint({}, tmp_path / "new" / "b.ckpt")
    assert moves == [(tmp_path / "new",) * 2] * 2
