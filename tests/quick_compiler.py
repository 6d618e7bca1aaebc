"""Flags under which XLA compiles most quickly."""

import os
import subprocess
import sys

DEVICES = "--xla_force_host_platform_device_count=8"
# The older way from fused operations to machine code takes a third of the time; one piece of
# machine code a program, where XLA makes one for each core, takes nine tenths.
PLAIN = f"{DEVICES} --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def flags() -> str:
    """Return those flags that this XLA knows; it would end a process that has another."""
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    tried = subprocess.run(command, env=os.environ | {"XLA_FLAGS": PLAIN}, capture_output=True)
    return DEVICES if tried.returncode else PLAIN
