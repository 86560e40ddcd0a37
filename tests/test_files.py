import pytest

from flightrtl.files import atomic_path, atomic_write


def test_text_and_bytes(tmp_path):
    with atomic_write(tmp_path / "a.txt") as file:
        file.write("größer\n")
    with atomic_write(tmp_path / "a.bin", "wb") as file:
        file.write(b"\x00\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "größer\n".encode()
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\r\n"
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "a.bin"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_was_there_stays_when_writing_fails(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def write() -> None:
        with atomic_write(path) as file:
            file.write("half")
            file.flush()
            assert path.read_text() == "before"
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_something_else_writes(tmp_path):
    with atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"1")
        assert temporary.parent == tmp_path
        assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin").read_bytes() == b"1"
