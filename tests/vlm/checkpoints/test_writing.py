"""New directories appear whole or not at all, and a failed one leaves nothing behind."""

import pytest

from vlm.checkpoints import writing
from vlm.checkpoints.files import CheckpointError
from vlm.checkpoints.writing import new_directory, refuse_existing


def test_it_has_its_name_once_it_is_whole_and_flushed(tmp_path, monkeypatch):
    target, synced = tmp_path / "new", []
    sync = writing.sync
    monkeypatch.setattr(writing, "sync", lambda path: synced.append((path.name, target.exists())) or sync(path))
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "stale").write_text("of a run that was killed")
    with new_directory(str(target)) as fresh:
        (fresh / "inside").mkdir(parents=True)
        (fresh / "a").write_text("1")
        (fresh / "inside" / "b").write_text("2")
        assert not target.exists()
    assert sorted(path.name for path in target.rglob("*")) == ["a", "b", "inside"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert sorted(synced[:-1]) == [("a", False), ("b", False)] and synced[-1] == (tmp_path.name, True)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a\nb"), KeyError()])
def test_what_fails_is_one_line_that_names_it_and_leaves_nothing(tmp_path, error):
    with pytest.raises(OSError) as caught, new_directory(str(tmp_path / "new")) as fresh:
        fresh.mkdir()
        (fresh / "a").write_text("1")
        raise error
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'new'}: could not be saved (") and "\n" not in said and "()" not in said
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_refused(tmp_path):
    refuse_existing(str(tmp_path / "new"))
    with pytest.raises(CheckpointError, match="exists already"):
        refuse_existing(str(tmp_path))
