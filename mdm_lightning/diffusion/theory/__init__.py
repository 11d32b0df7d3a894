"""The paper's energies and how they are computed."""
