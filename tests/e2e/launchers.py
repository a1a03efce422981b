"""How tests start two processes."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
# Port 0: one that is free.
ZERO3 = [*ACCELERATE, "--config-file", str(ROOT / "configs/accelerate/zero3_cpu.yaml"), "--main_process_port", "0"]
