"""What processes say to one another; threads stand for them, a dictionary for JAX's service."""

import itertools
import threading
import types

import pytest

from train.errors import AgreedError, UserError
from train.processes import coordination, watch
from train.processes.coordination import agree, agree_on_folder, exchange, together


class Service:
    """The part of JAX's client that is used, for ``count`` processes."""

    def __init__(self, count):
        self.values, self.barrier = {}, threading.Barrier(count)

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [(key, v) for key, v in sorted(self.values.items()) if key.startswith(f"{folder}/")]

    def wait_at_barrier(self, name, milliseconds):
        self.barrier.wait(10)


@pytest.fixture
def processes(monkeypatch):
    """Return a function that runs one of its arguments in each process, and what came of each."""

    def run(*functions):
        local, results = threading.local(), [None] * len(functions)
        service = Service(len(functions))

        class State:
            num_processes, client = len(functions), service
            process_id = property(lambda self: local.index)

        monkeypatch.setattr(coordination, "global_state", State())
        counter = types.SimpleNamespace(next=lambda: next(local.counter))
        monkeypatch.setattr(coordination, "_exchanges", counter)
        monkeypatch.setattr(coordination, "next", lambda counter: counter.next(), raising=False)

        def one(index):
            local.index, local.counter = index, itertools.count()
            try:
                results[index] = functions[index]()
            except UserError as error:
                results[index] = error

        threads = [threading.Thread(target=one, args=[i]) for i in range(len(functions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return results

    return run


def raising(text):
    def block():
        with together():
            if text:
                raise UserError(text)
        return "went on"

    return block


def test_texts_arrive_in_the_order_of_the_processes(processes):
    found = processes(*(lambda i=i: (exchange(f"a{i}"), exchange(f"b{i}")) for i in range(3)))
    assert found == [(["a0", "a1", "a2"], ["b0", "b1", "b2"])] * 3


@pytest.mark.parametrize(
    "faults, told",
    [
        (["", "there is no folder", ""], "process 1: there is no folder"),
        (["", "full", "full"], "processes 1, 2: full"),
        (["", "full", "empty"], "process 1: full\nprocess 2: empty"),
        (["full"] * 3, "full"),
    ],
)
def test_the_fault_of_one_is_raised_in_all(processes, faults, told):
    found = processes(*map(raising, faults))
    assert [type(error) for error in found] == [AgreedError] * 3
    assert {str(error) for error in found} == {told}


def test_without_a_fault_all_go_on(processes):
    assert processes(*[raising("")] * 3) == ["went on"] * 3


def test_other_facts_are_refused_by_name(processes):
    def of(seed):
        return lambda: agree({"--seed": seed, "--steps": "4"}, "give all the same")

    found = processes(of("1"), of("1"), of("2"))
    told = "process 2: --seed is 1 in process 0, 2 here; give all the same"
    assert [str(error) for error in found] == [told] * 3
    assert processes(of("1"), of("1")) == [None, None]


def test_a_folder_that_is_not_shared_is_refused(processes, tmp_path):
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir(), own.mkdir()
    look = lambda folder: lambda: agree_on_folder(folder, seconds=0.1)
    for error in processes(look(shared), look(own), look(shared)):
        assert str(error).startswith(f"process 1: the work directory '{own}' is not that of proc")
    assert processes(look(shared), look(shared)) == [None, None]
    assert not any(shared.iterdir())


@pytest.fixture
def watched(monkeypatch, capfd):
    """Return a function that lets process 1 look at process 0, and its exit code and last words."""

    def run(sign, missed=1000):
        service, ended = Service(2), []
        state = types.SimpleNamespace(process_id=1, num_processes=2, client=service)
        monkeypatch.setattr(watch, "global_state", state)
        monkeypatch.setattr(watch, "_exit", ended.append)
        service.values["spectral_flax/alive/0"] = sign
        seen = watch.Watch(beat=0.01, missed=missed)
        seen.thread.join(0.1)
        seen.leave()
        return service.values["spectral_flax/alive/1"], ended, capfd.readouterr().err

    return run


def test_a_process_without_signs_of_life_ends_the_others(watched):
    sign, codes, said = watched("beat 1\nhost7", missed=2)
    assert set(codes) == {1} and sign == "done\n"
    assert "process 1 ends: process 0 on host7 has given no sign of life" in said


def test_a_process_that_fails_ends_the_others_with_its_code_and_words(watched):
    _, codes, said = watched("failed 2\nthe disk is full")
    assert set(codes) == {2} and "process 0 has ended: the disk is full" in said


@pytest.mark.parametrize("sign", ["done\n", "beat 1\nhost7"])
def test_a_process_that_is_done_or_not_yet_missed_ends_nobody(watched, sign):
    assert watched(sign)[1:] == ([], "")
