"""Which store a coordinator has: the state folder's, or the database that its configuration names."""

from pathlib import Path
from typing import TYPE_CHECKING

from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service.databases import PostgresDatabase
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.store import Store

if TYPE_CHECKING:
    from cordee.coordinator.config import Config

__all__ = ["open_store"]


def open_store(config: "Config | None", folder: StateFolder) -> Store:
    """The store. Raises CoordinatorError where it cannot be had."""
    database = config.database if config is not None else None
    if database is None:
        return Store(folder.database)
    try:
        url = Path(database.url_file).read_text()
    except OSError as error:
        raise CoordinatorError(
            f"the database's URL cannot be read from {database.url_file}: {error.strerror}",
            hint="database.urlFile names a file that holds postgresql://user:password@host/database",
        ) from error
    store = Store(PostgresDatabase(url))
    # Also without an election: a coordinator that was thought dead and is not must not write beside this one.
    store.take_over()
    return store
