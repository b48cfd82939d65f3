"""The error rates of `sweeper compare`, by simulation: `families.py`, which says what is simulated, under the name that the docs use.

    python benchmarks/statistics.py                      # all tables, some minutes
    python benchmarks/statistics.py --families 2000 --case normal

Scripts of this folder, and the libraries that they import, find this file when they ask for the standard library's module `statistics`.
They are given that module.
"""

import importlib.util
import sys
import sysconfig

if __name__ == "statistics":
    spec = importlib.util.spec_from_file_location(__name__, f"{sysconfig.get_path('stdlib')}/statistics.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
elif __name__ == "__main__":
    from families import main

    sys.exit(main())
