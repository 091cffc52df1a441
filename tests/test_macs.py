"""What is particular to Apple's GPUs, as far as it can be tried without one."""

import re

import pytest
import torch

from dmmn_qp.engines.cores import settle_libraries
from dmmn_qp.errors import ConfigError
from dmmn_qp.files.failures import line_of
from dmmn_qp.networks.devices import choose_bf16, choose_device, choose_devices
from dmmn_qp.training.launch import make_fabric
from dmmn_qp.training.options import TrainOptions
from tests.conftest import REPOSITORY


@pytest.fixture
def mac(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.parametrize("wanted", ["auto", "mps"])
def test_its_gpu_is_taken_in_fp32(mac, wanted):
    device = choose_device(wanted)
    assert device.type == "mps" and choose_bf16("auto", device) is False
    assert choose_devices(wanted, 1) == [device]


def test_it_is_one(mac):
    with pytest.raises(ConfigError, match="a Mac has one"):
        choose_devices("mps", 2)
    with pytest.raises(ConfigError, match="a Mac has one"):
        make_fabric(TrainOptions(devices=2), torch.device("mps"))
    assert len(choose_devices("cpu", 2)) == 2


def test_where_there_is_none_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match='"mps" is not available on this machine; pass --device cpu'):
        choose_device("mps")


def test_what_it_lacks_is_computed_on_the_processor():
    """Torch reads the variable when it is loaded, which is after this; what the user said counts."""
    unset, said = {}, {"PYTORCH_ENABLE_MPS_FALLBACK": "0"}
    settle_libraries(unset)
    settle_libraries(said)
    assert unset["PYTORCH_ENABLE_MPS_FALLBACK"] == "1" and said["PYTORCH_ENABLE_MPS_FALLBACK"] == "0"


def test_nothing_is_made_double_on_a_device():
    for path in (REPOSITORY / "dmmn_qp").rglob("*.py"):
        assert not re.search(r"\.double\(\)\.(detach\(\)\.)?cpu\(", path.read_text("utf-8")), path


def test_its_memory_at_an_end():
    error = RuntimeError("MPS backend out of memory (MPS allocated: 1 GB, max allowed: 2 GB).")
    assert line_of(error) == "the memory of the GPU does not suffice; pass a smaller --batch-size, or --device cpu"
