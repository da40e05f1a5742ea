"""A Hub on 127.0.0.1: the part of the protocol that huggingface_hub, datasets, diffusers and peft speak, and faults.

Large files go by the LFS protocol and are served by a second port, as the real Hub's are by another host. Uploads
by Xet are accepted and thrown away: a test that wants them served has to :meth:`Store.adopt` their content.
"""

from __future__ import annotations

from . import routes  # noqa: F401, registers the answers
from .server import Fault, LoopbackHub, Request

__all__ = ["Fault", "LoopbackHub", "Request"]
