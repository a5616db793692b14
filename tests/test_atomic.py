from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from embedding_adaptation.atomic import DiskFullError, clean_leftovers, is_full_disk, replacing_file, replacing_folder, scratch_prefix
from embedding_adaptation.checksums import DamagedError, check_intact, is_intact


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


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_is_named_whatever_the_library_raises(tmp_path, error):
    with pytest.raises(
        DiskFullError, match=rf"No space left on the disk of {tmp_path} .*MB free.*file\.txt could not be written; free some space"
    ):
        fail(tmp_path / "file.txt", error)
    assert not is_full_disk(RuntimeError("something else"))
    assert list(tmp_path.iterdir()) == []


def fail(target, error):
    with replacing_file(target):
        raise error


def test_what_a_killed_process_was_writing_is_removed_and_what_a_living_one_writes_stays(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from embedding_adaptation.atomic import replacing_file, replacing_folder
with replacing_file(Path(sys.argv[1]) / "store" / "version" / "a.bin") as work, replacing_folder(Path(sys.argv[1]) / "b") as folder:
    (folder / "c").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    with replacing_file(tmp_path / "mine.txt") as work:
        work.write_text("still at it")
        assert clean_leftovers(tmp_path) == 2
        assert work.exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.txt", "store"]


def test_only_this_projects_scratch_folders_are_leftovers(tmp_path):
    gone = scratch_prefix().replace(str(os.getpid()), "999999999") + "abcdefgh"
    container = gone.replace(".999999999", "_4026531999.999999999")  # of the machine's name, with processes of its own
    for name in (container, gone, f"{scratch_prefix()}abcdefgh", "embedding-adaptation-notes", "other.host.999999999-abcdefgh"):
        (tmp_path / name).mkdir()
    assert clean_leftovers(tmp_path, deep=False) == 1
    assert not (tmp_path / gone).exists()
    assert (tmp_path / container).exists()


def test_a_folder_that_several_write_at_once_is_that_of_one_of_them(tmp_path):
    target, errors, whole = tmp_path / "model", [], threading.Barrier(3)

    def write():
        try:
            for _ in range(40):
                with replacing_folder(target, checksum=True) as work:
                    (work / "a").write_text("same")
                    (work / "b").write_text("same too")
                    whole.wait(timeout=10)
        except Exception as error:  # noqa: BLE001  a thread's would be lost
            errors.append(error)
            whole.abort()

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert is_intact(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.xxh128", "model"]


def test_damage_to_any_file_of_a_folder_is_recognised(tmp_path):
    target = tmp_path / "model"
    with replacing_folder(target, checksum=True) as work:
        (work / "in").mkdir()
        (work / "in" / "a").write_bytes(b"one")
        (work / "b").write_bytes(b"two")
    assert is_intact(target)
    (target / "in" / "a").write_bytes(b"onf")
    with pytest.raises(DamagedError, match="model/in/a is damaged"):
        check_intact(target)
    (target / "in" / "a").unlink()
    with pytest.raises(DamagedError, match="in/a is missing"):
        check_intact(target)


@pytest.mark.parametrize("listing", ["", "abc", "0" * 32 + "  file\n", "\0" * 60])
def test_a_damaged_checksum_is_no_checksum(tmp_path, listing):
    target = tmp_path / "file"
    with replacing_file(target, checksum=True) as work:
        work.write_text("one")
    (tmp_path / ".file.xxh128").write_text(listing)
    assert not is_intact(target)


def test_without_a_checksum_nothing_is_known(tmp_path):
    (tmp_path / "file").write_text("one")
    check_intact(tmp_path / "file")
    assert not is_intact(tmp_path / "file")
