"""Lets PyPI's torchvision import beside a CPU build of torch.

PyPI has only CUDA builds of torchvision. Beside a CPU torch their compiled operators do not load,
and `import torchvision` fails where it registers fakes for two of them ("operator torchvision::nms
does not exist"). Declaring the two operators first is enough for everything the product uses.

script/env.sh installs it where torchvision does not import, and only there, as a .pth file (so that
child processes have it too): this file becomes imagescope_torchvision_hook.py in site-packages,
beside imagescope_torchvision_hook.pth with the line `import imagescope_torchvision_hook`.
"""

import importlib.abc
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _Declare(importlib.abc.MetaPathFinder):
    """Sees `import torchvision` first, declares what is missing, leaves the import to others."""

    library: Any = None

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None and torch.version.hip is None:
                # Kept on the class: the declarations go when the Library object does.
                _Declare.library = torch.library.Library("torchvision", "DEF")
                for name in OPERATORS:
                    _Declare.library.define(name + SIGNATURE)
        return None


sys.meta_path.insert(0, _Declare())
