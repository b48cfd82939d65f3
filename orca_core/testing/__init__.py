"""Contract suites: what the rest of a trial relies on, as tests, for this project's own plug-ins and for those of other packages.

Subclass one class, set `spec`, and run pytest:

    from orca_core.testing import TaskContract
    from mypackage.tasks import SIGN

    class TestSign(TaskContract):
        spec = SIGN
"""

from orca_core.testing.bodies import BodyContract
from orca_core.testing.distances import DistanceContract
from orca_core.testing.proxies import ProxyContract
from orca_core.testing.tasks import TaskContract

__all__ = ["BodyContract", "DistanceContract", "ProxyContract", "TaskContract"]
