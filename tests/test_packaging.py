"""The wheel: what is in it, and that it works without the checkout."""

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build", reason="extra dev")
pytest.importorskip("hatchling", reason="extra dev")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # With the build backend that is installed: no network is needed.
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir",
                    str(folder), str(ROOT)], check=True, capture_output=True, timeout=300)
    path, = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel, names):
    name, = (name for name in names if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(name))


def test_only_flightrtl_is_in_it(names):
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"flightrtl"}
    assert not [name for name in names if "__pycache__" in name]


def test_all_modules_and_data_are_in_it(names):
    expected = {str(path.relative_to(ROOT)) for suffix in ("py", "safetensors", "npz")
                for path in (ROOT / "flightrtl").rglob(f"*.{suffix}")}
    expected |= {f"flightrtl/boards/{path.name}" for path in (ROOT / "boards").glob("*.toml")}
    assert len([name for name in expected if name.endswith(".toml")]) >= 2
    assert expected - names == set()


def test_license_is_in_it(names, metadata):
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert metadata["License-Expression"] == "BSD-2-Clause"


def test_torch_is_needed_for_training_only(metadata):
    required = metadata.get_all("Requires-Dist")
    assert set(metadata.get_all("Provides-Extra")) == {"toolchain", "train", "sim", "host",
                                                        "spi", "cluster", "dev"}
    assert len([line for line in required if "extra ==" not in line]) == 4
    torch, = (line for line in required if line.startswith("torch"))
    assert torch.endswith("extra == 'train'")
    for line in required:
        if "extra == 'toolchain'" in line:
            assert line.startswith("yowasp-")


def test_everything_that_is_required_is_pinned(metadata):
    pinned = {line.split("==")[0].lower() for line in
              (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line}
    for line in metadata.get_all("Requires-Dist"):
        name = line.split(";")[0].split(">")[0].split("<")[0].split("=")[0].strip().lower()
        assert name in pinned, f"{name} is not in constraints.txt"


def test_it_runs_from_another_folder(wheel, tmp_path):
    """Boards and models are found in the installed package, and the checkout is not needed."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    program = (f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
               "import flightrtl, flightrtl.boards as boards, flightrtl.models as models\n"
               "print(flightrtl.__file__, boards.load('ice40').name, boards.load('ecp5').name,"
               " *models.names())")
    result = subprocess.run([sys.executable, "-c", program], cwd=folder, text=True,
                            capture_output=True, check=True, timeout=60)
    file, *found = result.stdout.split()
    assert Path(file).is_relative_to(tmp_path / "site")
    bundled = sorted(path.stem for path in (ROOT / "flightrtl" / "models").glob("*.safetensors"))
    assert found == ["icebreaker", "ulx3s_85f", *bundled]
