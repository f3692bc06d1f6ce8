"""errno values by name, and names by value (include/uapi/asm-generic/errno-base.h, errno.h)."""

import errno as _errno

EPERM, ENOENT, EINTR, EIO, EAGAIN, ENOMEM, EMLINK, ENOSPC = 1, 2, 4, 5, 11, 12, 31, 28
EACCES, EFAULT, EBUSY, EEXIST, ENODEV, EINVAL, ENOTTY, EOVERFLOW, EOPNOTSUPP = 13, 14, 16, 17, 19, 22, 25, 75, 95


def errno_name(value: int) -> str:
    """``-EFAULT`` for -14; the number itself for what is no error."""
    return f"-{_errno.errorcode[-value]}" if value < 0 else str(value)
