"""Tests of the commit and the versions that a measurement records."""

import subprocess

import pytest

from aa_flax.analysis import provenance
from aa_flax.runs import commit


def _git(folder, *arguments):
    names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "experiments" / "results").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    for name in ("code.py", "experiments/results/old.json", "notebooks/make.py", "notebooks/shown.ipynb"):
        (tmp_path / name).write_text("1")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(commit, "ROOT", tmp_path)
    return tmp_path


def test_the_commit_is_named(checkout):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout
    found = provenance.provenance("python x.py")
    assert found["command"] == "python x.py"
    assert len(found["commit"]) == 12 and head.startswith(found["commit"])
    assert {"jax", "jaxlib", "flax", "optax", "numpy", "python"} <= set(found["versions"])


@pytest.mark.parametrize("code", ["code.py", "notebooks/make.py"])
def test_changed_code_is_said_and_changed_results_are_not(checkout, code):
    for outcome in ("experiments/results/old.json", "notebooks/shown.ipynb"):
        (checkout / outcome).write_text("2")
    assert "dirty" not in provenance.commit()
    (checkout / code).write_text("2")
    assert provenance.commit().endswith("-dirty")


def test_outside_a_checkout_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(commit, "ROOT", tmp_path)
    assert provenance.commit() == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit() == "unknown"


def test_a_package_beside_the_library_that_a_variable_names(tmp_path, monkeypatch):
    """An unpacked libtpu is such a package: its path has no version, and the record must not contain its path."""
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "unpacked" / "unpacked.so"))
    assert provenance.package_version("unpacked") is None
    about = tmp_path / "unpacked-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: unpacked\nVersion: 1.2\n")
    assert provenance.package_version("unpacked") == "1.2"
    assert provenance.package_version("numpy") == provenance.provenance("x")["versions"]["numpy"]


def test_a_checkout_that_holds_the_installed_library_is_not_its_own(checkout, monkeypatch):
    inside = checkout / "environment"
    inside.mkdir()
    monkeypatch.setattr(commit, "ROOT", inside)
    assert provenance.commit() == "unknown"
