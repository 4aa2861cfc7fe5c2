"""StarCore: heavy numpy work from a laptop, through one public machine, to workers anywhere.

::

    import starcore

    future = starcore.submit_array(fn, array)      # fn(array), on a worker; the array travels uncopied
    answer = future.result()

Every name here is loaded at its first use (PEP 562), since ``python -m starcore.manager`` runs this file too and
the manager imports neither numpy nor pickle.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starcore.client.api import Client
    from starcore.client.jobs import DetachedJob
    from starcore.default import connect, map, put, run, story, submit, submit_array
    from starcore.errors import (
        AddressError,
        ArgumentTypeError,
        ArgumentValueError,
        CrashError,
        CredentialsError,
        LinkError,
        LoadError,
        MisuseError,
        ProtocolError,
        RefusedError,
        RemoteTraceback,
        ResultError,
        SessionLostError,
        SetupError,
        StarCoreError,
        StoredJobError,
        TaskError,
        TaskFailure,
        TaskMemoryError,
        TaskTimeoutError,
        UnconfiguredError,
        UnreachableError,
        UnrunnableError,
        UntrustedError,
    )
    from starcore.local import LocalStar
    from starcore.references import Ref
    from starcore.worker.supervisor import Worker

__version__ = "0.1.0"

__all__ = [
    "AddressError",
    "ArgumentTypeError",
    "ArgumentValueError",
    "Client",
    "CrashError",
    "CredentialsError",
    "DetachedJob",
    "LinkError",
    "LoadError",
    "LocalStar",
    "MisuseError",
    "ProtocolError",
    "Ref",
    "RefusedError",
    "RemoteTraceback",
    "ResultError",
    "SessionLostError",
    "SetupError",
    "StarCoreError",
    "StoredJobError",
    "TaskError",
    "TaskFailure",
    "TaskMemoryError",
    "TaskTimeoutError",
    "UnconfiguredError",
    "UnreachableError",
    "UnrunnableError",
    "UntrustedError",
    "Worker",
    "__version__",
    "connect",
    "map",
    "put",
    "run",
    "story",
    "submit",
    "submit_array",
]

_ROOMS = {
    "starcore.client.api": ("Client",),
    "starcore.client.jobs": ("DetachedJob",),
    "starcore.default": ("connect", "map", "put", "run", "story", "submit", "submit_array"),
    "starcore.local": ("LocalStar",),
    "starcore.references": ("Ref",),
    "starcore.worker.supervisor": ("Worker",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'starcore' has no attribute {name!r}")
    value = getattr(import_module(_ROOM_OF.get(name, "starcore.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
