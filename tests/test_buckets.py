"""Objects in buckets: a bucket does what a disk does, its own way."""

import logging

import numpy as np
import pytest

from spectral_flax import buckets
from spectral_flax.checkpoints import manifest
from spectral_flax.files import any_path, new_file, new_folder, rename

REFUSED = {
    "gs:/one-slash": "two slashes and a bucket: gs://BUCKET/NAME",
    "gs://": "two slashes and a bucket",
    "s3://bucket/run": "Orbax writes no checkpoints to s3:// addresses: mount the bucket",
    "https://host/run": "expected a local path or gs://BUCKET/NAME",
}


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_none_of_a_bucket_is_refused(address):
    with pytest.raises(ValueError, match=REFUSED[address]):
        any_path(address)


def test_without_gcsfs_its_extra_is_told(monkeypatch):
    monkeypatch.setattr(buckets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "spectral-flax\[cloud\]"'):
        any_path("gs://bucket/run")


def test_what_is_written_appears_whole_and_is_replaced_only_if_asked(bucket):
    path = any_path(bucket[0]) / "a.txt"
    with pytest.raises(RuntimeError), new_file(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert not path.exists()
    with new_file(path) as draft:
        draft.write_text("one")
    with pytest.raises(FileExistsError, match=r"a\.txt"), new_file(path):
        pass
    with new_file(path, overwrite=True) as draft:
        draft.write_text("two")
    with buckets.local_copy(path) as copy:
        assert copy.read_text() == "two" == buckets.read_bytes(path).decode()


def test_folders_are_sent_listed_fetched_and_renamed(bucket, tmp_path):
    folder = any_path(bucket[0]) / "folder"
    with new_folder(folder) as draft:
        for name in ("a", "below/b", "below/deep/c"):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_text(name)
    moved = folder.with_name("moved")
    rename(folder, moved)
    assert not folder.exists()
    listed = buckets.listed(moved)
    assert {name: about.size for name, about in listed.items()} == {
        name: len(name) for name in ("a", "below/b", "below/deep/c")
    }
    assert list(buckets.listed(moved, depth=1)) == ["a"]
    assert buckets.folders_in(moved) == ["below"]
    buckets.fetch_folder(moved, tmp_path, listed)
    assert (tmp_path / "below" / "deep" / "c").read_text() == "below/deep/c"


def test_a_version_is_replaced_only_by_who_knows_it(bucket):
    path = any_path(bucket[0]) / "lease.json"
    assert buckets.read_version(path) is None
    first = buckets.replace_version(path, b"one")
    assert buckets.replace_version(path, b"two") is None
    second = buckets.replace_version(path, b"three", first)
    assert buckets.replace_version(path, b"four", first) is None
    found = buckets.read_version(path)
    assert (found.data, found.generation) == (b"three", second)
    assert -1 < found.age < 60
    buckets.remove_version(path, second)
    assert not path.exists()


@pytest.mark.parametrize("there", ["bucket", "disk"])
def test_a_manifest_holds_wherever_the_files_are_copied(bucket, tmp_path, there):
    local, remote = tmp_path / "step", any_path(bucket[0]) / "step"
    (local / "params").mkdir(parents=True)
    (local / "params" / "d").write_bytes(np.arange(100).tobytes())
    if there == "disk":
        manifest.write(local)
        buckets.send(local, remote)
    else:
        buckets.send(local, remote)
        manifest.write(remote)
        buckets.fetch(remote / manifest.NAME, local / manifest.NAME)
    assert manifest.fault(local) is manifest.fault(remote) is None
    (local / "params" / "d").write_bytes(np.arange(100)[::-1].tobytes())
    buckets.write_bytes(remote / "params" / "d", np.arange(100)[::-1].tobytes())
    for folder in (local, remote):
        assert "params/d has another content" in manifest.fault(folder)


def test_a_bucket_that_is_not_there_is_told_with_what_makes_it(bucket):
    with pytest.raises(OSError, match="no bucket 'nowhere': gcloud storage buckets create"):
        buckets.check_bucket(any_path("gs://nowhere/run"))


def test_a_failing_request_is_counted_and_said_at_times(capsys):
    log = logging.getLogger("gcsfs")
    counter = buckets.Repeats()
    record = log.makeRecord("gcsfs", 10, "", 0, "_request retrying after exception: 503", (), None)
    for _ in range(11):
        assert not counter.filter(record)
    assert counter.count == 11
    assert capsys.readouterr().err.count("repeated") == 2


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (OSError("Forbidden: b/x\nno"), PermissionError, "role storage.objectUser"),
        (RuntimeError("reset"), buckets.NoAnswerError, "does not answer .reset."),
    ],
)
def test_errors_of_the_client_say_what_to_do(error, kind, told):
    with pytest.raises(kind, match=told), buckets.answers("gs://b/x"):
        raise error
