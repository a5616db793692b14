from __future__ import annotations

import pytest

from embedding_adaptation.atomic import replacing_file


def break_off(target):
    with replacing_file(target) as work:
        work.write_text("two")
        raise RuntimeError


def test_the_file_changes_only_when_the_block_ends_well(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with replacing_file(target) as work:
        work.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    with pytest.raises(RuntimeError):
        break_off(target)
    assert target.read_text() == "one"
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o644
