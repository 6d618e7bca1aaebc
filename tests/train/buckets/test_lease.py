"""A lease is held by one run at a time, and by none that is dead."""

import threading

import pytest

from spectral_flax import buckets
from spectral_flax.files import any_path
from train.errors import UserError
from train.processes import lease as leases
from train.processes.workdir import lock


@pytest.fixture
def quick(monkeypatch):
    """A lease that lives for two seconds."""
    monkeypatch.setattr(leases, "SECONDS", 2)
    monkeypatch.setattr(leases, "RENEWAL", 0.2)


def of_another(workdir, monkeypatch, renewals=0):
    """Write the lease of another run, and renew it so often from a thread."""
    path = workdir / leases.NAME
    with monkeypatch.context() as patch:
        patch.setattr(leases, "_OURS", "another")
        content = leases._content()
    generation = buckets.replace_version(path, content)

    def renew():
        nonlocal generation
        for _ in range(renewals):
            generation = buckets.replace_version(path, content, generation)

    thread = threading.Timer(0.5, renew)
    thread.start()
    return thread


def test_a_lease_ends_with_its_block_and_is_renewed_within(bucket, quick):
    path = any_path(bucket[0]) / leases.NAME
    with lock(bucket[0]) as workdir:
        first = buckets.read_version(path).generation
        for _ in range(100):
            if buckets.read_version(path).generation != first:
                break
            threading.Event().wait(0.1)
        else:
            pytest.fail("it is not renewed")
    assert workdir == any_path(bucket[0])
    assert not path.exists()


def test_a_live_run_keeps_its_workdir(bucket, quick, monkeypatch):
    thread = of_another(any_path(bucket[0]), monkeypatch, renewals=3)
    with pytest.raises(UserError, match=r"in use by process \d+ on"), lock(bucket[0]):
        pass
    thread.join()


def test_the_lease_of_a_dead_run_is_taken_over_and_said(bucket, quick, monkeypatch, capsys):
    of_another(any_path(bucket[0]), monkeypatch).join()
    with lock(bucket[0]):
        pass
    assert "took over the lease of process" in capsys.readouterr().out


def test_a_run_that_has_lost_its_lease_ends_at_once(bucket, quick, monkeypatch, capsys):
    path, codes, go_on = any_path(bucket[0]) / leases.NAME, [], threading.Event()

    def end(code):
        codes.append(code)
        go_on.wait(30)  # where the process would be no more

    monkeypatch.setattr(leases.os, "_exit", end)
    with lock(bucket[0]):
        buckets.write_bytes(path, b'{"holder": "process 1 on elsewhere"}')
        for _ in range(300):
            if codes:
                break
            threading.Event().wait(0.1)
        buckets.write_bytes(path, leases._content())  # so that the thread ends as it began
        go_on.set()
    assert codes[0] == leases.LOST
    assert "has been taken over by process 1 on elsewhere" in capsys.readouterr().err


def test_a_bucket_that_is_not_there_is_refused(bucket):
    refused = pytest.raises(UserError, match=r"cannot use the workdir.*no bucket 'nowhere'")
    with refused, lock("gs://nowhere/run"):
        pass
