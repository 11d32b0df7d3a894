"""Everything that has to be measured on a CUDA device, in one command: see benchmarks/README.md.

    python benchmarks/gpu.py --json results.json
    python benchmarks/gpu.py --tiny                # the same on a CPU, to see that it runs: its figures mean nothing

Every part is a process with a time limit of its own: one that fails or hangs is reported and ends nothing else. Rows
are in the JSON file as soon as they are there; the Markdown table comes last.
"""

from gpu_check.run import main

if __name__ == "__main__":
    main()
