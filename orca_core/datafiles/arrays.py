"""The expected arrays of a mapping that was unpickled from a published file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_core.datafiles.expected import ArrayForm, form_faults, refuse
from orca_core.datafiles.npz import Header
from orca_core.datafiles.room import require_memory
from orca_core.errors import Fault

if TYPE_CHECKING:
    import numpy as np


def select_arrays(path: Path, found: Any, forms: Iterable[ArrayForm]) -> dict[str, np.ndarray]:
    """The expected arrays of an unpickled mapping; a key with a dot is in a nested mapping.

    Raises:
        DataError: With a line for each array that is missing or has another shape or dtype.
    """
    forms = tuple(forms)
    if not isinstance(found, Mapping):
        expected = "; ".join(form.text for form in forms)
        refuse([Fault("", f"must hold a mapping of {expected}", type(found).__name__, "Is it another version?").text(str(path))])
    flat = dict(_flat(found))
    for form in forms:
        require_memory(path, form.key, 8 * _count_items(flat.get(form.key), {}))
    arrays = {form.key: to_array(flat[form.key]) for form in forms if form.key in flat}
    headers = {key: Header(array.shape, array.dtype) for key, array in arrays.items()}
    for key in flat:
        headers.setdefault(key, Header((), object))  # type: ignore[arg-type]  # only listed in the error, if an expected array is missing
    refuse(fault.text(str(path)) for fault in form_faults(forms, headers))
    return arrays


def to_array(value: Any) -> np.ndarray:
    """An array of numbers or texts if possible, else of objects, one for each item."""
    import numpy as np

    try:
        return np.asarray(value)
    except ValueError:  # items of different lengths
        array = np.empty(len(value), dtype=object)
        array[:] = value
        return array


def _count_items(value: Any, known: dict[int, int]) -> int:
    """How many items the lists in a list hold; each is counted once, as a pickle of a few bytes may hold one list a billion times over."""
    if not isinstance(value, (list, tuple)):
        return 1
    if id(value) not in known:
        known[id(value)] = 0  # a list that holds itself
        known[id(value)] = sum(_count_items(item, known) for item in value)
    return known[id(value)]


def _flat(found: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in found.items():
        name = f"{prefix}{key.decode('latin1') if isinstance(key, bytes) else key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value
