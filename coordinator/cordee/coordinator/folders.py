"""Where this user's coordinators keep their state, unless they are told another place."""

from pathlib import Path

__all__ = ["default_state", "newest_runs", "runs_folder"]


def _data_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("cordee", appauthor=False))


def default_state() -> Path:
    """The service's state folder."""
    return _data_folder() / "coordinator"


def runs_folder() -> Path:
    """Where `cordee run` keeps a folder per run."""
    return _data_folder() / "runs"


def newest_runs() -> list[Path]:
    """The folders of `cordee run`s, newest first."""
    try:
        folders = [path for path in runs_folder().iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(folders, key=lambda path: path.name, reverse=True)
