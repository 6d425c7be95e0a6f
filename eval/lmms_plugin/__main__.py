"""lmms-eval's own command line, unchanged, once torchvision is in order.

    python -m eval.lmms_plugin --model block_diffusion_vlm --model_args pretrained=DIR --tasks mmstar --batch_size 8

On a machine whose torchvision fits its torch, ``python -m lmms_eval`` does the same.
"""

import runpy
import sys

from eval.lmms_plugin import check_installed


def main() -> int:
    try:
        check_installed("this command")
    except ValueError as error:
        print("error:", error, file=sys.stderr)
        return 2
    import vision_encoders  # noqa: F401 - mends torchvision on a CPU-only torch, which lmms-eval imports

    runpy.run_module("lmms_eval", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
