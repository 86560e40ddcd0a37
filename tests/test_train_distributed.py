"""Training in two processes that `torchrun` starts, without a GPU."""

import json
import subprocess
import sys

import pytest

from flightrtl import datasets, golden, modelfile
from flightrtl.errors import UserError
from train.distributed import Group


def torchrun(processes, *words):
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
         str(processes), "-m", "train", *words, "--json"],
        capture_output=True, text=True, timeout=300, check=False)


def test_two_processes_train_one_network(tmp_path):
    output = tmp_path / "net.safetensors"
    result = torchrun(2, "--recipe", "digits", "--epochs", "6", "--batch-size", "64",
                      "--device", "cpu", "--output", str(output))
    assert result.returncode == 0, result.stderr[-2000:]
    told = json.loads(result.stdout)
    assert told["mismatches"] == 0
    images, labels = datasets.load("digits")
    assert golden.top1(modelfile.load(output), images, labels) == told["top1"] > 0.6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.csv", "net.json",
                                                               "net.safetensors"]


def test_shares_of_a_batch():
    assert [Group(rank, 4).share(128) for rank in range(4)] == [32] * 4
    assert Group(0, 2).first
    assert not Group(1, 2).first
    with pytest.raises(UserError, match="batch_size 33 cannot be shared by 2 processes"):
        Group(0, 2).share(33)
