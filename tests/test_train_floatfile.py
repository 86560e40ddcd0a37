"""Float networks on disk, and what a run says of a file that is not one."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from flightrtl import models
from flightrtl.datasets import DATASETS
from flightrtl.errors import UserError
from train import __main__ as command
from train import floatfile
from train.convert import convert
from train.networks import NETWORKS
from train.recipe import Recipe

ABOUT = {"dataset": "digits", "network": "digits", "top1": 0.5}
RECIPE = Recipe("digits", "digits")


def network(name="digits", seed=0):
    torch.manual_seed(seed)
    data = DATASETS["digits"]
    return convert(NETWORKS[name].make(data.input, data.classes), data.input)


@pytest.fixture
def path(tmp_path):
    result = tmp_path / "net.safetensors"
    floatfile.save(network(), result, ABOUT)
    return result


def test_round_trip(path):
    other = network(seed=1)
    assert floatfile.load(other, path, RECIPE) == {"format": "flightrtl float network", **ABOUT}
    for name, value in network().state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    assert not any("quantizer" in name or "scale" in name for name in load_file(path))


def rewrite(path, text, change=None):
    tensors = load_file(path)
    if change is not None:
        change(tensors)
    save_file(tensors, path, {"flightrtl": text})


def refused(path, message, recipe=RECIPE):
    mine = network()
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    with pytest.raises(UserError, match=message):
        floatfile.load(mine, path, recipe)
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())


def test_files_that_are_damaged_or_something_else(path, tmp_path):
    good = path.read_bytes()
    refused(tmp_path / "none.safetensors", "no such file; train one with --method float")
    refused(tmp_path, "not a float network, or damaged")
    for damaged in (good[:-9], good[:40], b"", b"nonsense", b"\xff" * 400):
        path.write_bytes(damaged)
        refused(path, "not a float network, or damaged")
    refused(models.path("digits"), "a model file cannot be trained any further")
    path.write_bytes(good)
    for text in ("{", "[" * 100_000):
        rewrite(path, text)
        refused(path, "not a float network, or damaged")
    for text in ("[]", "{}", '{"format": "other"}'):
        rewrite(path, text)
        refused(path, "this is not a float network")


def test_float_networks_of_something_else(path):
    refused(path, "of dataset 'digits', but this run has 'mnist'; give --dataset digits",
            Recipe("mnist", "digits"))
    refused(path, "of network 'digits', but this run has 'lenet5'; give --network digits",
            Recipe("digits", "lenet5"))
    text = json.dumps({"format": "flightrtl float network", **ABOUT})
    good = path.read_bytes()
    for change in (lambda tensors: tensors.pop("layers.conv1.bias"),
                   lambda tensors: tensors.update(more=torch.zeros(1)),
                   lambda tensors: tensors.update({"layers.conv1.bias": torch.zeros(9)})):
        path.write_bytes(good)
        rewrite(path, text, change)
        refused(path, "its layers are not those of network 'digits'")
    path.write_bytes(good)
    rewrite(path, text, lambda tensors: tensors["layers.conv1.bias"].fill_(float("nan")))
    refused(path, r"layers\.conv1\.bias has values that are not finite")


@pytest.mark.parametrize(("words", "message"), [
    (["--threads", "0"], "--threads must be 1 or more, not 0"),
    (["--threads", "-3"], "--threads must be 1 or more, not -3"),
    (["--device", "meta"], "PyTorch cannot use it"),
    (["--recipe", "stageless.toml"], "name one with --init FILE"),
    (["--init", "net.safetensors", "--network", "vgg-mnist"], "give --network digits"),
])
def test_wrong_requests(path, monkeypatch, words, message):
    monkeypatch.chdir(path.parent)
    (path.parent / "stageless.toml").write_text(
        'dataset = "digits"\nnetwork = "digits"\nfloat_share = 0.0')
    with pytest.raises(UserError, match=message):
        command.main(["--recipe", "digits", "--output", "x.safetensors", *words])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with pytest.raises(UserError, match="--device cuda: PyTorch cannot use it.*use --device cpu"):
        command.main(["--recipe", "digits", "--output", "x.safetensors", "--device", "cuda"])
