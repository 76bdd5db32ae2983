"""Going where a file is, so that nobody who moves things about can lead us elsewhere.

Only the standard library: the shim has nothing else.
"""

from __future__ import annotations

import os
import stat
from typing import Any


class Refused(Exception):
    """The program is not where it was found."""


def enter(beneath: list[Any]) -> None:
    """Go where a file is, one folder after the other, none of them through a link: between the
    look at a path and its use, whoever may write there could have put a link into it. The folder
    we are in then stays what it is, whatever becomes of its name.

    `beneath`: the root, the folders below it, the file's name, its device and inode, as they were
    found. Raises Refused.
    """
    root, *folders, name, device, inode = beneath
    flags = os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
    here = -1
    try:
        here = os.open(root, flags)
        for folder in folders:
            there = os.open(folder, flags, dir_fd=here)
            os.close(here)
            here = there
        os.fchdir(here)
        found = os.stat(name, dir_fd=here, follow_symlinks=False)
    except OSError as error:
        raise Refused(error.strerror) from None
    finally:
        if here >= 0:
            os.close(here)
    # A link may have got the number of a file that is gone.
    if not stat.S_ISREG(found.st_mode) or [found.st_dev, found.st_ino] != [device, inode]:
        raise Refused("another file has taken its place")
