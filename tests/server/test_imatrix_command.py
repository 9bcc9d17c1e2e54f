"""`mxserve imatrix`: the file it writes, and what it says of bad arguments."""

from pathlib import Path

import gguf
import pytest

from model.config import read_config
from model.convert.imatrix import read_importance
from model.convert.imatrix_names import inputs_of
from model.loading import DEMO_FOLDER
from server.cli import main

TEXT = "What is the capital of France?\n" * 20


def test_the_file_is_one_the_gguf_package_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, output = tmp_path / "text.txt", tmp_path / "demo.gguf"
    text.write_text(TEXT)
    flags = ["--tokens", "100", "--window", "64", "-o", str(output)]
    assert main(["imatrix", str(DEMO_FOLDER), str(text), *flags]) == 0
    assert "100 tokens in 2 windows" in capsys.readouterr().out
    reader = gguf.GGUFReader(output)
    assert len(reader.tensors) == 2 * len(inputs_of(read_config(DEMO_FOLDER)))
    counts = {tensor.name: tensor.data.tolist() for tensor in reader.tensors}
    assert counts["blk.0.attn_qkv.weight.counts"] == [[100.0]]
    importance = read_importance(output, read_config(DEMO_FOLDER))
    assert importance["model.layers.0.mlp.switch_mlp.down_proj"].shape == (8, 128)


def test_what_cannot_be_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, output = tmp_path / "text.txt", tmp_path / "x.gguf"
    text.write_bytes(b"\xff\xfe")
    assert main(["imatrix", str(DEMO_FOLDER), str(text), "-o", str(output)]) == 1
    assert f"{text}: expected text in UTF-8" in capsys.readouterr().err
    text.write_text(TEXT)
    assert main(["imatrix", str(tmp_path / "no"), str(text), "-o", str(output)]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert main(["imatrix", str(DEMO_FOLDER), str(text), "-o", str(tmp_path / "no/x.gguf")]) == 1
    assert "No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["imatrix", str(DEMO_FOLDER), str(text), "-o", str(output), "--window", "1"])
    assert not output.exists()
