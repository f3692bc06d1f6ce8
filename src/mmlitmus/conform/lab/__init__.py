"""The lab's host side: Debian's kernels in a cache, booted under emulation to an agent that runs programs."""

from .errors import BootError as BootError
from .errors import LabError as LabError
from .errors import MissingError as MissingError
from .lab import Lab as Lab
from .machine import Machine as Machine
from .place import Place as Place
from .session import Booted as Booted
from .session import Outcome as Outcome
from .session import Running as Running
from .session import Session as Session
