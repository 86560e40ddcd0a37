"""The C++ compiler: which one is taken, and what it made before."""

import ctypes
import json
import os
import sys

import pytest

from flightrtl.errors import BuildError, UserError
from sim import compiler
from sim.compiler import Compiler, cache_folder, cached_library, find, key, library, search

needs_compiler = pytest.mark.skipif(search() is None, reason=compiler.INSTALL)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A search path with nothing on it, and no ``ziglang``."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return tmp_path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLIGHTRTL_CACHE", str(tmp_path))
    return tmp_path / "sim"


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_first_that_runs_is_taken(path):
    assert search() is None
    clang = program(path / "clang++", "echo clang 18; echo more")
    assert search() == Compiler((clang,), "clang 18")
    cxx = program(path / "c++", "echo c++ 12")
    assert search() == Compiler((cxx,), "c++ 12")
    program(path / "g++", "echo no licence >&2; exit 1")
    assert find() == Compiler((cxx,), "c++ 12")
    gcc = program(path / "g++", "echo g++ 13")
    assert find() == Compiler((gcc,), "g++ 13")
    assert find().name == gcc


def test_a_named_one_comes_first(path, monkeypatch):
    program(path / "g++", "echo g++ 13")
    named = program(path / "mine", 'echo "mine, $1"')
    monkeypatch.setenv("CXX", f"{named} -m32")
    assert find() == Compiler((named, "-m32"), "mine, -m32")
    monkeypatch.setenv("CXX", "not-there")
    with pytest.raises(UserError, match="CXX is set to 'not-there', which does not run"):
        find()


def test_ziglang_is_the_last_resort(path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "ziglang" or None)
    monkeypatch.setattr(compiler, "_ask", lambda command: Compiler(command, "clang of zig"))
    assert find() == Compiler((sys.executable, "-m", "ziglang", "c++"), "clang of zig")
    assert find().name == "ziglang"


def test_none_is_told(path):
    with pytest.raises(UserError, match=r"none was found: .*apt install g\+\+\), or pip install "
                                        "ziglang"):
        find()


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.delenv("FLIGHTRTL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "flightrtl" / "sim"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "flightrtl" / "sim"
    monkeypatch.setenv("FLIGHTRTL_CACHE", str(tmp_path / "other"))
    assert cache_folder() == tmp_path / "other" / "sim"


def test_keys_tell_parts_apart():
    assert key("a", "b") != key("ab", "") != key("a", "c")
    assert key("a", ("b",)) == key("a", ("b",))


@needs_compiler
def test_a_library_is_made_once(tmp_path, cache):
    source = tmp_path / "six.cc"
    source.write_text('extern "C" __attribute__((visibility("default"))) int six() '
                      "{ return SIX; }\n")
    assert cached_library("six") is None
    made = library("six", [source], compiler=find(), folder=tmp_path, flags=["-DSIX=6"])
    assert made == cached_library("six") == cache / "six.so"
    assert ctypes.CDLL(str(made)).six() == 6
    assert sorted(path.name for path in cache.iterdir()) == ["six.json", "six.so"]

    # A new file: this process has the old one mapped, and would execute what is written into it.
    shorter = made.read_bytes()[:-1]
    made.unlink()
    made.write_bytes(shorter)
    assert cached_library("six") is None, "its end is missing"
    library("six", [source], compiler=find(), folder=tmp_path, flags=["-DSIX=6"])
    assert cached_library("six") == made
    made.with_suffix(".json").write_text("[]")
    assert cached_library("six") is None


@needs_compiler
def test_what_the_compiler_says_is_told(tmp_path, cache):
    source = tmp_path / "wrong.cc"
    source.write_text("int main() { return nonsense; }\n")
    with pytest.raises(BuildError, match="(?s)C.. compiler failed .*nonsense"):
        library("wrong", [source], compiler=find(), folder=tmp_path)
    assert cached_library("wrong") is None


def test_the_cache_does_not_grow_without_end(cache, monkeypatch):
    monkeypatch.setattr(compiler, "_KEPT", 3)
    cache.mkdir()
    for n in range(5):
        path = cache / f"{n}.so"
        path.write_bytes(bytes([n]))
        path.with_suffix(".json").write_text(json.dumps(
            {"sha256": compiler.file_digest(path)}))
        os.utime(path, (1000 + n, 1000 + n))
    assert cached_library("0") is not None, "used just now"
    compiler._prune(cache)
    assert {path.stem for path in cache.iterdir()} == {"0", "3", "4"}


@needs_compiler
def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLIGHTRTL_CACHE", str(tmp_path / "file"))
    source = tmp_path / "one.cc"
    source.write_text('extern "C" __attribute__((visibility("default"))) int one() { return 1; }')
    made = library("one", [source], compiler=find(), folder=tmp_path)
    assert ctypes.CDLL(str(made)).one() == 1
