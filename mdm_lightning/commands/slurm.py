"""Requeueing a preempted job on SLURM."""

import logging
import os
import subprocess

log = logging.getLogger(__name__)


def requeue() -> None:
    """Puts the present SLURM job back into the queue; does nothing outside SLURM or in an interactive job.

    SLURM starts the requeued job with the same command: give it ``ckpt=auto`` and a fixed ``run_dir``.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("could not requeue SLURM job %s: %s", job, error)
    else:
        log.info("requeued SLURM job %s", job)
