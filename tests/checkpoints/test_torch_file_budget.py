# SPDX-License-Identifier: Apache-2.0
import os
import socket
import tracemalloc

import numpy as np
import pytest

from evidence.hostile_checkpoints import read
from evidence.hostile_files import KINDS, archive, beside, get, put, text
from spectral_flax.checkpoints import budget as untrusted
from spectral_flax.checkpoints.budget import Budget
from spectral_flax.checkpoints.hub import read_folder
from spectral_flax.checkpoints.safetensors import read_safetensors
from spectral_flax.checkpoints.torch.pickle_values import Key, safe_key
from spectral_flax.checkpoints.torch.reader import read_torch
from spectral_flax.checkpoints.torch.writer import write_torch
from spectral_flax.files import open_regular
from spectral_flax.messages import quoted, shown


@pytest.mark.parametrize("kind", KINDS)
def test_memory_stays_in_proportion_to_the_file_whatever_it_holds(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "BASE", 1 << 20)  # else every small file would pass
    path = tmp_path / "x.pth"
    path.write_bytes(KINDS[kind](20_000))
    tracemalloc.start()
    outcome = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome.startswith(("refused", "read"))
    assert peak < 4 * path.stat().st_size + 5 * untrusted.BASE


def test_honest_files_of_many_small_tensors_fit_their_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "BASE", 1 << 16)
    tensors = {f"layer{i}.weight": np.full((8, 8, 3, 3), i, np.float32) for i in range(200)}
    write_torch(tmp_path / "x.pth", tensors)
    assert len(read_torch(tmp_path / "x.pth").tensors) == 200


def test_a_budget_is_spent_in_all_not_by_each():
    budget = Budget(1000)
    for _ in range(3):
        budget.spend(1000)
    budget.spend(untrusted.BASE)
    with pytest.raises(ValueError, match="it swells: 1000 bytes of file"):
        budget.spend(1)


def test_keys_that_are_no_short_texts_are_compared_by_identity_only():
    for key in (1, 1.5, (1, 2), b"a", "n" * 10_000, None):
        assert isinstance(safe_key(key), Key) and safe_key(key) != safe_key(key)
    assert safe_key("weight") == "weight"


def test_a_list_that_holds_itself_is_no_obstacle(tmp_path):
    path = tmp_path / "x.pth"
    itself = b"]" + put(0) + get(0) + b"a"
    for value in (itself, b"}" + put(0) + text("me") + get(0) + b"s"):
        path.write_bytes(beside(value))
        assert list(read_torch(path).tensors) == ["w"]


@pytest.mark.parametrize(
    "pickle",
    [
        b"\x80\x02}" + text("\x1b[31m" + "long" * 10_000) + b"K\x01s.",
        b"\x80\x02clib\n" + b"N" * 900 + b"\n)R.",
        b"\x80\x02" + text("\n\x00\u202e" * 5000) * 2 + b"\x93.",
        b"\x80\x02}" + text("a\nb") + text("x" * 100_000) + b"\x85Qs.",
        b"\x80\x02S" + b"x" * 50_000 + b"\n.",
    ],
    ids=["entry", "class", "name", "persistent id", "string"],
)
def test_messages_quote_a_file_in_bounded_printable_text(pickle, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(archive(pickle))
    with pytest.raises(ValueError, match=r"x\.pth") as caught:
        read_torch(path)
    told = str(caught.value)
    assert len(told) < 1500 and told.isprintable()


def test_shown_bounds_and_escapes_every_kind_of_value():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert shown("a\nb\x1b\u202e") == r"a\nb\x1b\u202e"
    assert quoted("größe") == "'größe'"
    assert shown("x" * 100, 5) == "xxxxx..."
    assert shown(10**5000) == "an integer of 16610 bits"
    assert shown((1, "a", deep)) == "(1, 'a', ...)"
    assert shown(deep) == "[...]"
    assert shown(b"\xff" * 1000).endswith("...") and len(shown(b"\xff" * 1000)) < 400
    assert shown({}) == "a dict"


def test_pipes_sockets_and_devices_are_refused_at_once(tmp_path):
    pipe, sock = tmp_path / "pipe.pth", tmp_path / "s.pth"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(sock))
        for path, kind in ((pipe, "a named pipe"), (sock, "a socket"), ("/dev/zero", "a device")):
            for reader in (read_torch, read_safetensors):
                with pytest.raises(ValueError, match=f"{path} can not be .*it is {kind}, not"):
                    reader(path)
    link = tmp_path / "link.pth"
    link.symlink_to(pipe)
    with pytest.raises(ValueError, match="a named pipe"):
        open_regular(link)
    with pytest.raises(ValueError, match="it is empty"):
        read_torch("/proc/self/status")  # a regular file without a size


def test_a_folder_whose_configuration_is_a_pipe_is_refused(tmp_path):
    from spectral_flax.checkpoints.hub import write_folder
    from spectral_flax.checkpoints.weights import Weights
    from spectral_flax.models.record import ModelRecord

    record = ModelRecord(model="resnet18")
    write_folder(tmp_path, Weights({"a": np.ones(3, np.float32)}, record=record))
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    assert read_folder(tmp_path).model == "resnet18"  # told by the weights themselves


def test_a_header_of_json_alone_does_not_fill_the_memory(tmp_path):
    header = b"[" + b"[]," * 2_000_000 + b"1]"
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"x\.safetensors.*it swells"):
        read_safetensors(path)
