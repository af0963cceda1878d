"""A folder of data that its owner alone may look into."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)


def make_private(folder: Path) -> None:
    """Makes it with mode 0700, or takes the rights of others away where it is there.

    Left as it is, with a line in the log: what somebody else owns, folders for everybody (sticky, as /tmp), the root
    and a home. Raises OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if not mode & 0o077:
        return
    shared = found.st_uid != os.geteuid() or mode & stat.S_ISVTX or folder.resolve() in (Path("/"), Path.home())
    if not shared:
        try:
            folder.chmod(0o700)
        except OSError as error:
            log.warning("the folder %s has mode %04o, and stays so: %s", folder, mode, error.strerror)
            return
        log.warning("the folder %s had mode %04o: others on this host could use it; it has 0700 now", folder, mode)
        return
    log.warning("the folder %s has mode %04o: others on this host may use it; give it to its owner alone", folder, mode)
