"""The container: what gguf writes is read, what is damaged is refused with a reason."""

import re
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.convert.imatrix_gguf import read_gguf, write_gguf
from model.errors import CheckpointError


def written(folder: Path) -> Path:
    """A file with every part that is read."""
    path = folder / "x.gguf"
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((1, 1), np.float32)}
    write_gguf(path, {"general.type": "imatrix", "texts": ["one", "zwei ä"], "count": 7}, tensors)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    metadata, tensors = read_gguf(written(tmp_path))
    assert metadata == {"general.type": "imatrix", "texts": ["one", "zwei ä"], "count": 7}
    assert tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["b"].shape == (1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_a_file_of_the_gguf_package_is_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_bool("flag", True)
    writer.add_float64("real", 0.5)
    writer.add_array("numbers", [1, 2, 3])
    expected = np.random.default_rng(0).random((3, 5), np.float32)
    writer.add_tensor("first", expected[:1])
    writer.add_tensor("second", expected)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata, tensors = read_gguf(path)
    assert metadata["flag"] is True
    assert (metadata["real"], metadata["numbers"]) == (0.5, [1, 2, 3])
    np.testing.assert_array_equal(tensors["second"], expected)


def test_every_cut_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    last = len(data.rstrip(b"\0"))  # what comes after it is padding
    for length in range(0, last, 7):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            read_gguf(path)


@given(place=st.integers(0, 1000), byte=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    path = written(tmp_path_factory.mktemp("gguf"))
    data = bytearray(path.read_bytes())
    data[place % len(data)] = byte
    path.write_bytes(data)
    refused = ""
    try:
        read_gguf(path)
    except CheckpointError as error:
        refused = str(error)
    assert not refused or refused.startswith(str(path))


def test_the_older_form_is_named(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(struct.pack("<I", 3) + b"blk")
    with pytest.raises(CheckpointError, match=r"older \.dat form"):
        read_gguf(path)


def test_other_types_and_versions_are_refused(tmp_path: Path) -> None:
    data = written(tmp_path).read_bytes()
    path = tmp_path / "other.gguf"
    path.write_bytes(data[:4] + struct.pack("<I", 1) + data[8:])
    with pytest.raises(CheckpointError, match="version 2 or 3"):
        read_gguf(path)
    at = data.index(b"a" + struct.pack("<I2Q", 2, 3, 2)) + 1 + 4 + 16
    path.write_bytes(data[:at] + struct.pack("<I", 8) + data[at + 4 :])
    with pytest.raises(CheckpointError, match="expected float32"):
        read_gguf(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_gguf(tmp_path / "none.gguf")
