"""Digests of data in version 0.1, which ids and keys of stored results depend on."""

from __future__ import annotations

import hashlib

import pytest
import sklearn

from orca_core.proxies import find_proxy
from orca_core.tasks import find_task

SKLEARN = "1.9.1"
"""The version whose data files the digests below are of."""

DIGESTS = {
    "advection-mini": "e4285d4db3ea81bf72eecd430d9d54bb7345dd0f99144fb7cb0447d5c1c87ca6",
    "burgers-mini": "97dc63cc958c80d6d407dc79836cb27f4984a08b2cbf1c334a5570d0ce0bf272",
    "darcy-mini": "cd676c2c64428fc3761524e2fd5a19f54f4de2926402e4cccff6cd447c644fb1",
    "proxy fractals": "028af8f86da4f55102069361d4e00b6025d5594fa4fd6a8060fd0dd5e6de78a1",
    "proxy noise": "2ac04ff05c5e1a884b449a585d474db765bf3ca012718ba1743394f9b4849c09",
}
DIGESTS_WITH_SKLEARN = {
    "digits": "fd7f6e6d4d9124dd6f61aec59253d5d258310d754e4176b1c5fb22a4fca25acc",
    "openml/187": "9cb41714c0336d20bbffc8bf5cc1b3a75ebab33fc487e56efa063e24fbf99296",
    "openml/1510": "a83c5ac1aee1b6dbab46da946f07bee997b39550be6cf869f2bfee1a42fc38c0",
    "proxy photos": "5ac28ebe5be30c09021020e5381688150213f3819b15e10ce56b9839ce7501b5",
}


@pytest.mark.parametrize("name", [*DIGESTS, *DIGESTS_WITH_SKLEARN])
def test_data_is_known_by_the_digest_it_had(name):
    if name in DIGESTS_WITH_SKLEARN and sklearn.__version__ != SKLEARN:
        pytest.skip(f"the data files may be others than those of scikit-learn {SKLEARN}")
    spec = find_proxy(name.removeprefix("proxy ")) if name.startswith("proxy ") else find_task(name)
    assert spec.digest() == {**DIGESTS, **DIGESTS_WITH_SKLEARN}[name]


def test_mnist1d_is_another_task_since_training_rows_alone_scale_it():
    assert find_task("mnist1d").digest() != "5041501e3222e35ba4cde80464335526d6597a3ff68acd1cea23b8a16cb43bca"


def test_files_that_a_user_names_are_known_by_content_loader_and_variant(tmp_path):
    """Digests of one's own data have the loader's first name in them, whatever the module is called now."""
    (tmp_path / "f.csv").write_text("a,b,class\n" + "\n".join(f"{row},{row % 5},{row % 2}" for row in range(40)))
    spec = find_task(f"csv:{tmp_path / 'f.csv'}")
    label = f"task orca_core.tasks.own_tables:load_csv {spec.version} {spec.loss} {spec.score}"
    content = hashlib.sha256((tmp_path / "f.csv").read_bytes()).hexdigest()
    assert spec.digest() == hashlib.sha256(f"{label}{content}".encode()).hexdigest()
